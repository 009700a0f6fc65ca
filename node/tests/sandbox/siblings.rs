//! Two sandboxes beside each other: neither sees, reaches or signals what the other has.

use crate::Test;
use crate::host::{Host, finish};

pub(crate) const TESTS: &[Test] = tests![siblings_neither_see_nor_reach_each_other];

/// A port that both siblings use on the loopback of each.
const PORT: u16 = 9000;

async fn siblings_neither_see_nor_reach_each_other() {
    let host = Host::start();
    let first = host.probing(&format!(
        "trap 'echo signalled' TERM HUP USR1; SECRET=of-the-first; export SECRET; \
         echo first > /tmp/mark; echo first > /dev/shm/mark; \
         $PROBE listen {PORT} > /tmp/port & $PROBE listen abstract sibling > /tmp/name & $PROBE shm make > /tmp/made & \
         until [ -s /tmp/port ] && [ -s /tmp/name ] && [ -s /tmp/made ]; do :; done; \
         cat /tmp/port /tmp/name /tmp/made | busybox tr '\\n' ' '; busybox hostname; while :; do sleep 1; done"
    ));
    let (first, mut output, line) = host.start_until_line(first).await;
    let words: Vec<&str> = line.split(' ').collect();
    let [port, name, memory, hostname] = words[..] else { panic!("{line}") };
    assert_eq!((port, name, memory), ("listening", "listening", "made"));

    let pid = first.pid();
    let second = host.probing(&format!(
        "$PROBE connect 127.0.0.1:{PORT}; $PROBE connect abstract sibling; $PROBE shm find; \
         cat /tmp/mark 2>&1; cat /dev/shm/mark 2>&1; ls /dev/shm /tmp | wc -l; \
         [ $(busybox hostname) = {hostname} ] && echo same-name; \
         cat /proc/[0-9]*/environ | busybox grep -c of-the-first; \
         ls -d /proc/{pid} /proc/{pid}/root 2>&1; kill -9 {pid} 2>&1; \
         for n in TERM HUP USR1 KILL; do kill -$n -1; done; echo end"
    ));
    // Alone in its namespaces, `kill -1` reaches nobody: the shell is the init, and has no children then.
    let (text, exit) = finish(&host.start_one(second).await).await;
    let expected: Vec<String> = [
        "ECONNREFUSED".to_owned(),
        "ECONNREFUSED".to_owned(),
        "ENOENT".to_owned(),
        "cat: can't open '/tmp/mark': No such file or directory".to_owned(),
        "cat: can't open '/dev/shm/mark': No such file or directory".to_owned(),
        // Two headings and the line between them.
        "3".to_owned(),
        "0".to_owned(),
        format!("ls: /proc/{pid}: No such file or directory"),
        format!("ls: /proc/{pid}/root: No such file or directory"),
    ]
    .into();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..expected.len().min(lines.len())], expected, "{text}");
    assert!(text.contains("No such process") && lines.contains(&"end"), "{text} {exit:?}");

    // The first is as it was, in view of itself.
    let stream = first.connect_loopback(PORT).await;
    assert!(stream.is_ok(), "the first still listens: {stream:?}");
    first.destroy().await;
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut output.stdout, &mut text).await.expect("the output can be read");
    assert_eq!(text, "", "a signal crossed");
    host.end().await;
}
