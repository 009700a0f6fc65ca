//! A sandbox on the network of its host, as builds have it: it shares the network, and nothing else.

use std::net::TcpListener;

use node::sandbox::Network;

use crate::Test;
use crate::host::Host;

pub(crate) const TESTS: &[Test] = tests![a_sandbox_on_the_network_of_its_host_shares_nothing_else];

async fn a_sandbox_on_the_network_of_its_host_shares_nothing_else() {
    let host = Host::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("a listener has an address").port();
    let mut request = host.probing(&format!(
        "$PROBE connect 127.0.0.1:{port}; $PROBE who; busybox grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; \
         cat /proc/self/uid_map; ls /sys | wc -l; $PROBE write /proc/sys/net/ipv4/ip_forward; \
         ip link add dummy9 type dummy 2>&1; ip addr add 192.0.2.1/32 dev lo 2>&1; \
         for kind in mnt pid ipc uts user cgroup net; do busybox readlink /proc/self/ns/$kind; done; \
         $PROBE calls | busybox grep -v -e EPERM -e ENOSYS; $PROBE sockets | busybox grep -E '^(packet|vsock|alg).*ok'"
    ));
    request.network = Network::Host;
    let (text, _) = host.run_one(request).await;
    let lines: Vec<&str> = text.lines().collect();
    let none = "0000000000000000";
    let expected = [
        "ok".to_owned(),
        "Uid: 1000 1000 1000 1000".to_owned(),
        "Gid: 1000 1000 1000 1000".to_owned(),
        format!("CapPrm: {none}"),
        format!("CapEff: {none}"),
        format!("CapBnd: {none}"),
        format!("CapAmb: {none}"),
        "NoNewPrivs:\t1".to_owned(),
        "Seccomp:\t2".to_owned(),
        "         0     100000      65536".to_owned(),
        "0".to_owned(),
    ];
    assert_eq!(lines[..expected.len()], expected, "{text}");
    assert!(["EROFS", "EACCES"].contains(&lines[expected.len()]), "{text}");
    let refusals = lines.iter().filter(|line| line.contains("Operation not permitted")).count();
    assert_eq!(refusals, 2, "{text}");
    // Every namespace but that of the network is its own, and nothing comes after them.
    for kind in ["mnt", "pid", "ipc", "uts", "user", "cgroup", "net"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a process has namespaces");
        assert_eq!(lines.contains(&&*own.to_string_lossy()), kind == "net", "{kind}: {text}");
    }
    assert!(lines.last().is_some_and(|line| line.starts_with("net:")), "{text}");
    host.end().await;
}
