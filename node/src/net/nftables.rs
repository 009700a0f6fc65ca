//! nf_tables: how tables, chains, sets and rules are spelled for the kernel.
//!
//! What is not in the kernel's headers for user space is named as `nft` names it. Numbers of nf_tables itself are in network
//! order, what is compared with packets in the order that it has in the packet or in the register.

use std::net::SocketAddrV4;

use super::netlink::{ACK, APPEND, CREATE, Message};

/// The part of the kernel that these messages are for.
const SUBSYSTEM: u16 = 10;

/// Where a batch begins and ends.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// The family that sees packets of IPv4 and IPv6.
const INET: u8 = 1;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;

/// An element of any list.
const LIST_ELEMENT: u16 = 1;

/// The register for verdicts, and those for values: the second half of a key comes right behind the first.
const VERDICT: u32 = 0;
const VALUE: u32 = 8;
const VALUE_NEXT: u32 = 9;

/// The set whose keys are an address and a port, padded to 8 bytes: `ipv4_addr . inet_service`.
const ADDRESS_AND_PORT: u32 = (7 << 6) | 13;
const ADDRESS_AND_PORT_LENGTH: u32 = 8;

/// Elements in one message: an attribute holds less than 64 KiB.
const ELEMENTS_MAX: usize = 1000;

/// Where in a packet of IPv4 its destination is.
const DESTINATION: u32 = 16;
/// Where in a packet of TCP or UDP its destination is.
const DESTINATION_PORT: u32 = 2;

/// Whose a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The socket's that made it: nobody else changes it, `nft flush ruleset` neither. It outlives its owner and is taken over by
    /// whoever makes it again. Linux 6.9.
    Kept,
    /// Anybody's.
    Open,
}

impl Ownership {
    const fn flags(self) -> u32 {
        match self {
            Self::Kept => 2 | 4,
            Self::Open => 0,
        }
    }
}

/// Where a chain is passed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    /// By everything that comes in, before it is known where to.
    Prerouting,
    /// By what is for this machine.
    Input,
    /// By what only passes through.
    Forward,
    /// By what this machine sends.
    Output,
    /// By everything that goes out.
    Postrouting,
}

/// One step of a rule; a comparison that fails ends the rule.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The interface it came in by has a name that begins so.
    CameBy(String),
    /// It came in by another.
    CameByOther(String),
    /// The interface it came in by has this name.
    CameByVery(String),
    /// The interface it goes out by has a name that begins so.
    GoesBy(String),
    /// The interface it goes out by has this name.
    GoesByVery(String),
    /// It is of IPv4.
    IsIpv4,
    /// It is not.
    IsNotIpv4,
    /// It is of TCP.
    IsTcp,
    /// There is no way back to its source by the interface it came in by.
    HasForgedSource,
    /// Its destination is an address of this machine, a broadcast or a group.
    IsNotForOneElsewhere,
    /// Its destination begins with these bytes.
    IsFor([u8; 2]),
    /// Its destination and port are in a set.
    IsForOneOf(&'static str),
    /// It belongs to what was begun in the other direction.
    IsAnswer,
    /// It does not.
    IsNoAnswer,
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
    /// What another chain says.
    Goto(&'static str),
    /// A reset comes back.
    Reset,
    /// An answer comes back that it is forbidden.
    Forbid,
    /// It leaves under the address of this machine.
    Masquerade,
}

/// A list of changes that are made together or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    table: String,
    messages: Vec<Message>,
}

impl Batch {
    /// Begins one that changes a table.
    pub(super) fn of(table: &str) -> Self {
        Self { table: table.to_owned(), messages: vec![border(BATCH_BEGIN)] }
    }

    /// Makes the table, or takes it over, as it is.
    pub(super) fn table(&mut self, ownership: Ownership) {
        let message = self.message(NEW_TABLE, CREATE, 1).with(2, &ownership.flags().to_be_bytes());
        self.messages.push(message);
    }

    /// Deletes the table with everything in it.
    pub(super) fn delete_table(&mut self) {
        let message = self.message(DELETE_TABLE, 0, 1);
        self.messages.push(message);
    }

    /// Makes a chain that only others lead to.
    pub(super) fn chain(&mut self, name: &str) {
        let mut message = self.message(NEW_CHAIN, CREATE, 1);
        message.put_text(3, name);
        self.messages.push(message);
    }

