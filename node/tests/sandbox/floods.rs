//! Functions that take all they can get: they are limited or ended, their neighbours start and answer, and nothing is left.

use std::time::{Duration, Instant};

use node::sandbox::{Sandbox, Signal};
use tokio::io::AsyncReadExt;

use crate::Test;
use crate::host::{Host, finish};

pub(crate) const TESTS: &[Test] = tests![
    whoever_takes_all_there_is_of_something_leaves_it_to_others,
    a_fork_bomb_that_ignores_signals_is_ended,
    an_output_that_nobody_reads_is_bounded,
    files_in_memory_count_as_memory,
    a_spinner_gets_its_share_and_no_more,
];

/// How long a flood is watched.
const WATCH: Duration = Duration::from_secs(1);

/// How much of a pipe's content can be left when its writer is ended: the most that the kernel lets anybody ask for.
const PIPE_MAX: usize = 1 << 20;

/// Asserts that a sandbox starts beside a flood, answers in time, and is let alone.
async fn neighbour_answers(host: &Host) {
    let start = Instant::now();
    let (text, exit) = host.run("echo beside > /tmp/it && cat /tmp/it").await;
    assert_eq!((text.as_str(), exit.code), ("beside\n", Some(0)));
    assert!(start.elapsed() < Duration::from_secs(5), "a neighbour took {:?}", start.elapsed());
}

/// What a flood took, from what the probe says.
fn taken(line: &str) -> (u64, &str) {
    let (count, error) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
    (count.parse().expect("a count comes first"), error)
}

async fn whoever_takes_all_there_is_of_something_leaves_it_to_others() {
    let host = Host::start();
    // What there is of it, the most that one sandbox may take, and how it is told that there is no more.
    let resources = [
        ("zombies", 32, "EAGAIN"),
        ("inotify", 16, "EMFILE"),
        ("descriptors", 65_536, "EMFILE"),
        ("queues", 1, "EMFILE"),
        ("signals", 4_096, "EAGAIN"),
    ];
    let mut floods: Vec<Sandbox> = Vec::new();
    for (resource, most, error) in resources {
        let mut counts = Vec::new();
        for _ in 0..3 {
            let request = host.probing(&format!("exec $PROBE flood {resource}"));
            let (sandbox, _, line) = host.start_until_line(request).await;
            let (count, told) = taken(&line);
            assert!(count > 0 && count <= most && told == error, "{resource}: {line} after {counts:?}");
            counts.push(count);
            floods.push(sandbox);
        }
        assert!(counts.iter().all(|count| *count == counts[0]), "{resource}: {counts:?}");
        // The host has some left, too.
        rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).expect("there are some left");
        neighbour_answers(&host).await;
        for flood in floods.drain(..) {
            flood.destroy().await;
        }
    }
    host.end().await;
}

async fn a_fork_bomb_that_ignores_signals_is_ended() {
    let host = Host::start();
    let mut request = host.probing("echo lit; exec $PROBE bomb");
    request.limits.cpu_milli = 500;
    let (bomb, _output, line) = host.start_until_line(request).await;
    assert_eq!(line, "lit");
    bomb.signal(Signal::Terminate);
    let start = Instant::now();
    while start.elapsed() < WATCH {
        neighbour_answers(&host).await;
    }
    let still = tokio::time::timeout(Duration::ZERO, bomb.wait()).await;
    assert!(still.is_err(), "it ended by itself: {still:?}");
    bomb.destroy().await;
    host.end().await;
}

async fn an_output_that_nobody_reads_is_bounded() {
    let host = Host::start();
    let mut request = host.request("busybox yes >&2 & echo begun; exec busybox yes");
    request.limits.memory_bytes = 16 << 20;
    let (flood, mut output, _) = host.start_until_line(request).await;
    let start = Instant::now();
    while start.elapsed() < WATCH {
        neighbour_answers(&host).await;
    }
    assert!(flood.usage().memory_peak_bytes <= 16 << 20, "{:?}", flood.usage());
    flood.destroy().await;
    for pipe in [&mut output.stdout, &mut output.stderr] {
        let mut left = Vec::new();
        pipe.read_to_end(&mut left).await.expect("the output can be read");
        assert!(left.len() <= PIPE_MAX, "{} bytes were kept", left.len());
    }
    host.end().await;
}

async fn files_in_memory_count_as_memory() {
    let host = Host::start();
    let limit = 32 << 20;
    for folder in ["/dev/shm", "/tmp", "/dev", "/run"] {
        let mut request = host.request(&format!(
            "dd if=/dev/zero of={folder}/fill bs=1M count=63 2>&1; ls -s {folder}; busybox sync; echo through"
        ));
        request.limits.memory_bytes = limit;
        request.limits.tmp_bytes = 64 << 20;
        let sandbox = host.start_one(request).await;
        let exit = sandbox.wait().await;
        let peak = sandbox.usage().memory_peak_bytes;
        let (text, _) = finish(&sandbox).await;
        assert!(peak <= limit, "{folder}: {peak}: {text}");
        let is_writable = ["/dev/shm", "/tmp"].contains(&folder);
        assert_eq!(exit.out_of_memory, is_writable, "{folder}: {exit:?} {text}");
        neighbour_answers(&host).await;
    }
    host.end().await;
}

async fn a_spinner_gets_its_share_and_no_more() {
    let host = Host::start();
    let mut request = host.request("for n in 1 2 3 4; do while :; do :; done & done; echo spinning; wait");
    request.limits.cpu_milli = 200;
    let (spinner, _output, _) = host.start_until_line(request).await;
    let (before, start) = (spinner.usage().cpu_us, Instant::now());
    while start.elapsed() < WATCH {
        neighbour_answers(&host).await;
    }
    let used = Duration::from_micros(spinner.usage().cpu_us - before);
    // One period's quota more than its share may fall into any stretch of time.
    let share = start.elapsed() / 5 + Duration::from_millis(100);
    assert!(used <= share && used > WATCH / 20, "{used:?} of {share:?}");
    spinner.destroy().await;
    host.end().await;
}
