//! Whom a sandbox asks for names: the host's own resolvers, as far as a sandbox reaches them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Where a host says whom it asks.
const OF_HOST: &str = "/etc/resolv.conf";

/// Where systemd-resolved, which answers on loopback alone, says whom it asks in turn.
const OF_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The names of its own that a host has.
const NAMES_OF_HOST: &str = "/etc/hosts";

/// What a sandbox's `resolv.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolvers {
    text: String,
    /// The host's resolvers that no sandbox reaches, if it reaches none at all.
    unreachable: Vec<String>,
}

/// Writes the files about names that sandboxes with a way out see, into a layer of their own.
pub(super) fn write(layer: &Path, configured: &[Ipv4Addr], own: &BTreeSet<Ipv4Addr>) -> io::Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let resolvers = choose(configured, own, &[read(OF_HOST), read(OF_RESOLVED)]);
    if !resolvers.unreachable.is_empty() {
        tracing::warn!(
            resolvers = resolvers.unreachable.join(", "),
            "functions with a way out resolve no names: the host's resolvers are its own, which no sandbox reaches; set egress.dns"
        );
    }
    fs::create_dir_all(layer.join("etc"))?;
    fs::write(layer.join("etc/resolv.conf"), resolvers.text)?;
    fs::write(layer.join("etc/hosts"), read(NAMES_OF_HOST))
}

/// Returns what is configured, or the first of several files that names a resolver within reach.
fn choose(configured: &[Ipv4Addr], own: &BTreeSet<Ipv4Addr>, files: &[String]) -> Resolvers {
    let host = files.first().map(String::as_str).unwrap_or_default();
    let rest: Vec<&str> = host.lines().filter(|line| !line.trim().is_empty() && resolver(line).is_none()).collect();
    let told = |resolvers: Vec<String>| {
        let named = resolvers.iter().map(|address| format!("nameserver {address}\n"));
        named.chain(rest.iter().map(|line| format!("{line}\n"))).collect::<String>()
    };
    if !configured.is_empty() {
        let text = told(configured.iter().map(Ipv4Addr::to_string).collect());
        return Resolvers { text, unreachable: Vec::new() };
    }
    let reachable = |text: &String| -> Vec<String> {
        let all = text.lines().filter_map(resolver);
        all.filter(|address| is_reachable(address, own)).map(str::to_owned).collect()
    };
    let found = files.iter().map(reachable).find(|found| !found.is_empty()).unwrap_or_default();
    let unreachable =
        if found.is_empty() { host.lines().filter_map(resolver).map(str::to_owned).collect() } else { Vec::new() };
    Resolvers { text: told(found), unreachable }
}

/// Returns the resolver that a line names.
fn resolver(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next()? == "nameserver").then(|| words.next()).flatten()
}

fn is_reachable(address: &str, own: &BTreeSet<Ipv4Addr>) -> bool {
    match address.parse() {
        Ok(IpAddr::V4(address)) => {
            !address.is_loopback() && !address.is_unspecified() && !address.is_link_local() && !own.contains(&address)
        }
        Ok(IpAddr::V6(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(configured: &[&str], files: [&str; 2], text: &str, unreachable: &[&str]) {
        let configured: Vec<Ipv4Addr> = configured.iter().map(|text| text.parse().expect("an address")).collect();
        let own = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 5)]);
        let resolvers = choose(&configured, &own, &files.map(str::to_owned));
        assert_eq!(
            (resolvers.text.as_str(), &resolvers.unreachable[..]),
            (text, &unreachable.iter().map(|&a| a.to_owned()).collect::<Vec<_>>()[..])
        );
    }

    #[test]
    fn resolvers_that_a_sandbox_reaches_are_taken_as_they_are() {
        let host =
            "# made by hand\nsearch example.org\nnameserver 10.0.0.1\nnameserver fd00::1\n\nnameserver 127.0.0.1\n";
        check(&[], [host, ""], "nameserver 10.0.0.1\n# made by hand\nsearch example.org\n", &[]);
    }

    #[test]
    fn whom_a_resolver_on_loopback_asks_in_turn_is_asked_instead() {
        let (host, resolved) = ("nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.7\nsearch .\n");
        check(&[], [host, resolved], "nameserver 192.0.2.7\noptions edns0\n", &[]);
    }

    #[test]
    fn a_host_that_asks_only_itself_has_nobody_to_offer() {
        let host = "nameserver 10.0.0.5\nnameserver 169.254.169.254\n";
        check(&[], [host, ""], "", &["10.0.0.5", "169.254.169.254"]);
        check(&[], ["", ""], "", &[]);
    }

    #[test]
    fn what_is_configured_stands_in_place_of_the_hosts() {
        let host = "nameserver 10.0.0.1\nsearch example.org\n";
        check(
            &["10.9.9.9", "10.9.9.10"],
            [host, ""],
            "nameserver 10.9.9.9\nnameserver 10.9.9.10\nsearch example.org\n",
            &[],
        );
    }
}
