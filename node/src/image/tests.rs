//! Pulls from a registry that does what a test tells it to, over real sockets.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::pull::PullError;
use super::*;

/// What a registry does with one request for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Answers in full, or the part that is asked for.
    Kind,
    /// Ends the connection in the middle of the blob.
    BreaksOff,
    /// Knows no parts.
    WithoutRanges,
    /// Sends something else of the same length.
    Lies,
    /// Sends more than there is.
    SaysMore,
    /// Has too much to do.
    Busy,
}

/// An image and what is asked about it.
#[derive(Debug, Default)]
struct Shelf {
    documents: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
    moods: VecDeque<Mood>,
    /// The header that lets clients in, if they need one.
    access: Option<String>,
    challenge: String,
    /// Heads of all requests.
    asked: Vec<String>,
}

/// A registry on loopback.
struct Stub {
    shelf: Arc<Mutex<Shelf>>,
    address: std::net::SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len())
            .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

impl Stub {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let serving = tokio::spawn({
            let shelf = Arc::clone(&shelf);
            async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let shelf = Arc::clone(&shelf);
                    tokio::spawn(async move {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            head.push(stream.read_u8().await?);
                        }
                        let bytes = Self::decide(&shelf, &String::from_utf8_lossy(&head));
                        stream.write_all(&bytes).await?;
                        stream.shutdown().await
                    });
                }
            }
        });
        Self { shelf, address, serving }
    }

    fn decide(shelf: &Mutex<Shelf>, head: &str) -> Vec<u8> {
        let mut shelf = shelf.lock().expect("no test holds it");
        shelf.asked.push(head.to_owned());
        let path = head.split(' ').nth(1).unwrap_or_default();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
                .map(|(_, v)| v)
        };
        if path.starts_with("/token") {
            return match header("authorization") {
                Some("Basic dTpw") => answer("200 OK", "", br#"{"access_token": "t0"}"#),
                _ => answer("401 Unauthorized", "", br#"{"errors": [{"message": "who are you"}]}"#),
            };
        }
        if let Some(access) = &shelf.access
            && header("authorization") != Some(access)
        {
            let challenge = format!("www-authenticate: {}\r\n", shelf.challenge);
            return answer("401 Unauthorized", &challenge, b"");
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/manifests/") {
            return match shelf.documents.get(last) {
                Some((kind, bytes)) => answer("200 OK", &format!("content-type: {kind}\r\n"), bytes),
                None => answer("404 Not Found", "", br#"{"errors": [{"message": "manifest unknown"}]}"#),
            };
        }
        let Some(blob) = shelf.blobs.get(last).cloned() else { return answer("404 Not Found", "", b"") };
        let from = header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match shelf.moods.pop_front().unwrap_or(Mood::Kind) {
            Mood::Kind => match from {
                None => answer("200 OK", "", &blob),
                Some(from) => {
                    let range = format!("content-range: bytes {from}-{}/{}\r\n", blob.len() - 1, blob.len());
                    answer("206 Partial Content", &range, &blob[from..])
                }
            },
            Mood::BreaksOff => {
                let begin = from.unwrap_or(0);
                let (status, range) = match from {
                    None => ("200 OK", String::new()),
                    Some(_) => (
                        "206 Partial Content",
                        format!("content-range: bytes {begin}-{}/{}\r\n", blob.len() - 1, blob.len()),
                    ),
                };
                let mut whole = answer(status, &range, &blob[begin..]);
                whole.truncate(whole.len() - (blob.len() - begin).div_ceil(2));
                whole
            }
            Mood::WithoutRanges => answer("200 OK", "", &blob),
            Mood::Lies => answer("200 OK", "", &vec![b'x'; blob.len()]),
            Mood::SaysMore => answer("200 OK", "", &[&blob[..], b"more"].concat()),
            Mood::Busy => answer("503 Service Unavailable", "", b"later"),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("no test holds it")
    }

    /// Puts an image of one layer on the shelf, and returns its digest and that of its layer.
    fn put(
        &self,
        tag: &str,
        layer: &[u8],
        change: impl FnOnce(&mut oci::Manifest, &mut oci::Config),
    ) -> (Digest, Digest) {
        let digest = blob::of(layer);
        let mut config = oci::Config {
            architecture: oci::architecture().to_owned(),
            os: "linux".to_owned(),
            config: oci::Execution { entrypoint: Some(vec!["/run".to_owned()]), ..oci::Execution::default() },
            rootfs: oci::RootFs { kind: "layers".to_owned(), diff_ids: vec![digest.to_string()] },
        };
        let mut manifest = oci::Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST.to_owned()),
            config: oci::Descriptor::new(oci::CONFIG, &digest, 0),
            layers: vec![oci::Descriptor::new(oci::LAYER, &digest, layer.len() as u64)],
        };
        change(&mut manifest, &mut config);
        let config = serde_json::to_vec(&config).expect("it is plain data");
        let config_digest = blob::of(&config);
        manifest.config = oci::Descriptor::new(&manifest.config.media_type, &config_digest, config.len() as u64);
        let manifest = serde_json::to_vec(&manifest).expect("it is plain data");
        let image = blob::of(&manifest);
        let mut shelf = self.shelf();
        shelf.blobs.insert(digest.to_string(), layer.to_vec());
        shelf.blobs.insert(config_digest.to_string(), config);
        for version in [tag.to_owned(), image.to_string()] {
            shelf.documents.insert(version, (oci::MANIFEST.to_owned(), manifest.clone()));
        }
        (image, digest)
    }

    fn reference(&self, version: &str) -> Reference {
        format!("{}/app{version}", self.address).parse().expect("it is one")
    }

    async fn pull(&self, store: &Store, version: &str) -> Result<Built, PullError> {
        store.pull(&self.reference(version), Arc::new(|_| ())).await
    }

    /// Returns how often blobs were asked for, and how often for a part of one.
    fn blobs_asked(&self) -> (usize, usize) {
        let shelf = self.shelf();
        let blobs = shelf.asked.iter().filter(|head| head.contains("/blobs/"));
        let parts = blobs.clone().filter(|head| head.to_ascii_lowercase().contains("\r\nrange: "));
        (blobs.count(), parts.count())
    }
}

