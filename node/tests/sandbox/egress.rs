//! Sandboxes with a way out: what they reach, what they do not, who reaches them, and what is left of it.
//!
//! Each test has a machine of its own; see `machine.rs`.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;

use node::net::Subnet;
use node::sandbox::{LaunchRequest, Network, Sandboxes};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::Test;
use crate::host::{Host, finish};
use crate::machine::{Machine, PATIENCE, PORT, Place, eventually, on_machine};
use crate::tables;

/// Names tests that have a machine.
macro_rules! machine_tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), || on_machine($name))),*] };
}

pub(crate) const TESTS: &[Test] = machine_tests![
    a_way_out_leads_beyond_the_host_under_its_address,
    the_host_its_peers_and_link_local_addresses_are_out_of_reach,
    an_address_of_the_host_is_one_wherever_packets_are_led,
    nothing_leaves_in_the_name_of_somebody_else,
    nothing_is_opened_towards_a_sandbox_with_a_way_out,
    an_adopted_sandbox_keeps_its_way_out_and_the_last_leaves_nothing,
    two_daemons_share_a_machine_and_a_range,
    a_host_that_was_no_router_becomes_none,
    whoever_loads_a_firewall_anew_opens_nothing,
    a_range_that_the_host_has_a_route_to_is_refused,
    names_are_resolved_by_whom_a_sandbox_reaches,
];

fn reaching(host: &Host, script: &str) -> LaunchRequest {
    LaunchRequest { network: Network::Egress, ..host.probing(script) }
}

/// Returns the range that the machine has no route into.
fn range(text: &str) -> Subnet {
    text.parse().expect("it is a range")
}

/// Asserts that no trace of a way out is left on the machine; the kernel takes links down by itself.
async fn assert_untouched(machine: &Machine, before: &[String]) {
    let start = std::time::Instant::now();
    while traces(machine) != before && start.elapsed() < PATIENCE {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await; // between two looks
    }
    assert_eq!(traces(machine), before, "something is left of a way out");
}

/// Returns everything that a way out changes.
fn traces(machine: &Machine) -> Vec<String> {
    let links = machine.told(Place::Machine, &["-o", "-br", "link"]);
    let routes = machine.told(Place::Machine, &["-4", "route", "show", "table", "all"]);
    let neighbours = machine.told(Place::Machine, &["neigh", "show", "nud", "permanent"]);
    let forwarding = ["conf/eth0/forwarding", "conf/eth1/forwarding", "ip_forward"].map(|name| machine.setting(name));
    let tables = machine.within(Place::Machine, tables::names);
    [vec![links, routes, neighbours], forwarding.to_vec(), tables].concat()
}

async fn a_way_out_leads_beyond_the_host_under_its_address(machine: Arc<Machine>) {
    let before = traces(&machine);
    let host = Host::start();
    let (text, _) = host
        .run_one(reaching(
            &host,
            &format!(
                "$PROBE fetch 203.0.113.2:{PORT}; $PROBE ask 203.0.113.2:{PORT}; $PROBE fetch 198.51.100.2:{PORT}; \
                 $PROBE connect [fd00::1]:{PORT}; $PROBE connect [fe80::1%2]:{PORT}; $PROBE who; \
                 busybox ip -o -4 addr show eth0; ls /sys/class/net; busybox ip -6 addr show eth0"
            ),
        ))
        .await;
    let lines: Vec<&str> = text.lines().collect();
    let none = "0000000000000000";
    let expected = [
        "seen as 203.0.113.1".to_owned(),
        "seen as 203.0.113.1".to_owned(),
        "seen as 198.51.100.1".to_owned(),
        "ENETUNREACH".to_owned(),
        "ENETUNREACH".to_owned(),
        "Uid: 1000 1000 1000 1000".to_owned(),
        "Gid: 1000 1000 1000 1000".to_owned(),
        format!("CapPrm: {none}"),
        format!("CapEff: {none}"),
        format!("CapBnd: {none}"),
        format!("CapAmb: {none}"),
    ];
    assert_eq!(lines[..expected.len()], expected, "{text}");
    assert!(lines[expected.len()].contains("inet 100.127."), "{text}");
    assert_eq!(&lines[expected.len() + 1..], ["eth0", "lo"], "{text}");

    // A sandbox beside it has none.
    let (text, _) = host.probe(&format!("$PROBE fetch 203.0.113.2:{PORT}; ls /sys/class/net")).await;
    assert_eq!(text, "ENETUNREACH\nlo\n");
    host.end().await;
    assert_untouched(&machine, &before).await;
}