    /// Makes a chain of a kind that packets pass at a hook, lower priorities first.
    pub(super) fn base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        let number = match hook {
            Hook::Prerouting => 0u32,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        };
        let mut message = self.message(NEW_CHAIN, CREATE, 1);
        message.put_text(3, name);
        message.nest(4, |place| {
            place.put(1, &number.to_be_bytes());
            place.put(2, &priority.to_be_bytes());
        });
        message.put_text(7, kind);
        self.messages.push(message);
    }

    /// Adds a rule at the end of a chain.
    pub(super) fn rule(&mut self, chain: &str, steps: &[Step]) {
        let mut message = self.message(NEW_RULE, CREATE | APPEND, 1);
        message.put_text(2, chain);
        message.nest(4, |list| steps.iter().for_each(|step| step.write(list)));
        self.messages.push(message);
    }

    /// Makes a set of addresses and ports; `number` tells it from other sets of this batch.
    pub(super) fn address_set<'a>(
        &mut self,
        name: &str,
        number: u32,
        elements: impl IntoIterator<Item = &'a SocketAddrV4>,
    ) {
        let mut message = self.message(NEW_SET, CREATE, 1);
        message.put_text(2, name);
        message.put(4, &ADDRESS_AND_PORT.to_be_bytes());
        message.put(5, &ADDRESS_AND_PORT_LENGTH.to_be_bytes());
        message.put(10, &number.to_be_bytes());
        self.messages.push(message);
        let elements: Vec<&SocketAddrV4> = elements.into_iter().collect();
        for some in elements.chunks(ELEMENTS_MAX) {
            let mut message = self.message(NEW_ELEMENTS, CREATE, 1);
            message.put_text(2, name);
            message.put(4, &number.to_be_bytes());
            message.nest(3, |list| some.iter().for_each(|element| put_element(list, element)));
            self.messages.push(message);
        }
    }

    /// Returns what to send; the last change is answered.
    pub(super) fn finish(mut self) -> Vec<Message> {
        self.messages.push(border(BATCH_END));
        self.messages
    }

    /// Begins a message of which attribute `name` is the table.
    fn message(&self, kind: u16, flags: u16, name: u16) -> Message {
        let mut message = Message::new(SUBSYSTEM << 8 | kind, flags | ACK, &[INET, 0, 0, 0]);
        message.put_text(name, &self.table);
        message
    }
}

/// Asks whether a table is there.
pub(super) fn look_for_table(name: &str) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | GET_TABLE, ACK, &[INET, 0, 0, 0]);
    message.put_text(1, name);
    message
}

/// The type and fixed part with which all tables of this family are asked for, and how long the latter is in answers.
pub(super) const TABLES: (u16, [u8; 4]) = (SUBSYSTEM << 8 | GET_TABLE, [INET, 0, 0, 0]);

/// The attribute of a table that is its name.
pub(super) const TABLE_NAME: u16 = 1;

fn border(kind: u16) -> Message {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::new(kind, 0, &[0, 0, high, low])
}

fn put_element(list: &mut Message, element: &SocketAddrV4) {
    let mut key = element.ip().octets().to_vec();
    key.extend_from_slice(&element.port().to_be_bytes());
    key.extend_from_slice(&[0, 0]);
    list.nest(LIST_ELEMENT, |item| item.nest(1, |value| value.put(1, &key)));
}

impl Step {
    fn write(&self, rule: &mut Message) {
        match self {
            Self::CameBy(name) => interface(rule, META_CAME_BY, EQUAL, name),
            Self::CameByOther(name) => interface(rule, META_CAME_BY, OTHER, name),
            // With the zero that ends it.
            Self::CameByVery(name) => interface(rule, META_CAME_BY, EQUAL, &format!("{name}\0")),
            Self::GoesBy(name) => interface(rule, META_GOES_BY, EQUAL, name),
            Self::GoesByVery(name) => interface(rule, META_GOES_BY, EQUAL, &format!("{name}\0")),
            Self::IsIpv4 => {
                meta(rule, META_FAMILY);
                compare(rule, EQUAL, &[IPV4]);
            }
            Self::IsNotIpv4 => {
                meta(rule, META_FAMILY);
                compare(rule, OTHER, &[IPV4]);
            }
            Self::IsTcp => {
                meta(rule, META_PROTOCOL);
                compare(rule, EQUAL, &[6]);
            }
            Self::HasForgedSource => {
                fib(rule, FIB_INTERFACE, FIB_SOURCE | FIB_CAME_BY);
                compare(rule, EQUAL, &0u32.to_ne_bytes());
            }
            Self::IsNotForOneElsewhere => {
                fib(rule, FIB_KIND, FIB_DESTINATION);
                compare(rule, OTHER, &u32::from(libc::RTN_UNICAST).to_ne_bytes());
            }
            Self::IsFor(first) => {
                payload(rule, VALUE, NETWORK_HEADER, DESTINATION, 2);
                compare(rule, EQUAL, first);
            }
            Self::IsForOneOf(set) => {
                payload(rule, VALUE, NETWORK_HEADER, DESTINATION, 4);
                payload(rule, VALUE_NEXT, TRANSPORT_HEADER, DESTINATION_PORT, 2);
                expression(rule, "lookup", |lookup| {
                    lookup.put_text(1, set);
                    lookup.put(2, &VALUE.to_be_bytes());
                });
            }
            Self::IsAnswer => state(rule, OTHER),
            Self::IsNoAnswer => state(rule, EQUAL),
            Self::Accept => verdict(rule, 1, None),
            Self::Drop => verdict(rule, 0, None),
            Self::Goto(chain) => verdict(rule, libc::NFT_GOTO, Some(chain)),
            Self::Reset => reject(rule, 1, 0),
            Self::Forbid => reject(rule, 2, 3),
            Self::Masquerade => expression(rule, "masq", |_| ()),
        }
    }
}

