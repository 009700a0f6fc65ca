//! Netlink: messages to the kernel made of nested attributes, over a socket on which every answer has a deadline.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long the kernel may take for an answer: a thousand times what it takes.
const ANSWER_MAX_SECONDS: i64 = 10;

/// Room for what the kernel sends at once, in bytes: it sends no more than 32 KiB.
const PACKET_MAX: usize = 64 * 1024;

/// The length of the header before each message, in bytes.
const HEADER: usize = 16;

/// The length of the header before each attribute, in bytes.
const ATTRIBUTE_HEADER: usize = 4;

/// Messages and attributes begin at multiples of this.
const ALIGNMENT: usize = 4;

/// The message is a request.
const REQUEST: u16 = 1;
/// The kernel is to say when it is done.
pub(super) const ACK: u16 = 4;
/// Everything there is, is asked for.
const DUMP: u16 = 0x300;
/// There must be none yet.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// It is made.
pub(super) const CREATE: u16 = 0x400;
/// It comes after all others.
pub(super) const APPEND: u16 = 0x800;

/// What the kernel answers with: an error or its absence.
const TYPE_ERROR: u16 = 2;
/// The end of what was asked for.
const TYPE_DONE: u16 = 3;
/// The attribute holds attributes.
const NESTED: u16 = 0x8000;

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a request of a kind with the fixed part that this kind has.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.align();
        message
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Adds an attribute that holds others.
    pub(super) fn with_nested(mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> Self {
        self.nest(kind, fill);
        self
    }

    /// Adds an attribute.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.end(start);
    }

    /// Adds text, with the zero that ends it.
    pub(super) fn put_text(&mut self, kind: u16, text: &str) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.end(start);
    }

    /// Adds an attribute that holds others.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | NESTED);
        fill(self);
        self.end(start);
    }

    /// Adds bytes that belong to the attribute under way, before its attributes.
    pub(super) fn put_fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.align();
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).expect("attributes are made far shorter than 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn wants_answer(&self) -> bool {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) & (ACK | DUMP) != 0
    }

    /// Gives it the number that its answer will have.
    fn number(&mut self, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).expect("messages are made far shorter than 4 GiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// What the kernel sent.
#[derive(Debug)]
struct Received {
    kind: u16,
    sequence: u32,
    body: Vec<u8>,
}

/// A socket to one part of the kernel, in the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Speaks to what has links, addresses and routes.
    pub(super) fn to_routes() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// Speaks to what filters packets.
    pub(super) fn to_filters() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_MAX_SECONDS))?;
        Ok(Self { descriptor, sequence: 0 })
    }

    /// Sends one message and waits until it was carried out.
    pub(super) fn ask(&mut self, message: Message) -> io::Result<()> {
        self.ask_all(vec![message])
    }

    /// Sends messages as one packet and waits for the last answer that was asked for; fails with the first error.
    pub(super) fn ask_all(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let last = self.send(messages)?;
        let mut outcome = Ok(());
        loop {
            for received in self.receive()? {
                if received.kind == TYPE_ERROR {
                    outcome = outcome.and(errno(&received.body));
                    if received.sequence == last {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Asks for everything of a kind and returns the bodies of what there is.
    pub(super) fn dump(&mut self, kind: u16, fixed: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.send(vec![Message::new(kind, DUMP, fixed)])?;
        let mut found = Vec::new();
        loop {
            for received in self.receive()?.into_iter().filter(|received| received.sequence == sequence) {
                match received.kind {
                    TYPE_DONE => return Ok(found),
                    TYPE_ERROR => return errno(&received.body).map(|()| found),
                    _ => found.push(received.body),
                }
            }
        }
    }

    /// Sends messages and returns the number of the last that is answered.
    fn send(&mut self, mut messages: Vec<Message>) -> io::Result<u32> {
        let mut last = None;
        for message in &mut messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.number(self.sequence);
            if message.wants_answer() {
                last = Some(self.sequence);
            }
        }
        let packet: Vec<u8> = messages.into_iter().flat_map(|message| message.bytes).collect();
        sendto(self.descriptor.as_raw_fd(), &packet, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(last.expect("an answer is asked for"))
    }

    fn receive(&self) -> io::Result<Vec<Received>> {
        let mut buffer = vec![0; PACKET_MAX];
        let length = loop {
            match recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        };
        Ok(split(&buffer[..length]))
    }
}

/// Takes a packet apart; what is cut off is left out.
fn split(mut packet: &[u8]) -> Vec<Received> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(sequence)) = (u32_at(packet, 0), u16_at(packet, 4), u32_at(packet, 8)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = packet.get(HEADER..length) else { break };
        found.push(Received { kind, sequence, body: body.to_vec() });
        packet = packet.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    found
}

/// Returns the attributes of what the kernel sent, which begin after `fixed` bytes.
pub(super) fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// Reads a number of 32 bits in this machine's order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Returns what an answer says went wrong; zero is nothing.
fn errno(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(negated) => Err(io::Error::from_raw_os_error(-negated)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_reads_back() {
        let mut message = Message::new(7, ACK, &[1, 2, 3]).with(1, b"ab").with_nested(2, |inner| {
            inner.put_text(3, "name");
            inner.put(4, &5u32.to_ne_bytes());
        });
        message.number(9);
        let [received] = &split(&message.bytes)[..] else { panic!("it is one message") };
        assert_eq!((received.kind, received.sequence), (7, 9));
        let outer: Vec<_> = attributes(&received.body, 4).collect();
        assert_eq!(outer[0], (1, b"ab".as_slice()));
        let inner: Vec<_> = attributes(outer[1].1, 0).collect();
        assert_eq!(inner, [(3, b"name\0".as_slice()), (4, 5u32.to_ne_bytes().as_slice())]);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let mut message = Message::new(7, ACK, &[0; 4]).with(1, &[1; 40]);
        message.number(1);
        for length in 0..message.bytes.len() {
            assert!(split(&message.bytes[..length]).is_empty());
            assert_eq!(attributes(&message.bytes[..length], 20).count(), 0);
        }
    }
}