async fn the_host_its_peers_and_link_local_addresses_are_out_of_reach(machine: Arc<Machine>) {
    machine.ip(Place::Machine, &["addr", "add", "192.0.2.9/32", "dev", "lo"]);
    let peer = format!("203.0.113.3:{PORT}").parse().expect("it is an address");
    let peers = watch::Sender::new(BTreeSet::from([peer]));
    let host = Host::start_with(|config| config.egress.peers = peers.subscribe());
    let places =
        ["203.0.113.1", "198.51.100.1", "192.0.2.9", "203.0.113.3", "169.254.169.254"].map(|ip| format!("{ip}:{PORT}"));
    for place in &places {
        // Somebody is there.
        assert!(machine.fetch(Place::Machine, place).is_ok(), "{place}");
        let (text, _) = host.run_one(reaching(&host, &format!("$PROBE connect {place}; $PROBE ask {place}"))).await;
        assert_eq!(text, "ECONNREFUSED\nEHOSTUNREACH\n", "{place}");
    }
    let (text, _) = host
        .run_one(reaching(&host, &format!("$PROBE connect 127.0.0.1:{PORT}; $PROBE connect 169.254.1.1:{PORT}")))
        .await;
    assert_eq!(text, "ECONNREFUSED\nECONNREFUSED\n");

    // A node that is none any more is a machine like any other, and the other way round.
    let others = BTreeSet::from([format!("203.0.113.2:{PORT}").parse().expect("it is an address")]);
    peers.send_replace(others);
    let script = format!(
        "until [ $($PROBE connect 203.0.113.2:{PORT}) = ECONNREFUSED ]; do :; done; $PROBE fetch {}",
        places[3]
    );
    let (text, _) = host.run_one(reaching(&host, &script)).await;
    assert_eq!(text, "seen as 203.0.113.1\n");
    host.end().await;
}

/// What leads to the host is judged twice: by its addresses before anything else, and by where it ends up after all.
async fn an_address_of_the_host_is_one_wherever_packets_are_led(machine: Arc<Machine>) {
    let place = |ip: &str| format!("{ip}:{PORT}");
    let host = Host::start();
    // An address of the host that is led away from it, to where somebody answers.
    machine.ip(Place::Machine, &["addr", "add", "192.0.2.9/32", "dev", "lo"]);
    machine.ip(Place::Outside, &["addr", "add", "192.0.2.9/32", "dev", "lo"]);
    machine.ip(Place::Machine, &["route", "add", "192.0.2.9/32", "via", "203.0.113.2", "table", "100"]);
    machine.ip(Place::Machine, &["rule", "add", "pref", "1", "lookup", "local"]);
    machine.ip(Place::Machine, &["rule", "add", "pref", "0", "to", "192.0.2.9", "lookup", "100"]);
    machine.ip(Place::Machine, &["rule", "del", "pref", "0", "lookup", "local"]);
    assert_eq!(machine.fetch(Place::Machine, &place("192.0.2.9")).ok().as_deref(), Some("seen as 203.0.113.1"));
    // An address of nobody's that is led to the host.
    machine.ip(Place::Machine, &["route", "add", "local", "192.0.2.10/32", "dev", "lo", "table", "main"]);
    for ip in ["192.0.2.9", "192.0.2.10"] {
        let (text, _) = host.run_one(reaching(&host, &format!("$PROBE connect {}", place(ip)))).await;
        assert_eq!(text, "ECONNREFUSED\n", "{ip}");
    }
    host.end().await;
}

async fn nothing_leaves_in_the_name_of_somebody_else(machine: Arc<Machine>) {
    const FORGED: &str = "203.0.113.77";
    let witness = machine.within(Place::Outside, || UdpSocket::bind("203.0.113.2:7001").expect("the port is free"));
    witness.set_read_timeout(Some(PATIENCE)).expect("a socket has deadlines");
    let host = Host::start();
    // It cannot give itself the address; the test does, which may do everything.
    let script = format!(
        "echo begun; until $PROBE ask from {FORGED} 203.0.113.2:7001 | busybox grep -q -v EADDRNOTAVAIL; do :; done; \
         $PROBE ask 203.0.113.2:7001; echo end"
    );
    let (sandbox, _output, _) = host.start_until_line(reaching(&host, &script)).await;
    let status = Command::new("nsenter")
        .args([&format!("--net=/proc/{}/ns/net", sandbox.pid()), "ip", "addr", "add", FORGED, "dev", "eth0"])
        .status();
    assert!(status.expect("nsenter is there").success());
    let mut packet = [0; 64];
    let (length, from) = witness.recv_from(&mut packet).expect("a packet arrives");
    assert_eq!((&packet[..length], from.ip().to_string().as_str()), (b"who am I?".as_slice(), "203.0.113.1"));
    sandbox.destroy().await;
    host.end().await;
}

