//! The wire between a sandbox and its host: a pair of virtual interfaces, one at each end, and the routes over it.
//!
//! ```text
//!   sandbox                                    host
//!   eth0  100.127.3.7/32  ◀────── veth ──────▶ hearth1a2b30306   no address
//!   default via 169.254.1.1                    100.127.3.7/32 by this link
//! ```
//!
//! Each sandbox has a segment of its own, so that there is nobody on it to speak to, to listen to or to impersonate: the other
//! end is the host, under an address that nobody else sees. Both ends know each other's hardware address from the start and ask
//! nobody for it. A wire ends with the network namespace of its sandbox, and its route with it: nothing has to be taken down,
//! not even after the daemon was killed.
//!
//! The kernel is the list of the addresses that are taken: a name or a route that is there already is refused, and the next
//! address is tried. So neither a restart nor another daemon on the machine makes two sandboxes share one.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use libc::{
    IFA_ADDRESS, IFA_LOCAL, IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO,
    IFLA_NET_NS_FD, IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES, NDA_DST, NDA_LLADDR, RTA_DST, RTA_GATEWAY, RTA_OIF,
};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::host;
use super::netlink::{ACK, CREATE, EXCLUSIVE, Message, Socket};
use super::subnet::Subnet;

/// The interface of a sandbox, as it sees it.
const INSIDE: &str = "eth0";

/// The host, as a sandbox sees it. It has this address nowhere.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The hardware address of the host on every wire.
const GATEWAY_HARDWARE: [u8; 6] = [0x02, 0x48, 0, 0, 0, 0];

/// What a wire is inside of [`libc::IFLA_INFO_DATA`].
const VETH_INFO_PEER: u16 = 1;
/// Settings of IPv4 inside of its part of [`libc::IFLA_AF_SPEC`], and the one that lets packets through.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_FORWARDING: u16 = 1;
/// How IPv6 makes addresses by itself, inside of its part of [`libc::IFLA_AF_SPEC`], and the way that makes none.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// The gateway is on the link although no route says so.
const RTNH_F_ONLINK: u32 = 4;

const INET: u8 = 2;
const INET6: u16 = 10;
const ALL_BITS: u8 = 32;

/// What whoever lays wires must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wiring {
    /// What the names of the host's ends begin with.
    pub(super) links: String,
    /// Where addresses come from.
    pub(super) subnet: Subnet,
}

/// Why a sandbox has no wire.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Refused { step: &'static str, source: io::Error },
    /// Every address is taken.
    #[error("all {} addresses of egress.subnet {subnet} are taken", subnet.count())]
    Exhausted { subnet: Subnet },
}

fn at(step: &'static str) -> impl Fn(io::Error) -> WireError {
    move |source| WireError::Refused { step, source }
}

impl Wiring {
    /// Lays a wire from this network namespace, which is `home`, into that of a sandbox; `next` is the address to try first.
    ///
    /// The calling process must have one thread: it goes into the sandbox's namespace and comes back.
    pub(crate) fn lay(&self, next: &mut u32, sandbox: &File, home: &File) -> Result<Ipv4Addr, WireError> {
        let mut socket = Socket::to_routes().map_err(at("the kernel's routes cannot be spoken to"))?;
        for _ in 0..self.subnet.count() {
            let number = *next % self.subnet.count();
            *next = number.wrapping_add(1);
            let address = self.subnet.address(number);
            match self.connect(&mut socket, number, address, sandbox) {
                Ok(()) => {}
                Err(WireError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => continue,
                Err(error) => return Err(error),
            }
            enter(sandbox).map_err(at("the network namespace of the sandbox cannot be entered"))?;
            let configured = configure_inside(address);
            let returned = enter(home);
            // A spawner that cannot come home would lay wires from a stranger's namespace from here on.
            assert!(returned.is_ok(), "the spawner could not return to its own network namespace");
            return configured.map(|()| address);
        }
        Err(WireError::Exhausted { subnet: self.subnet })
    }

    /// Makes both ends, and the way to the sandbox from here.
    fn connect(&self, socket: &mut Socket, number: u32, address: Ipv4Addr, sandbox: &File) -> Result<(), WireError> {
        let name = host::wire_name(&self.links, number);
        socket
            .ask(pair(&name, address, sandbox))
            .map_err(at("a pair of interfaces cannot be made (kernel module veth)"))?;
        let link = index(&name).map_err(at("the host's end is gone"))?;
        let ready = without_ipv6(socket, link)
            .and_then(|()| socket.ask(forwarding(link)))
            .and_then(|()| socket.ask(up(link)))
            .map_err(at("the host's end cannot be set up"))
            .and_then(|()| socket.ask(host_route(link, address)).map_err(at("the route to the sandbox cannot be made")))
            .and_then(|()| {
                let hardware = hardware(address);
                socket.ask(neighbour(link, address, hardware)).map_err(at("the sandbox's end cannot be made known"))
            });
        if ready.is_err() {
            // Another daemon has the address, most likely; the wire goes with the sandbox should this fail, too.
            let _ = socket.ask(Message::new(libc::RTM_DELLINK, ACK, &link_header(link, 0, 0)));
        }
        ready
    }
}

fn configure_inside(address: Ipv4Addr) -> Result<(), WireError> {
    let configure = || -> io::Result<()> {
        let mut socket = Socket::to_routes()?;
        let link = index(INSIDE)?;
        without_ipv6(&mut socket, link)?;
        let own = [INET, ALL_BITS, 0, 0].into_iter().chain(link.to_ne_bytes()).collect::<Vec<_>>();
        let own = Message::new(libc::RTM_NEWADDR, ACK | CREATE | EXCLUSIVE, &own)
            .with(IFA_LOCAL, &address.octets())
            .with(IFA_ADDRESS, &address.octets());
        socket.ask(own)?;
        socket.ask(up(link))?;
        socket.ask(neighbour(link, GATEWAY, GATEWAY_HARDWARE))?;
        socket.ask(default_route(link))
    };
    configure().map_err(at("the sandbox's end cannot be set up"))
}

fn enter(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

fn index(name: &str) -> io::Result<u32> {
    Ok(if_nametoindex(name)?)
}

/// Returns the hardware address of a sandbox: locally administered, and another one for each address.
fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x48, a, b, c, d]
}

