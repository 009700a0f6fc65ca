//! What packets of sandboxes may do: one table of nf_tables, replaced as a whole whenever what it depends on changes.
//!
//! ```text
//!   from a sandbox ─▶ leaving ─▶ elsewhere, under the host's address
//!                       ├ another source than its own, IPv6            gone
//!                       ├ the host, by any of its addresses            refused
//!                       ├ link-local, with the metadata of clouds      refused
//!                       └ the ports by which nodes know each other     refused
//!   to a sandbox ────▶ answers alone, be it from outside, from the host or from a sibling
//! ```
//!
//! What leaves is looked at before other tables translate addresses, so that a port that a host passes on to a container
//! counts as the host's. Nothing here knows an address of a sandbox: rules go by the interface, so that sandboxes of an earlier
//! daemon with another range are held in alike.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddrV4;

use super::host::LINK_PREFIX;
use super::netlink::{Message, Socket, attributes};
use super::nftables::{Batch, Hook, Ownership, Step, TABLE_NAME, TABLES, look_for_table};

/// What the table of every daemon's name begins with.
const TABLE_PREFIX: &str = "hearth-";

/// Before addresses are translated, which is at -100, and after connections are known, which is at -200.
const BEFORE_TRANSLATION: i32 = -150;
/// Where filters are.
const AT_FILTERS: i32 = 0;
/// Where sources are translated.
const AT_TRANSLATION: i32 = 100;

/// The set of addresses and ports that are out of reach, and its number.
const PEERS: &str = "peers";
const PEERS_NUMBER: u32 = 1;

/// The chain that refuses, at once rather than by silence.
const REFUSE: &str = "refuse";

/// The first bytes of link-local addresses, 169.254.0.0/16.
const LINK_LOCAL: [u8; 2] = [169, 254];

/// What the rules depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Where nodes of the cluster speak to each other and to their operators.
    pub(super) peers: BTreeSet<SocketAddrV4>,
    /// The interfaces that let packets through for the sake of sandboxes, and that let nothing else through.
    pub(super) guarded: BTreeSet<String>,
}

/// The table of one daemon.
#[derive(Debug)]
pub(super) struct Rules {
    /// Its owner, where the kernel knows owners.
    socket: Socket,
    table: String,
    /// What the names of the wires' ends begin with.
    links: String,
    ownership: Ownership,
    installed: Option<Facts>,
}

