//! The tables of nf_tables in the network namespace of a thread, as the kernel tells of them: tests need no `nft`.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// What messages about tables begin with.
const SUBSYSTEM: u16 = 10;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

/// Returns the names of the tables that are Hearth's.
pub(crate) fn names() -> Vec<String> {
    let answer = ask(&message(GET_TABLE, REQUEST | DUMP, 0));
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
        .filter(|word| word.starts_with("hearth-"))
        .map(str::to_owned)
        .collect()
}

/// Deletes all tables that let themselves be deleted, as firewalls do that are loaded anew: `nft flush ruleset`.
pub(crate) fn flush() {
    let batch = [
        message(BATCH_BEGIN, REQUEST, SUBSYSTEM),
        message(DELETE_TABLE, REQUEST | ACK, 0),
        message(BATCH_END, REQUEST, SUBSYSTEM),
    ];
    let answer = ask(&batch.concat());
    // The header, and then the number of the error.
    assert_eq!(answer[16..20], [0; 4], "the kernel did not flush");
}

fn ask(packet: &[u8]) -> Vec<u8> {
    let kernel: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .expect("the kernel speaks netlink");
    sendto(kernel.as_raw_fd(), packet, &NetlinkAddr::new(0, 0), MsgFlags::empty()).expect("the kernel listens");
    let mut answer = vec![0; 1 << 16];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("the kernel answers");
    answer.truncate(length);
    answer
}

/// Returns a message about everything there is, of every family.
fn message(kind: u16, flags: u16, resource: u16) -> Vec<u8> {
    let mut message = 20u32.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(resource.to_be_bytes());
    message
}