fn layer(content: &[u8]) -> Vec<u8> {
    let mut layer = layer::Layer::default();
    layer.add("run", layer::Content::Bytes(content.to_vec()), true);
    let mut bytes = Vec::new();
    layer.write(&mut bytes).expect("memory takes everything");
    bytes
}

fn store(settings: Settings) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let store = Store::open(folder.path(), settings).expect("an empty folder is a store");
    (folder, store)
}

/// Returns how much is left of what was being done.
fn half_done(folder: &Path) -> usize {
    let count = |path: &str| fs::read_dir(folder.join(path)).expect("it is there").count();
    count("blobs/unfinished") + count("work")
}

/// Waits until nothing is half-done: threads that write end on their own.
async fn settled(folder: &Path) {
    let start = std::time::Instant::now();
    while half_done(folder) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "something is left half-done");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_pull_brings_everything_once() {
    let (stub, (folder, store)) = (Stub::new().await, store(Settings::default()));
    let (image, _) = stub.put("1", &layer(b"text"), |_, _| ());
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let progress: PullProgress = Arc::new(move |step| told.lock().expect("no test holds it").push(step));
    let built = store.pull(&stub.reference(":1"), progress).await.expect("it is there");
    assert_eq!((built.image, built.reused), (image, false));
    let last = steps.lock().expect("no test holds it").last().cloned().expect("progress was told");
    assert_eq!(Some(last.done), last.total);
    let root = store.rootfs(&image).await.expect("it is unpacked");
    let run = root.layers[0].join("run");
    assert_eq!(fs::read(&run).expect("it is there"), b"text");
    assert_eq!(fs::metadata(run).expect("it is there").permissions().mode() & 0o777, 0o755);
    let before = stub.blobs_asked();
    let again = stub.pull(&store, ":1").await.expect("it is there");
    assert_eq!((again.image, again.reused, stub.blobs_asked()), (image, true, before));
    // By its digest nothing at all is asked the second time.
    let by_digest = format!("@{image}");
    stub.pull(&store, &by_digest).await.expect("it is there");
    let asked = stub.shelf().asked.len();
    assert!(stub.pull(&store, &by_digest).await.expect("it is there").reused);
    assert_eq!(stub.shelf().asked.len(), asked);
    settled(folder.path()).await;
}

