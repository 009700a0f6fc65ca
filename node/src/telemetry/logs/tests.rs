//! The store from outside, on a real disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use super::*;

const LIMITS: Limits = Limits { function_max_bytes: 1 << 20, age_max: Duration::from_secs(1_000) };

/// A store in a folder that goes away, at a time that the test sets.
struct Fixture {
    folder: tempfile::TempDir,
    now_us: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, now_us: Arc::new(AtomicU64::new(1)), metrics: Arc::new(Metrics::new()) }
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    fn open(&self, limits: Limits) -> LogStore {
        let db = sled::open(self.folder.path().join("index")).unwrap();
        let now_us = Arc::clone(&self.now_us);
        let clock = Clock::reading(move || now_us.load(Ordering::Relaxed));
        LogStore::open(self.logs(), &db, limits, clock, Arc::clone(&self.metrics)).unwrap()
    }

    fn lost(&self) -> u64 {
        self.metrics.function_log_lines_lost.get()
    }
}

fn function() -> FunctionName {
    "resize".parse().unwrap()
}

fn origin() -> Origin {
    Origin { function: function(), revision: RevisionNumber(3), instance: InstanceId::placed(7) }
}

fn said(at_us: u64, request: Option<&str>, text: &str) -> LogLine {
    let request_id = request.map(Arc::from);
    LogLine { at_us, stream: Stream::Stdout, request_id, text: text.to_owned(), is_mark: false }
}

fn everything() -> Query {
    Query { function: function(), since_us: 0, request: None, limit: usize::MAX }
}

async fn texts(store: &LogStore, query: Query) -> Vec<String> {
    store.read(query).await.unwrap().lines.into_iter().map(|line| line.text).collect()
}

/// Returns the segments on disk, oldest first.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder.join("resize")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn lines_outlive_the_process_that_wrote_them() {
    let fixture = Fixture::new();
    let store = fixture.open(LIMITS);
    store.append(&origin(), said(10, Some("aa"), "first"));
    store.append(&origin(), said(20, None, "second"));
    assert_eq!(texts(&store, everything()).await, ["first", "second"]);
    store.close();
    assert!(matches!(store.read(everything()).await, Err(ReadError::Closed)));
    drop(store);

    let store = fixture.open(LIMITS);
    store.append(&origin(), said(30, Some("aa"), "third"));
    let page = store.read(everything()).await.unwrap();
    assert_eq!(page.last, 3);
    let line = &page.lines[0];
    assert_eq!((line.function.as_str(), line.revision, line.instance.as_str()), ("resize", 3, "instance-0-0-7"));
    assert_eq!((line.at_us, line.request_id.as_deref(), line.is_mark), (10, Some("aa"), false));
    store.close();
}

#[tokio::test]
async fn lines_are_found_by_time_by_request_and_from_the_newest() {
    // Small segments, so that the index answers for all but the last.
    let fixture = Fixture::new();
    let store = fixture.open(LIMITS);
    for number in 0..20_000_u64 {
        let request = format!("{:04}", number / 10);
        store.append(&origin(), said(number, Some(&request), &format!("line {number}")));
        // The queue is bounded; the test does not want to lose lines.
        if number % 5_000 == 0 {
            texts(&store, Query { limit: 0, ..everything() }).await;
        }
    }
    let found = texts(&store, Query { request: Some("1234".into()), ..everything() }).await;
    assert_eq!(found, (12_340..12_350).map(|number| format!("line {number}")).collect::<Vec<_>>());
    assert_eq!(texts(&store, Query { since_us: 19_998, ..everything() }).await, ["line 19998", "line 19999"]);
    assert_eq!(texts(&store, Query { limit: 1, ..everything() }).await, ["line 19999"]);
    assert_eq!(texts(&store, Query { request: Some("none".into()), ..everything() }).await, [""; 0]);
    assert!(segments(&fixture.logs()).len() > 3 && fixture.lost() == 0);

    // The index is rebuilt when it is lost, and answers the same.
    store.close();
    drop(store);
    fs::remove_dir_all(fixture.folder.path().join("index")).unwrap();
    let store = fixture.open(LIMITS);
    let found = texts(&store, Query { request: Some("1234".into()), ..everything() }).await;
    assert_eq!(found.len(), 10);
    store.close();
}

#[tokio::test]
async fn the_oldest_lines_go_when_there_are_too_many() {
    let fixture = Fixture::new();
    let limits = Limits { function_max_bytes: 64 << 10, ..LIMITS };
    let store = fixture.open(limits);
    for number in 0..500_u64 {
        store.append(&origin(), said(number, None, &format!("{number} {}", "x".repeat(1000))));
        texts(&store, Query { limit: 0, ..everything() }).await;
    }
    let kept = store.read(everything()).await.unwrap().lines;
    let bytes: u64 = segments(&fixture.logs()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes <= limits.function_max_bytes + 2_000, "{bytes} bytes are kept");
    assert!(kept.len() > 40 && kept.last().unwrap().text.starts_with("499 "), "{} lines are kept", kept.len());
    store.close();
}

