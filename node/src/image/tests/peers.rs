//! Images from peers: whatever one of them does, what comes is what was asked for, or nothing.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use control_plane::model::{Digest, NodeId};
use futures_util::FutureExt;
use proto::v1::images_client::ImagesClient;
use proto::v1::{BlobRequest, HasRequest};
use tonic::Code;
use tonic::transport::Endpoint;

use super::scripted::{Known, Mood, Peer, Script};
use super::*;

/// Larger than several chunks.
const LARGE: usize = 1_500_000;

/// No peer of these tests needs long to answer; only those that never do are waited for.
fn hasty() -> Settings {
    let peer = PeerLimits {
        silence_max: Duration::from_secs(2),
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(10),
        ..PeerLimits::default()
    };
    Settings { peer, ..Settings::default() }
}

async fn fetch(store: &Store, image: &Digest, peers: &Known) -> Result<Built, Arc<PullError>> {
    store.fetch(image, peers, Arc::new(|_| ())).await
}

fn said(result: Result<Built, Arc<PullError>>) -> String {
    match result {
        Err(error) if matches!(*error, PullError::Peers { .. } | PullError::PeersSlow { .. }) => error.to_string(),
        other => panic!("the peers are not to blame: {other:?}"),
    }
}

/// Returns whether an image that does not come is one that nobody has.
async fn is_nowhere(store: &Store, image: &Digest, peers: &Known) -> bool {
    match &*fetch(store, image, peers).await.expect_err("it does not come") {
        PullError::Peers { is_nowhere, .. } => *is_nowhere,
        other => panic!("the peers are not to blame: {other:?}"),
    }
}

/// Two peers with the same image of one large layer, and a node that has nothing.
struct Three {
    script: Arc<Script>,
    first: Peer,
    second: Peer,
    folder: tempfile::TempDir,
    store: Store,
    image: Digest,
    layer: Digest,
}

impl Three {
    async fn start(settings: Settings) -> Self {
        let script = Arc::new(Script::default());
        let (first, second) = (Peer::start(1, &script).await, Peer::start(2, &script).await);
        let layer = layer(&[b'a'; LARGE]);
        let image = first.image(std::slice::from_ref(&layer));
        assert_eq!(second.image(std::slice::from_ref(&layer)), image);
        let (folder, store) = store(settings);
        Self { script, first, second, folder, store, image, layer: blob::of(&layer) }
    }

    fn peers(&self) -> Known {
        Known::from([&self.first, &self.second])
    }

    /// Says what peers do with requests for the layer; manifest and config come before it.
    fn script<const N: usize>(&self, moods: [Mood; N]) {
        self.script.set([Mood::Kind; 2]);
        self.script.moods().extend(moods);
    }

    /// Fetches the image, and returns who was asked for its layer, and from which offset.
    async fn come(&self) -> Vec<(NodeId, u64)> {
        let built = fetch(&self.store, &self.image, &self.peers()).await.expect("it comes in the end");
        assert_eq!((built.image, built.reused), (self.image, false));
        let root = self.store.rootfs(&self.image).await.expect("it is unpacked");
        assert_eq!(fs::read(root.layers[0].join("run")).expect("it is there"), [b'a'; LARGE]);
        settled(self.folder.path()).await;
        self.script.asked(&self.layer)
    }

    /// Fails to fetch the image, and returns what the peers said.
    async fn fail(&self) -> String {
        let said = said(fetch(&self.store, &self.image, &self.peers()).await);
        settled(self.folder.path()).await;
        assert!(!self.store.has(&self.image) && !self.store.blobs().has(&self.layer), "nothing was kept of it");
        said
    }
}

