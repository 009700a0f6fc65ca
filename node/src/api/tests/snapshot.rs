//! Backups over the API: out of one node, into another.

use control_plane::model::{Digest, NodeId};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::client::PATIENCE;
use super::*;
use crate::backup;
use crate::image::ImageFile;

/// Puts a file into the node that is the whole of an image, and returns the image.
fn image_in(fixture: &Fixture, content: &[u8]) -> Digest {
    let digest = Digest::from_bytes(Sha256::digest(content).into());
    let path = fixture.api.uploads.join("blob");
    std::fs::write(&path, content).unwrap();
    let file = ImageFile { digest, size_bytes: content.len() as u64, path };
    fixture.fake.files.lock().unwrap().insert(digest, vec![file]);
    digest
}

/// A node that has deployed a function of this image.
async fn deployed(image: Digest) -> Fixture {
    let fixture = Fixture::new().await;
    let mut spec = samples::function_spec();
    spec.revision.image = Some(image.to_string());
    fixture.deployed(&[spec]).await;
    fixture
}

#[tokio::test]
async fn what_is_defined_comes_back_in_another_cluster_and_its_nodes_do_not() {
    let image = Digest::from_bytes([7; 32]);
    let old = deployed(image).await;
    let spec = old.fake.state.lock().unwrap().nodes[&NodeId(1)].spec.clone();
    old.fake.apply(Command::RegisterNode { node: NodeId(2), spec }).unwrap();
    let saved = old.call("GET", "/v1/snapshot", "").await;
    assert_eq!((saved.status, saved.header("content-type")), (200, Some("application/octet-stream")));
    let read = backup::read(&saved.body[..], &mut |_, _| panic!("no image was asked for")).unwrap();
    let told = backup::summary(&read);
    assert_eq!((told.nodes, told.apps, told.functions, told.revisions), (2, 1, 1, 1));
    assert_eq!(told.images[0].used_by, ["resize@1"]);
    assert_eq!(told.cluster, "0f".repeat(16));

    let new = Fixture::new().await;
    *new.fake.lost.lock().unwrap() = Some(image);
    let restored = new.call("PUT", "/v1/snapshot", saved.body.clone()).await;
    let told = restored.json();
    assert_eq!((restored.status, &told["functions"]), (200, &1.into()), "{told}");
    assert_eq!(told["missing"], json!([{"image": image.to_string(), "used_by": ["resize@1"]}]));
    {
        let (new, old) = (new.fake.state.lock().unwrap(), old.fake.state.lock().unwrap());
        assert_eq!((&new.apps, &new.functions), (&old.apps, &old.functions));
        assert_eq!(new.nodes.len(), 1, "nodes of the old cluster do not come back");
        assert!(new.index > old.index, "indexes go on where they were");
    }
    let functions = new.call("GET", "/v1/functions", "").await.json();
    assert_eq!((&functions[0]["name"], &functions[0]["live"]), (&"resize".into(), &1.into()));
    let again = new.call("PUT", "/v1/snapshot", saved.body).await.error();
    assert_eq!((again.0, again.1.error.as_str()), (409, "something was deployed here before"));
    assert!(again.1.hint.unwrap().contains("empty data directory"));
    assert_eq!(std::fs::read_dir(&*new.api.uploads).unwrap().count(), 0, "nothing is left of the upload");
}

#[tokio::test]
async fn images_are_taken_along_when_they_are_asked_for() {
    let image = image_in(&Fixture::new().await, b"a manifest");
    let old = deployed(image).await;
    image_in(&old, b"a manifest");
    let saved = old.call("GET", "/v1/snapshot?images=1", "").await.body;
    let mut blobs = Vec::new();
    let read = backup::read(&saved[..], &mut |digest, content| {
        let mut text = String::new();
        content.read_to_string(&mut text)?;
        blobs.push((*digest, text));
        Ok(())
    });
    assert_eq!(blobs, [(image, "a manifest".to_owned())]);
    let told = backup::summary(&read.unwrap());
    assert_eq!((told.images[0].included, told.images[0].size_bytes), (true, Some(10)));
    let new = Fixture::new().await;
    let told = new.call("PUT", "/v1/snapshot", saved).await.json();
    assert_eq!(told["missing"], json!([]));
    assert_eq!(*new.fake.taken.lock().unwrap(), [(image, b"a manifest".to_vec())]);
    assert_eq!(old.call("GET", "/v1/snapshot?image=1", "").await.error().0, 400);
    *old.fake.unreadable.lock().unwrap() = Some("the disk fails");
    let (status, error) = old.call("GET", "/v1/snapshot?images=1", "").await.error();
    assert_eq!((status, error.error.as_str()), (500, "the disk fails"), "only what nobody has is left out");
    assert_eq!(old.call("GET", "/v1/snapshot", "").await.status, 200, "without images none is read");
}