#[tokio::test]
async fn old_lines_go_at_the_next_start_at_the_latest() {
    let fixture = Fixture::new();
    let store = fixture.open(LIMITS);
    store.append(&origin(), said(10, None, "old"));
    store.close();
    drop(store);
    fixture.now_us.store(2_000_000_000, Ordering::Relaxed);
    let store = fixture.open(LIMITS);
    // Nobody writes or asks about the function: it is found by itself.
    tokio::time::timeout(Duration::from_secs(10), async { while !texts(&store, everything()).await.is_empty() {} })
        .await
        .expect("old lines go");
    store.append(&origin(), said(2_000_000_000, None, "young"));
    assert_eq!(texts(&store, everything()).await, ["young"]);
    store.close();
}

#[tokio::test]
async fn a_torn_line_is_erased_and_a_damaged_one_is_told() {
    let fixture = Fixture::new();
    let store = fixture.open(LIMITS);
    for text in ["one", "two", "three"] {
        store.append(&origin(), said(10, None, text));
    }
    store.close();
    drop(store);
    let [path] = &segments(&fixture.logs())[..] else { panic!("there is one segment") };
    let mut content = fs::read(path).unwrap();
    let length = content.len();
    content.truncate(length - 2);
    let middle = content.windows(3).position(|window| window == b"two").unwrap();
    content[middle] ^= 1;
    fs::write(path, content).unwrap();

    let store = fixture.open(LIMITS);
    store.append(&origin(), said(20, None, "four"));
    let lines = store.read(everything()).await.unwrap().lines;
    let told: Vec<(&str, bool)> = lines.iter().map(|line| (line.text.as_str(), line.is_mark)).collect();
    assert_eq!(told, [("one", false), ("a damaged line was passed over", true), ("four", false)]);
    store.close();
}

#[tokio::test]
async fn a_follower_sees_every_line_once() {
    let fixture = Fixture::new();
    let store = fixture.open(LIMITS);
    store.append(&origin(), said(10, None, "before"));
    let mut follow = store.follow(&function());
    let page = store.read(everything()).await.unwrap();
    store.append(&origin(), said(20, None, "after"));
    let mut seen: Vec<String> = page.lines.into_iter().map(|line| line.text).collect();
    while seen.len() < 2 {
        let next = tokio::time::timeout(Duration::from_secs(10), follow.next()).await.unwrap().unwrap();
        if let Followed::Line(sequence, line) = next
            && sequence > page.last
        {
            seen.push(line.text.clone());
        }
    }
    assert_eq!(seen, ["before", "after"]);
    store.close();
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), follow.next()).await.unwrap(), None);
}

#[tokio::test]
async fn lines_that_an_instance_lost_are_told_in_their_place() {
    let fixture = Fixture::new();
    let store = fixture.open(LIMITS);
    let (sink, source) = crate::contract::log_queue();
    let large = "x".repeat(crate::contract::LINE_MAX_BYTES);
    for _ in 0..40 {
        sink.push(said(10, None, &large));
    }
    sink.close();
    store.drain(origin(), source).await;
    let first = store.read(everything()).await.unwrap().lines.remove(0);
    assert!(first.is_mark && first.text.contains("lines were lost here"), "{first:?}");
    assert!(fixture.lost() > 0);
    store.close();
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_nothing_else() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: mounting a small disk needs root");
        return;
    }
    let fixture = Fixture::new();
    fs::create_dir(fixture.logs()).unwrap();
    mount("tmpfs", fixture.logs(), "tmpfs", MountFlags::empty(), Some(c"size=64k")).unwrap();
    let store = fixture.open(LIMITS);
    store.append(&origin(), said(10, None, "kept"));
    texts(&store, everything()).await;
    for _ in 0..4 {
        store.append(&origin(), said(20, None, &"x".repeat(60_000)));
        texts(&store, Query { limit: 0, ..everything() }).await;
    }
    let lost = fixture.lost();
    store.append(&origin(), said(30, None, "small"));
    let kept = texts(&store, everything()).await;
    store.close();
    unmount(fixture.logs(), UnmountFlags::empty()).unwrap();
    assert!(lost >= 3, "{lost} lines were lost");
    assert_eq!((kept.first().unwrap().as_str(), kept.last().unwrap().as_str()), ("kept", "small"));
}