#[tokio::test]
async fn a_tag_that_moved_leads_to_the_other_image_and_the_first_one_stays() {
    let (stub, (_folder, store)) = (Stub::new().await, store(Settings::default()));
    let (first, _) = stub.put("1", &layer(b"first"), |_, _| ());
    stub.pull(&store, ":1").await.expect("it is there");
    let (second, _) = stub.put("1", &layer(b"second"), |_, _| ());
    let name = stub.reference(":1").to_string();
    assert_eq!(store.named(&name), Some(first), "the name stays until somebody pulls");
    let built = stub.pull(&store, ":1").await.expect("it is there");
    assert_eq!((built.image, built.reused, store.named(&name)), (second, false, Some(second)));
    assert!(store.has(&first));
    let report = store.sweep(BTreeSet::from([first])).await.expect("nothing is under way");
    assert_eq!(report.images, 0, "the one is live, the other named");
    let report = store.sweep(BTreeSet::new()).await.expect("nothing is under way");
    assert_eq!((report.images, store.has(&first), store.has(&second)), (1, false, true));
    store.rootfs(&second).await.expect("all of it is still there");
}

#[tokio::test]
async fn a_blob_that_breaks_off_goes_on_where_it_broke() {
    let (stub, (folder, store)) = (Stub::new().await, store(Settings::default()));
    let (image, _) = stub.put("1", &layer(&[b'a'; 300_000]), |_, _| ());
    // The config comes whole, the layer in three parts, with a busy registry in between.
    stub.shelf().moods = [Mood::Kind, Mood::BreaksOff, Mood::Busy, Mood::BreaksOff, Mood::Kind].into();
    assert_eq!(stub.pull(&store, ":1").await.expect("it comes in the end").image, image);
    assert_eq!(stub.blobs_asked(), (5, 3));
    store.rootfs(&image).await.expect("it is what it must be");
    settled(folder.path()).await;
}

#[tokio::test]
async fn a_registry_without_ranges_sends_everything_again() {
    let (stub, (_folder, store)) = (Stub::new().await, store(Settings::default()));
    let (image, _) = stub.put("1", &layer(&[b'a'; 300_000]), |_, _| ());
    stub.shelf().moods = [Mood::Kind, Mood::BreaksOff, Mood::WithoutRanges].into();
    assert_eq!(stub.pull(&store, ":1").await.expect("it comes in the end").image, image);
}

