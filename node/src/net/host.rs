//! What the host has of its own: its addresses, its routes, and whether it lets packets through.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::net::if_::if_indextoname;

use super::netlink::{Socket, attributes, u32_at};
use super::subnet::Subnet;

/// What the names of the wires of all nodes begin with.
pub(super) const LINK_PREFIX: &str = "hearth";

/// The longest name of an interface: what tells the nodes of a machine apart, and the wires of a node, share the rest.
const LINK_NAME_MAX: usize = 15;

/// How many digits tell the wires of a node apart.
const WIRE_DIGITS: usize = 4;

/// How many digits tell the nodes of a machine apart.
pub(super) const NODE_DIGITS: usize = LINK_NAME_MAX - LINK_PREFIX.len() - WIRE_DIGITS;

/// The interface by which a host speaks to itself.
const LOOPBACK: &str = "lo";

/// The kernel's settings of IPv4. A thread sees those of its own network namespace.
const SETTINGS: &str = "/proc/sys/net/ipv4";

/// How long the fixed part of messages about routes and addresses is, in bytes.
const ROUTE_FIXED: usize = 12;
const ADDRESS_FIXED: usize = 8;

fn is_wire(link: &str) -> bool {
    link.len() == LINK_NAME_MAX && link.starts_with(LINK_PREFIX)
}

/// Returns the name of the host's end of a wire, by its number.
pub(super) fn wire_name(links: &str, number: u32) -> String {
    format!("{links}{number:0WIRE_DIGITS$x}")
}

fn link_name(index: u32) -> Option<String> {
    if_indextoname(index).ok().map(|name| name.to_string_lossy().into_owned())
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}

/// A route that leads to addresses of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) base: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) link: Option<String>,
}

/// Returns a route of the host's that leads to addresses of a subnet, if there is one; wires and default routes are none.
pub(super) fn clash(socket: &mut Socket, subnet: Subnet) -> io::Result<Option<Route>> {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[0] = libc::AF_INET.to_le_bytes()[0];
    let routes = socket.dump(libc::RTM_GETROUTE, &fixed)?;
    let clashing = |body: &Vec<u8>| {
        let prefix = *body.get(1)?;
        let find = |kind| attributes(body, ROUTE_FIXED).find(|(found, _)| *found == kind).map(|(_, value)| value);
        let base = address(find(libc::RTA_DST)?)?;
        if prefix == 0 || !subnet.overlaps(base, prefix) {
            return None;
        }
        let link = find(libc::RTA_OIF).and_then(|index| u32_at(index, 0)).and_then(link_name);
        let is_wire = link.as_deref().is_some_and(is_wire);
        (!is_wire).then_some(Route { base, prefix, link })
    };
    Ok(routes.iter().find_map(clashing))
}

/// Returns the addresses of the host, with the interface of each.
pub(super) fn addresses(socket: &mut Socket) -> io::Result<BTreeSet<(Ipv4Addr, String)>> {
    let mut fixed = [0; ADDRESS_FIXED];
    fixed[0] = libc::AF_INET.to_le_bytes()[0];
    let found = socket.dump(libc::RTM_GETADDR, &fixed)?;
    let read = |body: &Vec<u8>| {
        let link = link_name(u32_at(body, 4)?)?;
        let value = attributes(body, ADDRESS_FIXED).find(|(kind, _)| *kind == libc::IFA_LOCAL)?.1;
        Some((address(value)?, link))
    };
    Ok(found.iter().filter_map(read).collect())
}

/// The interfaces of the host over which answers for sandboxes come in, and that let them through for it.
///
/// Where the host is a router already, nothing is changed. Else each interface that has an address is told to let packets
/// through, and the rules of the table say which: answers to sandboxes, and nothing else. The switch for all of the machine
/// is never touched, so that it goes on telling whether anybody else made it a router.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// Where those are written down that were told to, for a daemon that comes after a crash.
    record: PathBuf,
    told: BTreeSet<String>,
}

impl Forwarding {
    pub(super) fn new(record: PathBuf) -> Self {
        let told = fs::read_to_string(&record).unwrap_or_default().lines().map(str::to_owned).collect();
        Self { record, told }
    }

    /// Looks which interfaces of a host that is no router answers come in by, and returns those that are there for nothing else.
    ///
    /// With a neighbour, an interface that lets packets through may do so for it: whoever leaves last tells it otherwise.
    pub(super) fn look(&mut self, socket: &mut Socket, has_neighbour: bool) -> io::Result<&BTreeSet<String>> {
        for (_, link) in addresses(socket)?.into_iter().filter(|(_, link)| link != LOOPBACK) {
            match is_on(&setting(&link)) {
                Ok(is_on) if is_on && !has_neighbour => {}
                Ok(_) => {
                    if self.told.insert(link) {
                        self.write()?;
                    }
                }
                // It has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.told)
    }

    /// Lets answers through.
    pub(super) fn turn_on(&self) -> io::Result<()> {
        self.told.iter().map(|link| setting(link)).try_for_each(|setting| match is_on(&setting) {
            Ok(false) => fs::write(setting, "1"),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(true) | Err(_) => Ok(()),
        })
    }

    fn write(&self) -> io::Result<()> {
        fs::write(&self.record, self.told.iter().map(|link| format!("{link}\n")).collect::<String>())
    }

    /// Leaves the interfaces as they were, unless a neighbour needs them or somebody made the host a router.
    pub(super) fn restore(&self, has_neighbour: bool) -> io::Result<()> {
        if !has_neighbour && !is_router()? {
            for link in &self.told {
                match fs::write(setting(link), "0") {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Returns whether somebody made this machine a router.
pub(super) fn is_router() -> io::Result<bool> {
    is_on(&Path::new(SETTINGS).join("ip_forward"))
}

fn setting(link: &str) -> PathBuf {
    Path::new(SETTINGS).join("conf").join(link).join("forwarding")
}

fn is_on(setting: &Path) -> io::Result<bool> {
    Ok(fs::read_to_string(setting)?.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wires_are_known_by_their_names() {
        let links = format!("{LINK_PREFIX}{:0NODE_DIGITS$}", 7);
        // The last address of the largest range has the longest name.
        let last = Subnet::DEFAULT.count() - 1;
        assert_eq!(wire_name(&links, last), "hearth00007fffd");
        assert!(is_wire(&wire_name(&links, 0)) && is_wire(&wire_name(&links, last)));
        for other in ["eth0", "hearth", "hearth0", "xearth00007fffd"] {
            assert!(!is_wire(other), "{other}");
        }
    }

    #[test]
    fn what_was_told_is_remembered() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let record = folder.path().join("forwarding");
        let mut forwarding = Forwarding::new(record.clone());
        forwarding.told.extend(["eth0".to_owned(), "eth1.100".to_owned()]);
        forwarding.write().expect("it can be written");
        assert_eq!(Forwarding::new(record).told, forwarding.told);
    }

    #[test]
    fn the_host_has_its_loopback() {
        let mut socket = Socket::to_routes().expect("the kernel has routes");
        let found = addresses(&mut socket).expect("they can be read");
        assert!(found.contains(&(Ipv4Addr::LOCALHOST, "lo".to_owned())), "{found:?}");
    }

    #[test]
    fn the_route_to_loopback_is_found() {
        let mut socket = Socket::to_routes().expect("the kernel has routes");
        let taken: Subnet = "192.0.2.0/24".parse().expect("it is a range");
        // Nothing is said about routes that a machine may have or not; but every one has an answer.
        clash(&mut socket, taken).expect("they can be read");
    }
}