async fn nothing_is_opened_towards_a_sandbox_with_a_way_out(machine: Arc<Machine>) {
    let host = Host::start();
    let script = format!(
        "$PROBE listen all {PORT} > /tmp/said & until [ -s /tmp/said ]; do :; done; \
         busybox ip -o -4 addr show eth0 | busybox sed 's/.*inet \\([0-9.]*\\).*/\\1/'; while :; do sleep 1; done"
    );
    let (sandbox, _output, address) = host.start_until_line(reaching(&host, &script)).await;
    let place = format!("{address}:{PORT}");
    assert!(sandbox.connect_loopback(PORT).await.is_ok(), "it listens");
    let (text, _) = host.run_one(reaching(&host, &format!("$PROBE connect {place}"))).await;
    assert_eq!(text, "ECONNREFUSED\n", "a sibling");
    let error = machine.fetch(Place::Machine, &place).map_err(|error| error.kind());
    assert_eq!(error, Err(std::io::ErrorKind::ConnectionRefused), "the host");
    machine.ip(Place::Outside, &["route", "add", &format!("{address}/32"), "via", "203.0.113.1"]);
    let error = machine.fetch(Place::Outside, &place).map_err(|error| error.kind());
    assert_eq!(error, Err(std::io::ErrorKind::ConnectionRefused), "from outside");
    sandbox.destroy().await;
    host.end().await;
}

async fn an_adopted_sandbox_keeps_its_way_out_and_the_last_leaves_nothing(machine: Arc<Machine>) {
    let before = traces(&machine);
    let host = Host::start();
    let script = format!("while :; do $PROBE fetch 203.0.113.2:{PORT}; sleep 1; done");
    let (sandbox, output, line) = host.start_until_line(reaching(&host, &script)).await;
    assert_eq!(line, "seen as 203.0.113.1");
    drop((sandbox, output));
    host.sandboxes.shutdown().await;
    assert_eq!(machine.within(Place::Machine, tables::names).len(), 1, "the wall stays with what is behind it");
    let (again, mut adopted) = Sandboxes::start(host.config.clone()).expect("sandboxes can be made");
    let sandbox = adopted.pop().expect("the sandbox still runs");
    let mut output = sandbox.take_output().expect("the output is there again");
    // What it wrote while no daemon ran, and then what it writes under the next one.
    for _ in 0..3 {
        let mut line = [0; 20];
        output.stdout.read_exact(&mut line).await.expect("it goes on");
        assert_eq!(&line, b"seen as 203.0.113.1\n");
    }
    sandbox.destroy().await;
    again.shutdown().await;
    assert_untouched(&machine, &before).await;
}

async fn two_daemons_share_a_machine_and_a_range(machine: Arc<Machine>) {
    let before = traces(&machine);
    // Each keeps one sandbox in its pool and runs one: that is all there is.
    let start = || Host::start_with(|config| config.egress.subnet = range("10.99.0.8/29"));
    let hosts = [start(), start()];
    let script = format!("$PROBE fetch 203.0.113.2:{PORT}; while :; do sleep 1; done");
    let mut running = Vec::new();
    for host in &hosts {
        let (sandbox, _, line) = host.start_until_line(reaching(host, &script)).await;
        assert_eq!(line, "seen as 203.0.113.1");
        running.push(sandbox);
    }
    eventually("both pools are full", || hosts.iter().all(|host| host.sandboxes.blank_count(Network::Egress) == 1))
        .await;
    let routes = machine.told(Place::Machine, &["route"]);
    assert_eq!(routes.lines().filter(|line| line.starts_with("10.99.0.")).count(), 4, "{routes}");
    assert_eq!(machine.within(Place::Machine, tables::names).len(), 2);

    // The one that leaves takes nothing away from the other.
    let [first, second] = hosts;
    running.remove(0).destroy().await;
    first.end().await;
    let (text, _) = second.run_one(reaching(&second, &format!("$PROBE fetch 203.0.113.2:{PORT}"))).await;
    assert_eq!(text, "seen as 203.0.113.1\n");

    // Four more take what is left, as the pool keeps one; then it is told, and what ends makes room.
    let mut error = None;
    while error.is_none() {
        match second.sandboxes.launch(reaching(&second, "while :; do sleep 1; done")).await {
            Ok(sandbox) => running.push(sandbox),
            Err(refused) => error = Some(refused.to_string()),
        }
        assert!(running.len() <= 6, "more sandboxes than addresses");
    }
    assert!(error.is_some_and(|error| error.contains("all 6 addresses of egress.subnet 10.99.0.8/29 are taken")));
    for sandbox in running {
        sandbox.destroy().await;
    }
    second.end().await;
    assert_untouched(&machine, &before).await;
}