/// Returns the fixed part of messages about links.
fn link_header(index: u32, flags: u32, changed: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&changed.to_ne_bytes());
    header
}

/// Makes both ends, of which one is in the sandbox from its first moment.
fn pair(name: &str, address: Ipv4Addr, sandbox: &File) -> Message {
    let one_queue = |end: &mut Message| {
        end.put(IFLA_NUM_TX_QUEUES, &1u32.to_ne_bytes());
        end.put(IFLA_NUM_RX_QUEUES, &1u32.to_ne_bytes());
    };
    let mut message = Message::new(libc::RTM_NEWLINK, ACK | CREATE | EXCLUSIVE, &link_header(0, 0, 0));
    message.put_text(IFLA_IFNAME, name);
    message.put(IFLA_ADDRESS, &GATEWAY_HARDWARE);
    one_queue(&mut message);
    message.nest(IFLA_LINKINFO, |info| {
        info.put_text(IFLA_INFO_KIND, "veth");
        info.nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.put_fixed(&link_header(0, 0, 0));
                peer.put_text(IFLA_IFNAME, INSIDE);
                peer.put(IFLA_ADDRESS, &hardware(address));
                peer.put(IFLA_NET_NS_FD, &sandbox.as_raw_fd().to_ne_bytes());
                one_queue(peer);
            });
        });
    });
    message
}

/// Keeps a link that is still down from ever giving itself an address of IPv6; a kernel without IPv6 needs no telling.
fn without_ipv6(socket: &mut Socket, link: u32) -> io::Result<()> {
    let message =
        Message::new(libc::RTM_SETLINK, ACK, &link_header(link, 0, 0)).with_nested(IFLA_AF_SPEC, |families| {
            families.nest(INET6, |settings| settings.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]));
        });
    match socket.ask(message) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        result => result,
    }
}

/// Lets packets that come from a link go on to others.
fn forwarding(link: u32) -> Message {
    Message::new(libc::RTM_SETLINK, ACK, &link_header(link, 0, 0)).with_nested(IFLA_AF_SPEC, |families| {
        families.nest(u16::from(INET), |settings| {
            settings.nest(IFLA_INET_CONF, |values| values.put(IPV4_DEVCONF_FORWARDING, &1u32.to_ne_bytes()));
        });
    })
}

fn up(link: u32) -> Message {
    let flag = libc::IFF_UP.unsigned_abs();
    Message::new(libc::RTM_SETLINK, ACK, &link_header(link, flag, flag))
}

/// Returns the fixed part of messages about routes.
fn route_header(bits: u8, scope: u8, flags: u32) -> Vec<u8> {
    let kind = [INET, bits, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST];
    kind.into_iter().chain(flags.to_ne_bytes()).collect()
}

fn host_route(link: u32, address: Ipv4Addr) -> Message {
    let header = route_header(ALL_BITS, libc::RT_SCOPE_LINK, 0);
    Message::new(libc::RTM_NEWROUTE, ACK | CREATE | EXCLUSIVE, &header)
        .with(RTA_DST, &address.octets())
        .with(RTA_OIF, &link.to_ne_bytes())
}

fn default_route(link: u32) -> Message {
    let header = route_header(0, libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK);
    Message::new(libc::RTM_NEWROUTE, ACK | CREATE | EXCLUSIVE, &header)
        .with(RTA_GATEWAY, &GATEWAY.octets())
        .with(RTA_OIF, &link.to_ne_bytes())
}

/// Makes the other end of a link known for good: such an entry never counts for the limits of the kernel's table.
fn neighbour(link: u32, address: Ipv4Addr, hardware: [u8; 6]) -> Message {
    let mut header = vec![INET, 0, 0, 0];
    header.extend_from_slice(&link.to_ne_bytes());
    header.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    header.extend_from_slice(&[0, 0]);
    Message::new(libc::RTM_NEWNEIGH, ACK | CREATE, &header).with(NDA_DST, &address.octets()).with(NDA_LLADDR, &hardware)
}
