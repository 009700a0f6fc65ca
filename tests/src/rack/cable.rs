//! The network of a rack: a bridge, a cable to each host, and hands that cut, silence and move.

use std::process::Command;

use super::{Rack, silent};

impl Rack {
    /// Makes the network between the hosts.
    pub(super) fn wire(&self) {
        let switch = self.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        let plug = |port: &str| {
            ip(&["-n", &switch, "link", "set", port, "master", "br0"]);
            ip(&["-n", &switch, "link", "set", port, "up"]);
        };
        let own = self.own_link();
        ip(&["link", "add", &own, "type", "veth", "peer", "name", "p0", "netns", &switch]);
        ip(&["addr", "add", &format!("{}/24", self.own_address()), "dev", &own]);
        ip(&["link", "set", &own, "up"]);
        plug("p0");
        for host in 1..=self.hosts.len() {
            let (netns, port) = (self.netns(host), port(host));
            ip(&["netns", "add", &netns]);
            ip(&["-n", &netns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &switch]);
            ip(&["-n", &netns, "addr", "add", &format!("{}/24", self.address(host)), "dev", "eth0"]);
            ip(&["-n", &netns, "link", "set", "eth0", "up"]);
            ip(&["-n", &netns, "link", "set", "lo", "up"]);
            plug(&port);
        }
    }

    fn switch(&self) -> String {
        format!("{}sw", self.name)
    }

    fn own_link(&self) -> String {
        format!("{}r", self.name)
    }

    /// Returns the name of the namespace that a host is.
    pub(super) fn netns(&self, host: usize) -> String {
        format!("{}h{host}", self.name)
    }

    /// Takes the network between the hosts away.
    pub(super) fn unwire(&self) {
        for host in 1..=self.hosts.len() {
            try_ip(&["netns", "del", &self.netns(host)]);
        }
        try_ip(&["link", "del", &self.own_link()]);
        try_ip(&["netns", "del", &self.switch()]);
    }

    /// Takes back whatever was done to the cable of a host.
    pub(super) fn mend_all(&self, host: usize) {
        try_ip(&["-n", &self.switch(), "link", "set", &port(host), "up"]);
        for other in 1..=self.hosts.len() {
            let _ = silent("ip", &["-n", &self.netns(host), "route", "del", &format!("{}/32", self.address(other))]);
        }
    }

    /// Gives a host whose agent does not run another address, which ends in `place`: more than there are hosts, and below 254.
    pub fn relocate(&mut self, host: usize, place: usize) {
        assert!(self.host(host).agent.is_none(), "host {host} runs");
        assert!((self.hosts.len() + 1..254).contains(&place), "{place} may be another host's");
        let netns = self.netns(host);
        ip(&["-n", &netns, "addr", "del", &format!("{}/24", self.address(host)), "dev", "eth0"]);
        self.host_mut(host).place = place;
        ip(&["-n", &netns, "addr", "add", &format!("{}/24", self.address(host)), "dev", "eth0"]);
    }

    /// Pulls the cable of a host.
    pub fn cut(&self, host: usize) {
        ip(&["-n", &self.switch(), "link", "set", &port(host), "down"]);
    }

    /// Plugs the cable of a host in again.
    pub fn mend(&self, host: usize) {
        ip(&["-n", &self.switch(), "link", "set", &port(host), "up"]);
    }

    /// Loses everything that one host sends to another; what comes back arrives.
    pub fn mute(&self, from: usize, to: usize) {
        ip(&["-n", &self.netns(from), "route", "add", "blackhole", &format!("{}/32", self.address(to))]);
    }

    /// Takes [`Rack::mute`] back.
    pub fn unmute(&self, from: usize, to: usize) {
        ip(&["-n", &self.netns(from), "route", "del", "blackhole", &format!("{}/32", self.address(to))]);
    }
}

/// Returns the name of the bridge's port of a host.
fn port(host: usize) -> String {
    format!("p{host}")
}

fn ip(arguments: &[&str]) {
    assert!(try_ip(arguments), "ip {arguments:?} failed");
}

fn try_ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).status().is_ok_and(|status| status.success())
}