async fn a_host_that_was_no_router_becomes_none(machine: Arc<Machine>) {
    let before = traces(&machine);
    machine.ip(Place::Outside, &["route", "add", "198.51.100.0/24", "via", "203.0.113.1"]);
    machine.ip(Place::Far, &["route", "add", "default", "via", "198.51.100.1"]);
    let host = Host::start();
    let (text, _) = host.run_one(reaching(&host, &format!("$PROBE fetch 203.0.113.2:{PORT}"))).await;
    assert_eq!(text, "seen as 203.0.113.1\n");
    assert_eq!((machine.setting("ip_forward").as_str(), machine.setting("conf/eth0/forwarding").as_str()), ("0", "1"));
    let far = format!("198.51.100.2:{PORT}");
    assert!(machine.fetch(Place::Outside, &far).is_err(), "a stranger's packets pass");

    // An interface that comes later carries answers as well.
    machine.ip(Place::Machine, &["addr", "del", "203.0.113.1/24", "dev", "eth0"]);
    machine.set("conf/eth0/forwarding", "0");
    machine.ip(Place::Machine, &["addr", "add", "203.0.113.1/24", "dev", "eth0"]);
    eventually("it is told to let answers through", || machine.setting("conf/eth0/forwarding") == "1").await;

    // Whoever makes it a router is not hindered.
    machine.set("ip_forward", "1");
    eventually("strangers pass", || machine.fetch(Place::Outside, &far).is_ok()).await;
    host.end().await;
    assert_eq!(machine.setting("conf/eth0/forwarding"), "1", "what somebody else turned on stays on");
    machine.set("ip_forward", "0");
    machine.ip(Place::Machine, &["route", "add", "203.0.113.3/32", "via", "203.0.113.2"]);
    machine.ip(Place::Machine, &["route", "add", "169.254.0.0/16", "via", "203.0.113.2"]);
    machine.ip(Place::Machine, &["route", "add", "default", "via", "203.0.113.2"]);
    assert_untouched(&machine, &before).await;
}

async fn whoever_loads_a_firewall_anew_opens_nothing(machine: Arc<Machine>) {
    let host = Host::start();
    let fetch = format!("$PROBE fetch 203.0.113.2:{PORT}");
    host.run_one(reaching(&host, &fetch)).await;
    machine.within(Place::Machine, tables::flush);
    // From Linux 6.9 on at once, before within a look of the daemon.
    let refused = format!("[ $($PROBE connect 203.0.113.1:{PORT}) = ECONNREFUSED ]");
    let (text, _) = host.run_one(reaching(&host, &format!("until {refused}; do :; done; {fetch}"))).await;
    assert_eq!(text, "seen as 203.0.113.1\n");
    host.end().await;
}

async fn a_range_that_the_host_has_a_route_to_is_refused(machine: Arc<Machine>) {
    let before = traces(&machine);
    let host = Host::start_with(|config| config.egress.subnet = range("203.0.0.0/16"));
    let error = host.sandboxes.launch(reaching(&host, "true")).await.expect_err("there is no way out");
    let error = std::error::Error::source(&error).expect("it has a reason").to_string();
    assert!(error.starts_with("egress.subnet 203.0.0.0/16 overlaps the route to 203.0.113."), "{error}");
    assert!(error.ends_with("by eth0; set egress.subnet to a range that is free"), "{error}");
    // Everything else works, and nothing was touched.
    assert_eq!(traces(&machine), before);
    host.end().await;
}

async fn names_are_resolved_by_whom_a_sandbox_reaches(_machine: Arc<Machine>) {
    let dns = [[203, 0, 113, 2].into(), [203, 0, 113, 3].into()];
    let host = Host::start_with(|config| config.egress.dns = dns.to_vec());
    let sandbox = host.start_one(reaching(&host, "cat /etc/resolv.conf")).await;
    let (text, _) = finish(&sandbox).await;
    let named: Vec<&str> = text.lines().filter(|line| line.starts_with("nameserver")).collect();
    assert_eq!(named, ["nameserver 203.0.113.2", "nameserver 203.0.113.3"], "{text}");
    host.end().await;
}
