//! Where other nodes reach this one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

/// Returns what other nodes are told: what is configured, else the address this node listens on, else, where it listens on
/// all, the first that leads off this machine.
///
/// `seen` is the address of this machine that a connection to another node was made from, if there was one: it leads there.
pub fn advertised(configured: &str, listening: SocketAddr, seen: Option<IpAddr>) -> String {
    if !configured.is_empty() {
        return with_port(configured, listening.port());
    }
    let ip = if listening.ip().is_unspecified() { seen.unwrap_or_else(of_machine) } else { listening.ip() };
    SocketAddr::new(ip, listening.port()).to_string()
}

/// Adds the port to a host that has none.
fn with_port(host: &str, port: u16) -> String {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return SocketAddr::new(ip, port).to_string();
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

/// Returns the first address of this machine that leads somewhere else, or loopback.
fn of_machine() -> IpAddr {
    let found = getifaddrs().map_err(io::Error::from).map(|interfaces| {
        let addresses = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        let mut leading: Vec<IpAddr> = addresses.filter(leads_off).collect();
        leading.sort_by_key(|address| !address.is_ipv4());
        leading.first().copied()
    });
    found.ok().flatten().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn leads_off(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_counts_before_what_is_found() {
        let all: SocketAddr = "0.0.0.0:8100".parse().unwrap();
        let one: SocketAddr = "10.1.2.3:8100".parse().unwrap();
        let seen = Some("10.9.9.9".parse().unwrap());
        for (configured, listening, seen, expected) in [
            ("", one, seen, "10.1.2.3:8100"),
            ("", all, seen, "10.9.9.9:8100"),
            ("10.7.7.7", all, seen, "10.7.7.7:8100"),
            ("fd00::7", all, None, "[fd00::7]:8100"),
            ("[fd00::7]:81", all, None, "[fd00::7]:81"),
            ("host.example", one, None, "host.example:8100"),
            ("host.example:81", one, None, "host.example:81"),
        ] {
            assert_eq!(advertised(configured, listening, seen), expected, "{configured:?} {listening}");
        }
        assert!(!advertised("", all, None).starts_with("0.0.0.0"), "nobody reaches that");
    }
}