/// The number of the family of IPv4.
const IPV4: u8 = 2;

const META_CAME_BY: u32 = 6;
const META_GOES_BY: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

const EQUAL: u32 = 0;
const OTHER: u32 = 1;

const FIB_INTERFACE: u32 = 1;
const FIB_KIND: u32 = 3;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_CAME_BY: u32 = 8;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// States of a connection in which a packet answers: established, related.
const STATES_OF_ANSWERS: u32 = 2 | 4;

fn expression(rule: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    rule.nest(LIST_ELEMENT, |expression| {
        expression.put_text(1, name);
        expression.nest(2, fill);
    });
}

fn interface(rule: &mut Message, which: u32, operator: u32, name: &str) {
    meta(rule, which);
    // Of a name without the zero that ends it the beginning is compared.
    compare(rule, operator, name.as_bytes());
}

fn meta(rule: &mut Message, key: u32) {
    expression(rule, "meta", |meta| {
        meta.put(2, &key.to_be_bytes());
        meta.put(1, &VALUE.to_be_bytes());
    });
}

fn compare(rule: &mut Message, operator: u32, value: &[u8]) {
    expression(rule, "cmp", |cmp| {
        cmp.put(1, &VALUE.to_be_bytes());
        cmp.put(2, &operator.to_be_bytes());
        cmp.nest(3, |data| data.put(1, value));
    });
}

fn payload(rule: &mut Message, register: u32, header: u32, offset: u32, length: u32) {
    expression(rule, "payload", |payload| {
        for (attribute, value) in [(1, register), (2, header), (3, offset), (4, length)] {
            payload.put(attribute, &value.to_be_bytes());
        }
    });
}

fn fib(rule: &mut Message, result: u32, flags: u32) {
    expression(rule, "fib", |fib| {
        fib.put(1, &VALUE.to_be_bytes());
        fib.put(2, &result.to_be_bytes());
        fib.put(3, &flags.to_be_bytes());
    });
}

/// Compares the state of the connection, of which only what answers is left, with none.
fn state(rule: &mut Message, operator: u32) {
    expression(rule, "ct", |ct| {
        ct.put(2, &0u32.to_be_bytes());
        ct.put(1, &VALUE.to_be_bytes());
    });
    expression(rule, "bitwise", |bitwise| {
        bitwise.put(1, &VALUE.to_be_bytes());
        bitwise.put(2, &VALUE.to_be_bytes());
        bitwise.put(3, &4u32.to_be_bytes());
        bitwise.nest(4, |mask| mask.put(1, &STATES_OF_ANSWERS.to_ne_bytes()));
        bitwise.nest(5, |flipped| flipped.put(1, &0u32.to_ne_bytes()));
    });
    compare(rule, operator, &0u32.to_ne_bytes());
}

fn verdict(rule: &mut Message, code: i32, chain: Option<&str>) {
    expression(rule, "immediate", |immediate| {
        immediate.put(1, &VERDICT.to_be_bytes());
        immediate.nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.put(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    verdict.put_text(2, chain);
                }
            });
        });
    });
}

fn reject(rule: &mut Message, kind: u32, code: u8) {
    expression(rule, "reject", |reject| {
        reject.put(1, &kind.to_be_bytes());
        reject.put(2, &[code]);
    });
}
