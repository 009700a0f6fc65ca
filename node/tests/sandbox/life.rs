//! How sandboxes live: what their process is, what it may use, how it ends, and who finds it again.

use node::sandbox::{Exit, Sandboxes, Signal};
use tokio::io::AsyncReadExt;

use crate::Test;
use crate::host::{Host, cgroup_exists};

pub(crate) const TESTS: &[Test] = tests![
    a_process_runs_as_nobody_without_privileges_on_a_read_only_root,
    a_sandbox_sees_nothing_of_its_host,
    dangerous_calls_are_refused,
    limits_hold_and_out_of_memory_is_told_apart,
    exit_codes_and_signals_are_told_and_any_number_may_wait,
    what_was_written_is_read_however_soon_its_writer_ended,
    a_running_sandbox_is_adopted_by_the_next_daemon_and_a_blank_one_is_not,
];

async fn a_process_runs_as_nobody_without_privileges_on_a_read_only_root() {
    let host = Host::start();
    let (text, exit) =
        host.run("id -u; cat /proc/self/status; touch /file 2>&1 || echo refused; echo x > /tmp/f && cat /tmp/f").await;
    assert_eq!(exit, Exit { code: Some(0), signal: None, out_of_memory: false }, "{text}");
    assert!(text.starts_with("1000\n"), "{text}");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(text.contains(line), "{line} is missing: {text}");
    }
    assert!(text.contains("refused") && text.ends_with("x\n"), "{text}");
    host.sandboxes.shutdown().await;
    assert!(!cgroup_exists(&host), "cgroups are left behind");
}

async fn a_sandbox_sees_nothing_of_its_host() {
    let host = Host::start();
    let (text, _) = host.run("ls /proc | wc -l; ls -l /proc/self/fd; ip addr; cat /proc/kcore; ls /sys/firmware").await;
    assert!(text.contains("127.0.0.1/8") && text.contains("LOOPBACK,UP"), "lo is up: {text}");
    assert!(!text.contains("eth0") && !text.contains("veth"), "{text}");
    let descriptors = text.lines().filter(|line| line.contains(" -> ")).count();
    assert_eq!(descriptors, 3, "0, 1 and 2: {text}");
    host.sandboxes.shutdown().await;
}

async fn dangerous_calls_are_refused() {
    let host = Host::start();
    for script in ["unshare -U true", "unshare -m true", "mount -t tmpfs none /tmp", "mknod /tmp/null c 1 3"] {
        let (text, exit) = host.run(script).await;
        assert!(exit.code.is_some_and(|code| code != 0), "{script} went through: {text}");
        assert!(text.contains("not permitted") || text.contains("denied"), "{script}: {text}");
    }
    host.sandboxes.shutdown().await;
}

async fn limits_hold_and_out_of_memory_is_told_apart() {
    let host = Host::start();
    let (text, exit) = host.run("dd if=/dev/zero of=/tmp/fill bs=1M count=64").await;
    assert!(text.contains("No space left"), "/tmp is limited: {text}");
    assert_eq!(exit.code, Some(1));
    let (text, exit) = host.run("for i in $(busybox seq 100); do sleep 5 & done; wait").await;
    assert!(text.contains("fork"), "tasks are limited: {text} {exit:?}");
    let (text, exit) =
        host.run("x=$(dd if=/dev/zero bs=1M count=256 2>/dev/null | busybox tr '\\0' 'a'); echo $x | wc -c").await;
    assert!(exit.out_of_memory, "memory is limited: {text} {exit:?}");
    host.sandboxes.shutdown().await;
}

async fn exit_codes_and_signals_are_told_and_any_number_may_wait() {
    let host = Host::start();
    let (_, exit) = host.run("exit 42").await;
    assert_eq!((exit.code, exit.signal), (Some(42), None));
    let sandbox = host.launch("sleep 60").await;
    sandbox.signal(Signal::Kill);
    let (first, second) = tokio::join!(sandbox.wait(), sandbox.wait());
    assert_eq!((first.signal, second.signal), (Some(9), Some(9)));
    sandbox.destroy().await;
    let (text, exit) = host.run_one(host.program(&["/bin/nothing"])).await;
    assert_eq!(exit.code, Some(127), "{text}");
    host.sandboxes.shutdown().await;
}

async fn what_was_written_is_read_however_soon_its_writer_ended() {
    let host = Host::start();
    let runs = futures_util::future::join_all((0..60).map(|_| host.run("echo done"))).await;
    for (text, exit) in runs {
        assert_eq!((text.as_str(), exit.code), ("done\n", Some(0)));
    }
    host.sandboxes.shutdown().await;
}

async fn a_running_sandbox_is_adopted_by_the_next_daemon_and_a_blank_one_is_not() {
    let host = Host::start();
    let sandbox = host.launch("echo before; read line < /tmp/never || sleep 60").await;
    let pid = sandbox.pid();
    drop(sandbox);
    host.sandboxes.shutdown().await;
    let (again, mut adopted) = Sandboxes::start(host.config.clone()).expect("sandboxes can be made");
    let sandbox = adopted.pop().expect("the sandbox still runs");
    assert!(adopted.is_empty(), "a blank sandbox was adopted");
    assert_eq!((sandbox.pid(), sandbox.label(), sandbox.id()), (pid, "a label", "test"));
    let mut output = sandbox.take_output().expect("the output is there again");
    let mut line = [0; 7];
    output.stdout.read_exact(&mut line).await.expect("what was written meanwhile is read");
    assert_eq!(&line, b"before\n");
    sandbox.destroy().await;
    again.shutdown().await;
    assert!(!cgroup_exists(&host), "cgroups are left behind");
}
