//! Pulls, imports and sweeps, against a registry that does what a test tells it to.

mod peers;
pub(crate) mod scripted;
mod stub;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use self::stub::{Mood, Stub};
use super::pull::PullError;
use super::*;

pub(crate) fn layer(content: &[u8]) -> Vec<u8> {
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
async fn an_image_whose_manifest_is_damaged_keeps_nothing_else_from_being_swept() {
    let (stub, (_folder, store)) = (Stub::new().await, store(Settings::default()));
    let mut images = Vec::new();
    for content in [&b"damaged"[..], b"unwanted", b"whole"] {
        let (image, _) = stub.put("1", &layer(content), |_, _| ());
        stub.pull(&store, ":1").await.expect("it is there");
        images.push(image);
    }
    let [damaged, unwanted, whole] = images[..] else { unreachable!("there are three") };
    fs::write(store.blobs().path(&damaged), b"{").expect("it can be written");
    let report = store.sweep(BTreeSet::from([damaged, whole])).await.expect("the others are what they must be");
    assert_eq!((report.images, store.has(&unwanted)), (1, false));
    store.rootfs(&whole).await.expect("all of it is still there");
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

    // What a daemon left that was killed is gone when the next one opens the store.
    drop(store);
    fs::write(folder.path().join("blobs/unfinished/0"), b"half").expect("it can be written");
    fs::create_dir(folder.path().join("work/layer-0")).expect("it can be made");
    let store = Store::open(folder.path(), Settings::default()).expect("it is a store");
    assert_eq!((half_done(folder.path()), store.list().len()), (0, 1));
}

#[tokio::test]
async fn a_sweep_keeps_what_a_build_laid_over_a_base_needs() {
    /// No tool is needed here.
    struct NoTools;
    impl Tools for NoTools {
        fn run(&self, _: RunRequest) -> futures_util::future::BoxFuture<'_, Result<RunOutput, String>> {
            Box::pin(async { Err("no tool runs here".to_owned()) })
        }

        fn settings(&self) -> &ToolSettings {
            unreachable!("nothing here has dependencies")
        }
    }
    let (stub, (_folder, store)) = (Stub::new().await, store(Settings::default()));
    let (base, shared) = stub.put("1", &layer(b"base"), |_, _| ());
    stub.pull(&store, ":1").await.expect("it is there");
    let source = tempfile::tempdir().expect("a directory can be made");
    fs::write(source.path().join("page"), b"code").expect("it can be written");
    let request = |runtime, base: Digest| BuildRequest {
        runtime,
        source: source.path().to_path_buf(),
        command: vec!["/run".to_owned()],
        dependencies: None,
        base: Some(base.to_string()),
    };
    let built = store.build(request(control_plane::model::Runtime::Http, base), &NoTools, &|_| ()).await;
    let built = built.expect("the base is there").image;
    let again = store.build(request(control_plane::model::Runtime::Image, base), &NoTools, &|_| ()).await;
    assert_eq!(again.expect("the same layers").image, built);
    // Another image takes the name, so that nothing but the layer over it needs the base.
    stub.put("1", &layer(b"other"), |_, _| ());
    stub.pull(&store, ":1").await.expect("it is there");
    let report = store.sweep(BTreeSet::from([built])).await.expect("nothing is under way");
    assert_eq!((report.images, store.has(&base), store.blobs().has(&shared)), (1, false, true));
    assert_eq!(store.rootfs(&built).await.expect("all of it is there").layers.len(), 2);

    // While something is made, nothing is swept.
    let work = store.begin_work().await;
    let sweeping = store.sweep(BTreeSet::new());
    tokio::pin!(sweeping);
    assert!(futures_util::FutureExt::now_or_never(&mut sweeping).is_none() && store.has(&built));
    drop(work);
    sweeping.await.expect("nothing is under way any more");
    assert!(!store.has(&built));
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
    assert!(store.list().is_empty() && store.blobs().list().expect("it can be read").is_empty(), "nothing was kept");
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
async fn a_registry_is_believed_only_with_a_certificate_that_is_trusted() {
    let (stub, certificate) = Stub::with_tls().await;
    let (image, _) = stub.put("1", &layer(b"text"), |_, _| ());
    let folder = tempfile::tempdir().expect("a directory can be made");
    let file = folder.path().join("ca.pem");
    let reference: Reference = format!("https://{}/app:1", stub.address).parse().expect("it is one");
    let attempt = async |pem: &str| {
        fs::write(&file, pem).expect("it can be written");
        let (_folder, store) = store(Settings { ca_file: Some(file.clone()), ..Settings::default() });
        store.pull(&reference, Arc::new(|_| ())).await.map(|built| built.image)
    };
    assert_eq!(attempt(&certificate).await.expect("it is trusted"), image);
    let (_other, stranger) = Stub::with_tls().await;
    let error = attempt(&stranger).await.expect_err("another one vouches for it");
    assert!(crate::error_chain::text(&error).contains("certificate"), "{error:?}");
    let error = attempt("").await.expect_err("nobody vouches for it");
    assert!(crate::error_chain::text(&error).contains("build.ca-file"), "{error:?}");
    // One that wants TLS is not spoken to without it.
    let (_folder, plain) = store(Settings::default());
    let error = stub.pull(&plain, ":1").await.expect_err("it speaks TLS");
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn what_lets_us_in_is_shown_to_the_registry_alone() {
    let (registry, elsewhere) = (Stub::new().await, Stub::new().await);
    let (image, digest) = registry.put("1", &layer(b"text"), |_, _| ());
    let folder = tempfile::tempdir().expect("a directory can be made");
    let file = folder.path().join("config.json");
    let known = serde_json::json!({"auths": {registry.address.to_string(): {"auth": "dTpw"}}});
    fs::write(&file, known.to_string()).expect("it can be written");
    registry.shelf().access = Some("Basic dTpw".to_owned());
    registry.shelf().challenge = "Basic realm=\"r\"".to_owned();
    let blob = registry.shelf().blobs.remove(&digest.to_string()).expect("it is there");
    elsewhere.shelf().blobs.insert(digest.to_string(), blob);
    registry.shelf().elsewhere = Some(elsewhere.address);
    let (_folder, store) = store(Settings { auth_file: Some(file), ..Settings::default() });
    assert_eq!(registry.pull(&store, ":1").await.expect("it is sent there").image, image);
    let asked = elsewhere.shelf().asked.clone();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].to_ascii_lowercase().contains("authorization"), "{asked:?}");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_an_image_or_an_error(bytes: Vec<u8>, text: String, tail in ".*") {
        let _ = oci::Document::parse(&bytes, Some(&text));
        let _ = oci::Document::parse(format!("{{\"schemaVersion\": 2, \"manifests\": [{tail}").as_bytes(), None);
        if let Ok(reference) = text.parse::<Reference>() {
            let again: Reference = reference.to_string().parse().expect("what is written can be read");
            proptest::prop_assert_eq!(again.to_string(), reference.to_string());
        }
        let folder = tempfile::tempdir().expect("a directory can be made");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("it can be made");
        for magic in [&[][..], &[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]] {
            let path = folder.path().join("archive");
            fs::write(&path, [magic, &bytes].concat()).expect("it can be written");
            let _ = unpack(&fs::File::open(&path).expect("it is there"), &root, &UnpackLimits::default());
        }
    }
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