#[tokio::test]
async fn an_image_goes_from_peer_to_peer() {
    let script = Arc::new(Script::default());
    let peers = [Peer::start(1, &script).await, Peer::start(2, &script).await, Peer::start(3, &script).await];
    let [first, second, third] = &peers;
    let layers = [layer(&[b'a'; LARGE]), layer(b"text")];
    let image = first.image(&layers);
    first.store.mark_captured(&blob::of(&layers[0])).expect("there is room");
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let progress: PullProgress = Arc::new(move |step| told.lock().expect("no test holds it").push(step));
    let built = second.store.fetch(&image, &Known::from([first, third]), progress).await.expect("one has it");
    assert_eq!((built.image, built.reused, second.store.has(&image)), (image, false, true));
    let last = steps.lock().expect("no test holds it").last().cloned().expect("progress was told");
    assert_eq!(Some(last.done), last.total);
    let (came, went) = (second.store.peer_traffic().fetched_bytes(), first.store.peer_traffic().served_bytes());
    assert_eq!(came, went);
    assert_eq!(came, second.store.size_bytes().expect("it can be read"), "each byte came once");

    let root = third.store.rootfs_or_fetch(&image, &Known::from([second])).await.expect("the second has it now");
    assert_eq!(fs::read(root.layers[1].join("run")).expect("it is there"), b"text");
    assert!(root.captured.is_empty(), "what comes from elsewhere was not captured here");
    let first_root = first.store.rootfs(&image).await.expect("it is there");
    assert_eq!(first_root.captured, first_root.layers[..1]);
    let before = second.store.peer_traffic().served_bytes();
    third.store.rootfs_or_fetch(&image, &Known::from([second])).await.expect("it is there");
    let again = fetch(&third.store, &image, &Known::from([second])).await.expect("it is there");
    assert_eq!((again.reused, second.store.peer_traffic().served_bytes()), (true, before));
    for peer in &peers {
        settled(peer.folder.path()).await;
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_goes_on_at_another_peer() {
    let three = Three::start(hasty()).await;
    three.script([Mood::BreaksOff]);
    let asked = three.come().await;
    let [(first, 0), (second, offset)] = asked[..] else { panic!("it was asked for twice: {asked:?}") };
    assert!(first != second && offset > 0, "{asked:?}");
    assert_eq!(three.store.peer_traffic().fetched_bytes(), three.store.size_bytes().expect("it can be read"));
}

#[tokio::test]
async fn a_blob_goes_on_where_the_connection_ended() {
    let three = Three::start(hasty()).await;
    let mut peers = three.peers();
    // Manifest, config and the first half of the layer come over it.
    let budget = Arc::new(AtomicU64::new(LARGE as u64 / 2));
    for (peer, behind) in peers.0.iter_mut().zip([&three.first, &three.second]) {
        peer.channel = behind.over_a_line_that_breaks(&budget).await;
    }
    fetch(&three.store, &three.image, &peers).await.expect("it comes in the end");
    let asked = three.script.asked(&three.layer);
    assert!(matches!(asked[..], [(_, 0), (_, 1..), ..]), "{asked:?}");
    let came = three.store.peer_traffic().fetched_bytes();
    assert_eq!(came, three.store.size_bytes().expect("it can be read"), "each byte came once");
}

#[tokio::test]
async fn peers_that_break_off_again_and_again_are_asked_as_long_as_something_comes() {
    let three = Three::start(hasty()).await;
    three.script([Mood::BreaksOff; 2]);
    let asked = three.come().await;
    let offsets: Vec<u64> = asked.iter().map(|(_, offset)| *offset).collect();
    assert!(offsets.len() == 3 && offsets.is_sorted_by(|a, b| a < b), "{asked:?}");
}

#[tokio::test]
async fn a_peer_that_sends_something_else_is_asked_no_more() {
    for mood in [Mood::Lies, Mood::EndsEarly, Mood::SaysMore, Mood::Shouts] {
        let three = Three::start(hasty()).await;
        three.script([mood]);
        let asked = three.come().await;
        let [(first, 0), (second, 0)] = asked[..] else { panic!("{mood:?} was believed: {asked:?}") };
        assert_ne!(first, second, "{mood:?}");
    }
    // Nor for anything else of the image.
    let three = Three::start(hasty()).await;
    three.script.set([Mood::Kind, Mood::Lies]);
    let asked = three.come().await;
    let config = three.store.parts(&three.image).expect("it is there")[1];
    let [(liar, 0), (honest, 0)] = three.script.asked(&config)[..] else { panic!("it was asked for twice") };
    assert!(liar != honest && asked == [(honest, 0)], "{asked:?}");

    let three = Three::start(hasty()).await;
    three.script([Mood::Lies; 2]);
    let said = three.fail().await;
    assert!(said.contains("node-1: it sent sha256:") && said.contains("node-2: it sent sha256:"), "{said}");
}

#[tokio::test]
async fn a_half_that_was_wrong_is_not_blamed_on_who_sent_the_other() {
    let three = Three::start(hasty()).await;
    three.script([Mood::LiesAndBreaksOff, Mood::Kind, Mood::LiesAndBreaksOff]);
    let asked = three.come().await;
    // The second time each of them begins at the beginning, so that it is known whose bytes are wrong.
    let [(liar, 0), (honest, 1..), (again, 0), (alone, 0)] = asked[..] else { panic!("it began anew: {asked:?}") };
    assert!(liar != honest && again != alone, "{asked:?}");
}

#[tokio::test]
async fn a_peer_that_stalls_is_left_for_another() {
    let three = Three::start(hasty()).await;
    three.script([Mood::Stalls]);
    let asked = three.come().await;
    let [(first, 0), (second, 1..)] = asked[..] else { panic!("it was asked for twice: {asked:?}") };
    assert_ne!(first, second);

    let limits = PeerLimits { fetch_max: Duration::from_millis(500), ..hasty().peer };
    let three = Three::start(Settings { peer: limits, ..hasty() }).await;
    three.script([Mood::Stalls; 2]);
    let said = three.fail().await;
    assert!(said.contains("within 500ms"), "{said}");
}

#[tokio::test]
async fn busy_peers_are_asked_again() {
    let three = Three::start(hasty()).await;
    three.script([Mood::Busy; 15]);
    assert_eq!(three.come().await.len(), 16);
}

#[tokio::test]
async fn a_store_sends_no_more_blobs_at_once_than_it_may() {
    let script = Arc::new(Script::default());
    let limits = PeerLimits { streams_max: 0, ..PeerLimits::default() };
    let busy = Peer::with(1, &script, Settings { peer: limits, ..Settings::default() }).await;
    let idle = Peer::start(2, &script).await;
    let image = busy.image(&[layer(b"text")]);
    idle.image(&[layer(b"text")]);
    let limits = PeerLimits { fetch_max: Duration::from_millis(200), ..hasty().peer };
    let (_folder, store) = store(Settings { peer: limits, ..hasty() });
    let said = said(fetch(&store, &image, &Known::from([&busy])).await);
    assert!(said.contains("node-1: it sends as many blobs as it may"), "{said}");
    let (_folder, store) = super::store(hasty());
    fetch(&store, &image, &Known::from([&busy, &idle])).await.expect("the other sends it");
}

#[tokio::test]
async fn what_nobody_has_is_told_with_what_each_said() {
    let script = Arc::new(Script::default());
    let (alone, gone) = (Peer::start(7, &script).await, Peer::start(8, &script).await);
    let mut peers = Known::from([&alone, &gone]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    peers.0[1].channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
    let (_folder, store) = store(hasty());
    let image = blob::of(b"none");
    let said = said(fetch(&store, &image, &peers).await);
    assert!(said.contains("node-7: it does not have the image"), "{said}");
    assert!(said.contains("node-8: ") && said.contains("refused"), "{said}");
    assert_eq!(script.asked(&image), []);
    assert!(!is_nowhere(&store, &image, &peers).await, "who knows what the second one has");
    assert!(is_nowhere(&store, &image, &Known::from([&alone])).await);
    assert!(is_nowhere(&store, &image, &Known::default()).await);
    let error = store.rootfs_or_fetch(&image, &peers).await.expect_err("nobody has it");
    let text = crate::error_chain::text(&error);
    assert!(text.contains("was not fetched") && text.contains("node-7"), "{text}");
    let error = store.rootfs_or_fetch(&image, &Known::default()).await.expect_err("there is nobody");
    assert!(matches!(error, ObtainError::Root(RootfsError::Unreadable { .. })), "{error:?}");
}

#[tokio::test]
async fn an_image_of_which_nobody_has_a_layer_is_nowhere_and_one_that_is_not_sent_is_somewhere() {
    let three = Three::start(hasty()).await;
    three.script([Mood::EndsEarly; 2]);
    assert!(!is_nowhere(&three.store, &three.image, &three.peers()).await, "two have it and do not send it");
    for peer in [&three.first, &three.second] {
        peer.store.blobs().remove(&three.layer).expect("it is there");
    }
    assert!(is_nowhere(&three.store, &three.image, &three.peers()).await);
}

#[tokio::test]
async fn an_image_over_a_limit_is_refused_before_its_blobs_come() {
    let three = Three::start(Settings { image_max: 10_000, ..hasty() }).await;
    let error = fetch(&three.store, &three.image, &three.peers()).await.expect_err("it is too large");
    assert!(matches!(*error, PullError::Limit { limit: 10_000, .. }), "{error:?}");
    assert_eq!(three.script.asked(&three.layer), []);
}

#[tokio::test]
async fn what_is_no_image_to_run_is_refused_and_nothing_of_it_is_kept() {
    let script = Arc::new(Script::default());
    let peer = Peer::start(1, &script).await;
    let other = blob::of(b"other").to_string();
    let image = peer.changed_image(&[layer(b"text")], |_, config| config.rootfs.diff_ids = vec![other]);
    let (folder, store) = store(hasty());
    let error = fetch(&store, &image, &Known::from([&peer])).await.expect_err("its layer holds something else");
    assert!(matches!(*error, PullError::Layer(_)), "{error:?}");
    settled(folder.path()).await;
    assert!(store.list().is_empty() && store.blobs().list().expect("it can be read").is_empty());
    let index = peer.store.blobs().put(br#"{"schemaVersion": 2, "manifests": []}"#).expect("there is room");
    let error = fetch(&store, &index, &Known::from([&peer])).await.expect_err("it is an index");
    assert!(matches!(*error, PullError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn what_several_want_comes_once() {
    let three = Three::start(hasty()).await;
    let other = three.first.image(&[layer(&[b'a'; LARGE]), layer(b"more")]);
    let (one, two) = (three.peers(), Known::from([&three.first]));
    let wanted = [(&three.image, &one), (&three.image, &two), (&other, &two), (&other, &two)];
    let fetches = wanted.map(|(image, peers)| fetch(&three.store, image, peers));
    for (result, (image, _)) in futures_util::future::join_all(fetches).await.into_iter().zip(wanted) {
        assert_eq!(result.expect("it comes").image, *image);
    }
    assert_eq!(three.script.asked(&three.layer).len(), 1);
    assert_eq!((three.script.asked(&three.image).len(), three.script.asked(&other).len()), (1, 1));
    settled(three.folder.path()).await;
}

#[tokio::test]
async fn a_fetch_ends_with_the_last_who_waits_for_it() {
    let three = Three::start(hasty()).await;
    three.script([Mood::Stalls]);
    let peers = three.peers();
    let mut first = Box::pin(fetch(&three.store, &three.image, &peers));
    let asked = async {
        while three.script.asked(&three.layer).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = &mut first => panic!("it ended: {ended:?}"),
        () = asked => {}
    }
    let mut second = Box::pin(fetch(&three.store, &three.image, &peers));
    assert!((&mut second).now_or_never().is_none(), "it stalls");
    drop(first);
    assert_eq!(second.await.expect("it goes on").image, three.image);
    assert_eq!(three.script.asked(&three.image).len(), 1, "it was the same fetch");

    let three = Three::start(hasty()).await;
    three.script([Mood::Stalls]);
    {
        let peers = three.peers();
        let mut only = Box::pin(fetch(&three.store, &three.image, &peers));
        while three.script.asked(&three.layer).is_empty() {
            assert!((&mut only).now_or_never().is_none(), "it stalls");
            tokio::task::yield_now().await;
        }
    }
    settled(three.folder.path()).await;
    assert!(three.store.list().is_empty());
    three.store.sweep(BTreeSet::new()).await.expect("nothing is under way");
}

#[tokio::test]
async fn a_blob_that_is_damaged_on_a_disk_is_not_given_away() {
    let three = Three::start(hasty()).await;
    let path = three.first.store.blobs().path(&three.layer);
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[LARGE / 2] ^= 1;
    fs::write(&path, &bytes).expect("it can be written");
    three.come().await;
    let (_folder, store) = store(hasty());
    let said = said(fetch(&store, &three.image, &Known::from([&three.first])).await);
    assert!(said.contains("node-1: its sha256:") && said.contains("is damaged"), "{said}");
    bytes.truncate(LARGE / 2);
    fs::write(&path, &bytes).expect("it can be written");
    let said = super::peers::said(fetch(&store, &three.image, &Known::from([&three.first])).await);
    assert!(said.contains("is damaged"), "{said}");
}

#[tokio::test]
async fn what_rotted_here_comes_again_from_a_peer() {
    let three = Three::start(hasty()).await;
    let here = &three.first.store;
    let config = here.parts(&three.image).expect("it is there")[1];
    for rotten in [three.layer, config, three.image] {
        for is_gone in [false, true] {
            let path = here.blobs().path(&rotten);
            let mut bytes = fs::read(&path).expect("it is there");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            let damaged = if is_gone { fs::remove_file(&path) } else { fs::write(&path, &bytes) };
            damaged.expect("it can be changed");
            let alone = here.rootfs_or_fetch(&three.image, &Known::default()).await;
            assert!(matches!(alone, Err(ObtainError::Root(_))), "{alone:?}");
            let before = here.peer_traffic().fetched_bytes();
            here.rootfs_or_fetch(&three.image, &Known::from([&three.second])).await.expect("the other has it");
            let came = here.peer_traffic().fetched_bytes() - before;
            assert_eq!(came, fs::metadata(&path).expect("it is there").len(), "nothing else came");
            assert!(here.has(&three.image));
            here.roots().clear();
            fs::remove_dir_all(here.0.folder.join("layers").join(three.layer.hex())).expect("it is unpacked");
        }
    }
    // What is sound and still no image to run is not fetched again and again.
    let other = blob::of(b"other").to_string();
    let image = three.first.changed_image(&[layer(b"text")], |_, config| config.rootfs.diff_ids = vec![other]);
    let before = here.peer_traffic().fetched_bytes();
    let refused = here.rootfs_or_fetch(&image, &Known::from([&three.second])).await;
    assert!(matches!(refused, Err(ObtainError::Root(RootfsError::Layer { .. }))), "{refused:?}");
    assert_eq!(here.peer_traffic().fetched_bytes(), before);
}

#[tokio::test]
async fn requests_are_looked_at_before_they_are_answered() {
    let script = Arc::new(Script::default());
    let peer = Peer::start(1, &script).await;
    let blob = peer.store.blobs().put(b"text").expect("there is room");
    let mut client = ImagesClient::new(Known::from([&peer]).0[0].channel.clone());
    for sha256 in [Vec::new(), b"../index.json".to_vec(), vec![0; 33]] {
        let status = client.has(HasRequest { sha256 }).await.expect_err("it is no digest");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let sha256 = blob.as_bytes().to_vec();
    let size = client.has(HasRequest { sha256: sha256.clone() }).await.expect("it is answered").into_inner().size;
    assert_eq!(size, Some(4));
    for (offset, rest) in [(0, Some("text")), (3, Some("t")), (4, Some("")), (5, None)] {
        let answer = client.blob(BlobRequest { sha256: sha256.clone(), offset }).await;
        let Some(rest) = rest else {
            assert_eq!(answer.expect_err("it ends before").code(), Code::OutOfRange);
            continue;
        };
        let (mut chunks, mut came) = (answer.expect("it is there").into_inner(), Vec::new());
        while let Some(chunk) = chunks.message().await.expect("it is whole") {
            came.extend_from_slice(&chunk.bytes);
        }
        assert_eq!(came, rest.as_bytes(), "from {offset}");
    }
    let none = BlobRequest { sha256: vec![0; 32], offset: 0 };
    assert_eq!(client.blob(none).await.expect_err("it is not there").code(), Code::NotFound);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(16))]

    #[test]
    fn whatever_peers_do_an_image_comes_as_it_is_or_not_at_all(
        // Fewer than it takes until two peers that send nothing are given up.
        moods in proptest::collection::vec(proptest::sample::select(&Mood::THAT_END[..]), 0..9),
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("it starts");
        let is_kind = moods.iter().all(|mood| matches!(mood, Mood::Kind | Mood::Busy | Mood::BreaksOff));
        let outcome = runtime.block_on(async {
            let three = Three::start(hasty()).await;
            three.script.moods().extend(moods);
            let outcome = fetch(&three.store, &three.image, &three.peers()).await;
            match &outcome {
                Ok(built) => {
                    assert_eq!((built.image, three.store.has(&three.image)), (three.image, true));
                    let root = three.store.rootfs(&three.image).await.expect("it was unpacked before it was listed");
                    assert_eq!(fs::read(root.layers[0].join("run")).expect("it is there"), [b'a'; LARGE]);
                }
                Err(error) => {
                    assert!(matches!(**error, PullError::Peers { .. }), "{error:?}");
                    assert!(three.store.list().is_empty());
                }
            }
            settled(three.folder.path()).await;
            outcome.map(drop)
        });
        proptest::prop_assert!(outcome.is_ok() || !is_kind, "peers that only break off give it in the end: {outcome:?}");
    }
}