impl Rules {
    /// Names the table; it is not made yet.
    pub(super) fn new(name: &str, links: &str) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::to_filters()?,
            table: format!("{TABLE_PREFIX}{name}"),
            links: links.to_owned(),
            ownership: Ownership::Kept,
            installed: None,
        })
    }

    /// Brings the table in line with the facts, and back where somebody deleted it.
    pub(super) fn keep(&mut self, facts: &Facts) -> io::Result<()> {
        let is_whole = self.installed.as_ref() == Some(facts) && self.is_there();
        if is_whole { Ok(()) } else { self.install(facts) }
    }

    fn install(&mut self, facts: &Facts) -> io::Result<()> {
        let outcome = match self.socket.ask_all(self.batch(facts)) {
            // This kernel knows no owners, or the table is of a daemon that ran on one that did not.
            Err(error) if self.ownership == Ownership::Kept && !is_missing(&error) => {
                self.ownership = Ownership::Open;
                self.socket.ask_all(self.batch(facts))
            }
            outcome => outcome,
        };
        self.installed = outcome.is_ok().then(|| facts.clone());
        outcome
    }

    fn is_there(&mut self) -> bool {
        // What has an owner goes by nobody else.
        self.ownership == Ownership::Kept || self.socket.ask(look_for_table(&self.table)).is_ok()
    }

    /// Deletes the table; none is no error.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.installed = None;
        let mut batch = Batch::of(&self.table);
        batch.delete_table();
        match self.socket.ask_all(batch.finish()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Returns whether another daemon of this machine has a table.
    pub(super) fn has_neighbour(&mut self) -> io::Result<bool> {
        let (kind, fixed) = TABLES;
        let tables = self.socket.dump(kind, &fixed)?;
        let is_neighbour = |body: &Vec<u8>| {
            let name = attributes(body, fixed.len()).find(|(attribute, _)| *attribute == TABLE_NAME);
            let name = name.map(|(_, name)| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
            name.is_some_and(|name| name.starts_with(TABLE_PREFIX) && name != self.table)
        };
        Ok(tables.iter().any(is_neighbour))
    }

    /// Returns the table as a whole, in place of the one before.
    fn batch(&self, facts: &Facts) -> Vec<Message> {
        let mut batch = Batch::of(&self.table);
        batch.table(self.ownership);
        batch.delete_table();
        batch.table(self.ownership);
        batch.address_set(PEERS, PEERS_NUMBER, &facts.peers);
        batch.chain(REFUSE);
        batch.rule(REFUSE, &[Step::IsTcp, Step::Reset]);
        batch.rule(REFUSE, &[Step::Forbid]);
        self.leaving(&mut batch);
        self.arriving(&mut batch, &facts.guarded);
        batch.base_chain("masquerade", "nat", Hook::Postrouting, AT_TRANSLATION);
        batch.rule("masquerade", &[self.comes_from_sandbox(), Step::Masquerade]);
        batch.finish()
    }

    fn comes_from_sandbox(&self) -> Step {
        Step::CameBy(self.links.clone())
    }

    fn goes_to_sandbox(&self) -> Step {
        Step::GoesBy(self.links.clone())
    }

    /// What sandboxes send.
    fn leaving(&self, batch: &mut Batch) {
        batch.base_chain("leaving", "filter", Hook::Prerouting, BEFORE_TRANSLATION);
        for steps in [
            vec![Step::CameByOther(self.links.clone()), Step::Accept],
            vec![Step::IsNotIpv4, Step::Drop],
            vec![Step::HasForgedSource, Step::Drop],
            vec![Step::IsNotForOneElsewhere, Step::Goto(REFUSE)],
            vec![Step::IsFor(LINK_LOCAL), Step::Goto(REFUSE)],
            vec![Step::IsForOneOf(PEERS), Step::Goto(REFUSE)],
        ] {
            batch.rule("leaving", &steps);
        }
        // Whatever else leads there, such as a translation of addresses by others.
        batch.base_chain("own", "filter", Hook::Input, AT_FILTERS);
        batch.rule("own", &[self.comes_from_sandbox(), Step::Goto(REFUSE)]);
    }

    /// What sandboxes get.
    fn arriving(&self, batch: &mut Batch, guarded: &BTreeSet<String>) {
        batch.base_chain("passing", "filter", Hook::Forward, AT_FILTERS);
        batch.rule("passing", &[self.goes_to_sandbox(), Step::IsAnswer, Step::Accept]);
        batch.rule("passing", &[self.goes_to_sandbox(), Step::Goto(REFUSE)]);
        batch.rule("passing", &[self.comes_from_sandbox(), Step::Accept]);
        // What goes to sandboxes of another node is for its table to judge.
        batch.rule("passing", &[Step::GoesBy(LINK_PREFIX.to_owned()), Step::Accept]);
        for link in guarded {
            let came = || Step::CameByVery(link.clone());
            // Within a bridge, which nobody has to be a router for.
            batch.rule("passing", &[came(), Step::GoesByVery(link.clone()), Step::Accept]);
            batch.rule("passing", &[came(), Step::IsIpv4, Step::Drop]);
        }
        batch.base_chain("host", "filter", Hook::Output, AT_FILTERS);
        batch.rule("host", &[self.goes_to_sandbox(), Step::IsNoAnswer, Step::Goto(REFUSE)]);
    }
}

/// Returns whether the kernel lacks what is asked for altogether, so that asking in another way does not help.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EPERM | libc::ENOENT))
}