#[tokio::test]
async fn an_image_that_is_left_out_has_the_size_that_the_node_knows() {
    let old = deployed(Digest::from_bytes([7; 32])).await;
    for (path, size_bytes) in [("/v1/snapshot", Some(12)), ("/v1/snapshot?images=1", None)] {
        let saved = old.call("GET", path, "").await.body;
        let told = backup::summary(&backup::read(&saved[..], &mut |_, _| Ok(())).unwrap());
        assert_eq!((told.images[0].included, told.images[0].size_bytes), (false, size_bytes), "{path}");
    }
}

#[tokio::test]
async fn where_something_was_deployed_a_backup_is_refused_and_its_sender_hears_why() {
    let used = deployed(Digest::from_bytes([7; 32])).await;
    let mut stream = UnixStream::connect(&used.socket).await.unwrap();
    // More than is read of other bodies that are refused.
    let (piece, pieces) = (vec![0; 1 << 20], 8);
    let length = piece.len() * pieces;
    let head = format!("PUT /v1/snapshot HTTP/1.1\r\nhost: hearth\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..pieces {
        stream.write_all(&piece).await.expect("it is read to its end");
    }
    let mut answer = [0; 12];
    let reading = stream.read_exact(&mut answer);
    tokio::time::timeout(PATIENCE, reading).await.expect("it answers in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 409");
    assert_eq!(std::fs::read_dir(&*used.api.uploads).unwrap().count(), 0, "nothing of it is kept");
}

#[tokio::test]
async fn a_backup_that_rotted_on_the_node_breaks_off() {
    let image = image_in(&Fixture::new().await, b"a manifest");
    let old = deployed(image).await;
    image_in(&old, b"a manifest");
    std::fs::write(old.api.uploads.join("blob"), b"a monifest").unwrap();
    let mut body = old.request("GET", "/v1/snapshot?images=1", "").await.into_body();
    let mut frames = std::iter::from_fn(|| Some(())).take(1_000);
    let broke = loop {
        frames.next().expect("it ends");
        match http_body_util::BodyExt::frame(&mut body).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broke, "a stream that is not whole does not end well");
}

#[tokio::test]
async fn what_is_damaged_changes_nothing() {
    let saved = deployed(Digest::from_bytes([7; 32])).await.call("GET", "/v1/snapshot", "").await.body;
    let new = Fixture::new().await;
    let before = new.fake.state.lock().unwrap().clone();
    let mut damaged = saved.clone();
    let last = damaged.len() - 50;
    damaged[last] ^= 1;
    let mut newer = saved.clone();
    newer[8] = 9;
    for (body, code, told) in [
        (damaged, ErrorCode::VerificationFailed, "damaged"),
        (saved[..saved.len() - 1].to_vec(), ErrorCode::VerificationFailed, "cut off"),
        (newer, ErrorCode::BadRequest, "format 9"),
        (b"a tar".to_vec(), ErrorCode::BadRequest, "no backup"),
        (Vec::new(), ErrorCode::BadRequest, "no backup"),
    ] {
        let (_, error) = new.call("PUT", "/v1/snapshot", body).await.error();
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.error.contains(told) && error.hint.is_some(), "{error:?}");
    }
    assert_eq!(*new.fake.state.lock().unwrap(), before);
    *new.fake.behind.lock().unwrap() = Some("no leader with a quorum");
    assert_eq!(new.call("PUT", "/v1/snapshot", saved).await.error().0, 503);
    assert_eq!(new.call("GET", "/v1/snapshot", "").await.error().0, 503);
}