#[tokio::test]
async fn a_pull_that_breaks_off_leaves_no_half_and_the_next_goes_on() {
    let (stub, (folder, store)) = (Stub::new().await, store(Settings::default()));
    let (image, _) = stub.put("1", &layer(&[b'a'; 300_000]), |_, _| ());
    stub.shelf().moods = std::iter::once(Mood::Kind).chain([Mood::BreaksOff; 5]).collect();
    let error = stub.pull(&store, ":1").await.expect_err("it never comes");
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
    settled(folder.path()).await;
    assert!(store.list().is_empty() && store.named(&stub.reference(":1").to_string()).is_none());
    let asked = stub.blobs_asked().0;
    assert_eq!(stub.pull(&store, ":1").await.expect("it comes").image, image);
    assert_eq!(stub.blobs_asked().0, asked + 1, "the config was there already");

    // Given up by whoever asked, in the middle of the layer.
    let (_, other) = stub.put("2", &layer(&[b'b'; 300_000]), |_, _| ());
    let blob = stub.shelf().blobs.remove(&other.to_string());
    stub.shelf().moods = [Mood::Busy; 2].into();
    tokio::select! {
        ended = stub.pull(&store, ":2") => panic!("it ended: {ended:?}"),
        () = async { while stub.shelf().moods.len() > 1 { tokio::task::yield_now().await } } => {}
    }
    settled(folder.path()).await;
    assert!(blob.is_some() && store.list().len() == 1);
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_refused() {
    for (mood, is_corrupt) in [(Mood::Lies, true), (Mood::SaysMore, false)] {
        let (stub, (folder, store)) = (Stub::new().await, store(Settings::default()));
        stub.put("1", &layer(b"text"), |_, _| ());
        stub.shelf().moods = [Mood::Kind, mood].into();
        let error = stub.pull(&store, ":1").await.expect_err("it is damaged");
        assert_eq!(matches!(error, PullError::Corrupt { .. }), is_corrupt, "{error:?}");
        settled(folder.path()).await;
        assert!(store.list().is_empty());
    }
    let (stub, (_folder, store)) = (Stub::new().await, store(Settings::default()));
    let (image, _) = stub.put("1", &layer(b"text"), |_, _| ());
    let other = stub.put("2", &layer(b"other"), |_, _| ()).0;
    let swapped = stub.shelf().documents[&other.to_string()].clone();
    stub.shelf().documents.insert(image.to_string(), swapped);
    let error = stub.pull(&store, &format!(":1@{image}")).await.expect_err("it is another");
    assert!(
        matches!(error, PullError::Corrupt { expected, actual } if (expected, actual) == (image, other)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_layer_that_holds_other_files_than_the_config_says_is_refused() {
    let (stub, (folder, store)) = (Stub::new().await, store(Settings::default()));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&layer(b"text")).expect("memory takes it");
    let gzip = gzip.finish().expect("memory takes it");
    stub.put("1", &gzip, |_, config| config.rootfs.diff_ids = vec![blob::of(b"other").to_string()]);
    let error = stub.pull(&store, ":1").await.expect_err("it is another");
    let is_told = matches!(&error, PullError::Layer(RootfsError::Layer { source: UnpackError::Digest { .. }, .. }));
    assert!(is_told, "{error:?}");
    settled(folder.path()).await;
    assert!(store.list().is_empty());
    let (image, _) =
        stub.put("2", &gzip, |_, config| config.rootfs.diff_ids = vec![blob::of(&layer(b"text")).to_string()]);
    assert_eq!(stub.pull(&store, ":2").await.expect("it is as it says").image, image);
}

#[tokio::test]
async fn images_over_a_limit_are_refused_before_their_blobs_come() {
    let (stub, (_folder, store)) = (Stub::new().await, store(Settings { image_max: 10_000, ..Settings::default() }));
    let limit = async |version: &str| match stub.pull(&store, version).await {
        Err(PullError::Limit { what, .. }) => what,
        other => panic!("no limit refused it: {other:?}"),
    };
    stub.put("large", &layer(&[b'a'; 20_000]), |_, _| ());
    assert_eq!(limit(":large").await, "bytes in its layers (build.image-max)");
    stub.put("many", &layer(b"a"), |manifest, _| manifest.layers = vec![manifest.layers[0].clone(); 128]);
    assert_eq!(limit(":many").await, "layers");
    let kind = "application/vnd.oci.image.index.v1+json".to_owned();
    let huge = vec![b' '; 5 << 20];
    stub.shelf().documents.insert("huge".to_owned(), (kind, huge));
    assert_eq!(limit(":huge").await, "bytes of a manifest");
    assert_eq!(stub.blobs_asked().0, 0);
}

#[tokio::test]
async fn what_is_no_image_for_this_machine_is_told() {
    let (stub, (_folder, store)) = (Stub::new().await, store(Settings::default()));
    let (image, _) = stub.put("1", &layer(b"text"), |_, _| ());
    let entry = |os: &str, architecture: &str, digest: &str| {
        serde_json::json!({"mediaType": oci::MANIFEST, "digest": digest, "size": 1,
            "platform": {"os": os, "architecture": architecture}})
    };
    let index = |tag: &str, entries: serde_json::Value, more: serde_json::Value| {
        let mut document = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        document.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        let bytes = serde_json::to_vec(&document).expect("it is plain data");
        stub.shelf().documents.insert(tag.to_owned(), ("application/json".to_owned(), bytes));
    };
    let other = blob::of(b"other").to_string();
    let own = entry("linux", oci::architecture(), &image.to_string());
    index(
        "both",
        serde_json::json!([entry("windows", "amd64", &other), entry("linux", "s390x", &other), own]),
        serde_json::json!({}),
    );
    assert_eq!(stub.pull(&store, ":both").await.expect("one of them fits").image, image);
    index("none", serde_json::json!([entry("linux", "s390x", &other)]), serde_json::json!({}));
    let error = stub.pull(&store, ":none").await.expect_err("none fits").to_string();
    assert!(error.contains("only for linux/s390x"), "{error}");
    index("two", serde_json::json!([own]), serde_json::json!({"layers": [], "config": {}}));
    let error = stub.pull(&store, ":two").await.expect_err("it is two things").to_string();
    assert!(error.contains("an index and a manifest at once"), "{error}");
    stub.put("chart", &layer(b"a"), |manifest, _| {
        manifest.config.media_type = "application/vnd.cncf.helm.config.v1+json".to_owned()
    });
    let error = stub.pull(&store, ":chart").await.expect_err("it is no image").to_string();
    assert!(error.contains("helm"), "{error}");
    let error = stub.pull(&store, ":missing").await.expect_err("there is none");
    assert!(matches!(&error, PullError::NotFound { reason, .. } if reason == "manifest unknown"), "{error:?}");
}

#[tokio::test]
async fn a_registry_lets_in_who_shows_what_it_asks_for() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let file = folder.path().join("config.json");
    let stub = Stub::new().await;
    stub.put("1", &layer(b"text"), |_, _| ());
    let known = serde_json::json!({"auths": {stub.address.to_string(): {"auth": "dTpw"}}});
    fs::write(&file, known.to_string()).expect("it can be written");
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"r\",scope=\"repository:app:pull\"", stub.address);
    for (access, challenge) in [("Basic dTpw", "Basic realm=\"r\""), ("Bearer t0", &realm)] {
        stub.shelf().access = Some(access.to_owned());
        stub.shelf().challenge = challenge.to_owned();
        let (_folder, stranger) = store(Settings::default());
        let error = stub.pull(&stranger, ":1").await.expect_err("it knows nobody");
        assert!(matches!(error, PullError::Denied { .. }), "{error:?}");
        let (_folder, friend) = store(Settings { auth_file: Some(file.clone()), ..Settings::default() });
        stub.pull(&friend, ":1").await.expect("it shows what is asked for");
    }
    let shelf = stub.shelf();
    let asked = shelf.asked.iter().find(|head| head.contains("/token?")).expect("a token was asked for");
    assert!(asked.contains("service=r") && asked.contains("scope=repository%3Aapp%3Apull"), "{asked}");
}

#[tokio::test]
async fn a_layout_is_imported_with_the_same_checks() {
    let (folder, store) = store(Settings::default());
    let layout = tempfile::tempdir().expect("a directory can be made");
    let (stub, blobs) = (Stub::new().await, layout.path().join("blobs/sha256"));
    let (image, digest) = stub.put("1", &layer(b"text"), |_, _| ());
    fs::create_dir_all(&blobs).expect("it can be made");
    let write = |path: &str, bytes: &[u8]| fs::write(layout.path().join(path), bytes).expect("it can be written");
    for (digest, bytes) in &stub.shelf().blobs {
        write(&format!("blobs/{}", digest.replace(':', "/")), bytes);
    }
    let manifest = stub.shelf().documents["1"].1.clone();
    write(&format!("blobs/sha256/{}", image.hex()), &manifest);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": oci::MANIFEST, "digest": image.to_string(),
        "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "v1"}}]});
    write("index.json", index.to_string().as_bytes());
    let import = async |tag: Option<&str>| store.import(layout.path(), tag, Some("app:v1"), Arc::new(|_| ())).await;
    let error = import(None).await.expect_err("it is no layout yet").to_string();
    assert!(error.contains("no oci-layout"), "{error}");
    write("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);

    // A link of the layout leads nowhere, also where it leads to what is wanted.
    let path = blobs.join(digest.hex());
    let aside = layout.path().join("aside");
    fs::rename(&path, &aside).expect("it can be moved");
    std::os::unix::fs::symlink(&aside, &path).expect("a link can be made");
    assert!(matches!(import(None).await, Err(PullError::Invalid { .. })));
    fs::remove_file(&path).expect("it is there");
    fs::write(&path, b"other").expect("it can be written");
    assert!(matches!(import(None).await, Err(PullError::Corrupt { .. })));
    assert!(store.list().is_empty());
    fs::rename(&aside, &path).expect("it can be moved");

    assert!(matches!(import(Some("v2")).await, Err(PullError::NotFound { .. })));
    for tag in [Some("v1"), None] {
        assert_eq!(import(tag).await.expect("it is whole").image, image);
    }
    assert_eq!(store.named("app:v1"), Some(image));
    settled(folder.path()).await;
}
