//! What must hold of a replicated log at every moment: an oracle that sees every disk, every leader and every applied entry.
//!
//! It keeps a log of its own: the first replica that applies an entry settles what stands there for ever. That log is applied to
//! a state of its own, so that the state of every replica can be compared at every index, also after snapshots and restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control_plane::codec;
use control_plane::model::{Epoch, FeatureLevel, NodeId, Timestamp};
use control_plane::raft::{Record, RecordKind, View};
use control_plane::state::{ANSWERS_MAX, Command, Rejection, Reply, State, Ticket, violations};
use prost::Message;
use proto::v1;
use proto::v1::log_entry::Payload;

use super::history::History;
use super::journal::Journal;
use super::mark::Mark;
use super::runtime;
use crate::member::Seen;

/// How many replicas are compared after each entry, in turns where there are more.
///
/// Each is compared once in a few entries, and whenever it starts or takes a snapshot. That shows as much: a state that has gone
/// another way stays so, and all replicas run the same code on the same entries, whose bytes are compared on each of them.
const COMPARED: u64 = 8;

/// How many states are kept.
const RECENT_MAX: usize = 64;

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What one node's disk was told, and how far its state is.
#[derive(Default)]
struct Replica {
    log: BTreeMap<u64, Vec<u8>>,
    /// The first entry that is not applied.
    next: u64,
    /// The last entry of a snapshot that came from a leader and is being written: it takes the place of what the log holds.
    installs: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) journal: Journal,
    pub(crate) history: History,
    replicas: BTreeMap<u64, Replica>,
    /// What nodes read of the log that do not read all of it.
    reads: BTreeMap<u64, FeatureLevel>,
    /// Every leader that there was, by term and node.
    leaders: BTreeSet<(u64, u64)>,
    /// The hash of each entry that was ever appended, by index and leader.
    entries: BTreeMap<(u64, u64, u64), u64>,
    /// Each entry that was ever applied, and the hash of the state after it.
    applied: Vec<(u64, u64)>,
    /// When the last command that was applied was proposed.
    time: Timestamp,
    state: Arc<State>,
    /// What came of each proposal that has a ticket, by node, epoch and number.
    answers: BTreeMap<(NodeId, Epoch, u64), Result<Reply, Rejection>>,
    /// The last entry that anybody outside knows to be applied.
    known: u64,
    /// The states after the last entries, by index: replicas are compared with them, and share them.
    recent: BTreeMap<u64, Seen>,
}

/// The oracle; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<Facts>>);

impl Oracle {
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.facts().journal.count(what);
    }

    pub(crate) fn mark(&self, mark: Mark) {
        self.facts().journal.mark(mark);
    }

    pub(crate) fn blame(&self, violation: &str) {
        self.facts().journal.blame(violation);
    }

    pub(crate) fn tell(&self, text: impl FnOnce() -> String) {
        self.facts().journal.tell(text);
    }

    /// A node reads this much of the log from here on.
    pub(crate) fn reads(&self, node: u64, level: FeatureLevel) {
        let mut facts = self.facts();
        facts.reads.remove(&node);
        if level < FeatureLevel::NEWEST {
            facts.reads.insert(node, level);
        }
    }

    /// A node comes back with these records.
    pub(crate) fn recovered(&self, node: u64, records: &[Record]) {
        let mut facts = self.facts();
        facts.replicas.insert(node, Replica::default());
        for record in records {
            facts.record(node, record);
        }
    }

    /// A node's disk is given a record.
    pub(crate) fn appended(&self, node: u64, record: &Record) {
        self.facts().record(node, record);
    }

    /// A node's disk is given a snapshot that covers the log up to `last`.
    pub(crate) fn snapshot(&self, node: u64, last: u64) {
        let mut facts = self.facts();
        facts.journal.mark(Mark::SnapshotWritten);
        let replica = facts.replicas.entry(node).or_default();
        if last >= replica.next {
            replica.installs = Some(last);
        }
    }

    /// A node sends entries in the name of a leader.
    ///
    /// A term may have more leaders than one: whoever has the higher id takes over from the lower within the term, and ids of
    /// entries tell them apart.
    pub(crate) fn led(&self, node: u64, vote: v1::Vote) {
        let mut facts = self.facts();
        if vote.node != node {
            let violation = format!("{node} sends entries in the name of {}", vote.node);
            facts.journal.blame(&violation);
        }
        if facts.leaders.insert((vote.term, vote.node)) {
            facts.journal.tell(|| format!("{node} leads in term {}", vote.term));
            facts.journal.count("leaders");
            if facts.leaders.len() > 1 {
                facts.journal.mark(Mark::LeaderChanged);
            }
            if facts.leaders.range((vote.term, 0)..=(vote.term, u64::MAX)).count() > 1 {
                facts.journal.mark(Mark::TermSharedByLeaders);
            }
        }
    }

    /// A node begins with the state of its newest snapshot.
    pub(crate) fn opened(&self, node: u64, view: &View) {
        let Some(last) = view.last_applied() else { return };
        let mut facts = self.facts();
        facts.compare(node, last.index, view);
        let replica = facts.replicas.entry(node).or_default();
        replica.next = last.index + 1;
        if replica.log.last_key_value().is_some_and(|(index, _)| *index > last.index) {
            facts.journal.mark(Mark::RestartedFromSnapshot);
        }
    }

    /// A node has applied everything up to an entry.
    pub(crate) fn applied(&self, node: u64, last: u64, view: &View) {
        let mut facts = self.facts();
        let from = facts.replicas.entry(node).or_default().next;
        if from > last {
            let violation = format!("{node} applied entry {last} again");
            facts.journal.blame(&violation);
        }
        let is_install = facts.replicas.get(&node).is_some_and(|replica| replica.installs == Some(last));
        if is_install {
            facts.journal.mark(Mark::SnapshotInstalled);
        } else {
            for index in from..=last {
                match facts.replicas.get(&node).and_then(|replica| replica.log.get(&index)).cloned() {
                    Some(entry) => facts.settle(node, index, &entry),
                    None => {
                        let violation = format!("{node} applied entry {index}, which its disk was never given");
                        facts.journal.blame(&violation);
                    }
                }
            }
        }
        let replica = facts.replicas.entry(node).or_default();
        (replica.next, replica.installs) = (last + 1, None);
        let turns = (facts.replicas.len() as u64).div_ceil(COMPARED);
        if is_install || (last + node).is_multiple_of(turns) {
            facts.compare(node, last, view);
        }
    }

    /// Returns what a replica has applied, shared with whoever has applied as much.
    pub(crate) fn seen(&self, view: &View) -> Seen {
        let last = view.last_applied();
        let known = last.and_then(|last| self.facts().recent.get(&last.index).cloned());
        known.unwrap_or_else(|| Seen::new(Arc::new(view.read(State::clone))))
    }

    /// Somebody is told what came of a proposal; `index` is that of its entry, or of the one that sent it again.
    pub(crate) fn acknowledged(&self, index: u64, ticket: Option<Ticket>, answer: Option<&Result<Reply, Rejection>>) {
        let mut facts = self.facts();
        facts.known = facts.known.max(index);
        let (Some(Ticket { node, epoch, number, .. }), Some(answer)) = (ticket, answer) else { return };
        let applied = facts.answers.get(&(node, epoch, number));
        if applied != Some(answer) && !is_of_a_full_session(answer) {
            let violation = format!("proposal {number} of {node} is answered {answer:?}, applied was {applied:?}");
            facts.journal.blame(&violation);
        }
    }

    /// Returns the last entry that anybody outside knows to be applied.
    pub(crate) fn known(&self) -> u64 {
        self.facts().known
    }

    /// Somebody reads what a node has applied up to an entry; `known` is what was known when the read began.
    pub(crate) fn read(&self, node: u64, seen: u64, known: u64) {
        let mut facts = self.facts();
        facts.journal.count("reads");
        facts.known = facts.known.max(seen);
        if seen < known {
            let violation = format!("a read at node-{node} sees entry {seen}, {known} was known before it began");
            facts.journal.blame(&violation);
        }
    }

    /// Returns the index of the last entry that any node has applied.
    pub(crate) fn last(&self) -> Option<u64> {
        (self.facts().applied.len() as u64).checked_sub(1)
    }
}

/// Returns under which name a command is counted once it is accepted, if it is.
fn counted(command: &Command) -> Option<&'static str> {
    match command {
        Command::DeclareDead { .. } => Some("nodes declared dead"),
        Command::RegisterNode { .. } => Some("registrations"),
        Command::Drain { is_draining: true, .. } => Some("nodes drained"),
        Command::Adopt { .. } => Some("adoptions"),
        Command::Promote { .. } => Some("promotions"),
        Command::PlaceMany { .. } => Some("placements"),
        Command::Label { .. } => Some("labels"),
        _ => None,
    }
}

impl Facts {
    fn record(&mut self, node: u64, record: &Record) {
        let log = &mut self.replicas.entry(node).or_default().log;
        match record.kind {
            RecordKind::Entry => {
                log.split_off(&record.index);
                log.insert(record.index, record.payload.clone());
                self.check_readable(node, &record.payload);
                let id = v1::LogEntry::decode(&record.payload[..]).ok().and_then(|entry| entry.id);
                let Some(id) = id else { return self.journal.blame(&format!("{node} wrote an entry without id")) };
                let now = hash(&record.payload);
                if *self.entries.entry((record.index, id.term, id.node)).or_insert(now) != now {
                    let v1::LogId { index, term, node: leader } = id;
                    self.journal.blame(&format!("{node} wrote another entry {index} of {leader} in term {term}"));
                }
            }
            RecordKind::Truncate => {
                if !log.split_off(&record.index).is_empty() {
                    self.journal.mark(Mark::EntriesTruncated);
                }
            }
            RecordKind::Purge => {
                self.journal.mark(Mark::LogPurged);
                let replica = self.replicas.entry(node).or_default();
                // What is not applied yet is still to be compared.
                let upto = replica.next.min(record.index + 1);
                replica.log = replica.log.split_off(&upto);
            }
            RecordKind::Vote | RecordKind::Committed => {}
        }
    }

    /// Takes what a node has applied for settled, or compares it with what is.
    fn settle(&mut self, node: u64, index: u64, entry: &[u8]) {
        let applied = hash(entry);
        runtime::note(applied);
        match self.applied.get(usize::try_from(index).unwrap_or(usize::MAX)) {
            Some((settled, _)) if *settled == applied => {}
            Some(_) => self.journal.blame(&format!("{node} applied another entry {index} than was applied before")),
            None if index == self.applied.len() as u64 => {
                self.apply(entry);
                self.applied.push((applied, hash(&codec::encode_state(&self.state))));
                self.recent.insert(index, Seen::new(Arc::clone(&self.state)));
                while self.recent.len() > RECENT_MAX {
                    self.recent.pop_first();
                }
            }
            None => self.journal.blame(&format!("{node} applied entry {index} before anybody applied the one before")),
        }
    }

    fn apply(&mut self, entry: &[u8]) {
        let payload = v1::LogEntry::decode(entry).ok().and_then(|entry| entry.payload);
        let Some(Payload::Entry(bytes)) = payload else { return };
        let (at, ticket, command) = match codec::decode_entry(&bytes) {
            Ok(decoded) => decoded,
            Err(error) => return self.journal.blame(&format!("an applied entry cannot be read: {error}")),
        };
        if at < self.time {
            self.journal.mark(Mark::TimeWentBack);
        }
        self.time = at;
        let written = match &command {
            Command::RegisterNode { node, spec } => Some((*node, spec.name.clone())),
            _ => None,
        };
        let counted = counted(&command);
        let before = self.state.index;
        let result = Arc::make_mut(&mut self.state).apply_once(at, ticket, command);
        if let Some(ticket) = ticket {
            self.check_once(ticket, before, &result);
        }
        // A refusal is an answer like any other.
        if let (Ok(_), Some(what)) = (result, counted) {
            self.journal.count(what);
        }
        for violation in violations(&self.state) {
            self.journal.blame(&violation);
        }
        if let Some((NodeId(key), name)) = written
            && let Some(registered) = self.state.nodes.get(&NodeId(key))
        {
            self.history.commit(key, u64::from(registered.epoch.0), name);
        }
        self.journal.count("commands");
    }

    /// What is proposed again is not applied again, and is answered as it was before.
    fn check_once(&mut self, ticket: Ticket, before: u64, result: &Result<Reply, Rejection>) {
        // It is over, or was never begun.
        if matches!(result, Err(Rejection::NoSession { .. })) || is_of_a_full_session(result) {
            return;
        }
        let Ticket { node, epoch, number, .. } = ticket;
        match self.answers.get(&(node, epoch, number)) {
            None => {
                self.answers.insert((node, epoch, number), result.clone());
            }
            Some(first) => {
                let is_once = first == result && self.state.index == before;
                self.journal.count("answered again");
                if !is_once {
                    let violation = format!("proposal {number} of {node} in epoch {} was applied twice", epoch.0);
                    self.journal.blame(&violation);
                }
            }
        }
    }

    /// No registered node is given what it cannot read, whether it comes to be applied or not.
    fn check_readable(&mut self, node: u64, entry: &[u8]) {
        let Some(level) = self.reads.get(&node).copied() else { return };
        // Whoever has not registered is refused when it does.
        if !self.state.nodes.keys().any(|id| u64::from(id.0) == node) {
            return;
        }
        let payload = v1::LogEntry::decode(entry).ok().and_then(|entry| entry.payload);
        let Some(Payload::Entry(bytes)) = payload else { return };
        let Ok((_, _, command)) = codec::decode_entry(&bytes) else { return };
        let needed = command.needs();
        if needed > level {
            self.journal.blame(&format!("{node} is given an entry of feature level {needed} and reads {level}"));
        }
    }

    fn compare(&mut self, node: u64, index: u64, view: &View) {
        let settled = self.applied.get(usize::try_from(index).unwrap_or(usize::MAX));
        let is_equal = match self.recent.get(&index) {
            // Cheaper than to encode it once more.
            Some(known) => view.read(|state| *state == *known.state()),
            None => {
                settled.is_some_and(|(_, settled)| view.read(|state| hash(&codec::encode_state(state))) == *settled)
            }
        };
        runtime::note(settled.map_or(0, |(_, settled)| *settled));
        match settled {
            Some(_) if is_equal => {}
            Some(_) => self.journal.blame(&format!("the state of {node} after entry {index} is another one")),
            None => self.journal.blame(&format!("{node} has entry {index}, which nobody has applied")),
        }
    }
}

/// Returns whether a proposal found the session of its node full: then it is neither applied nor kept.
fn is_of_a_full_session(answer: &Result<Reply, Rejection>) -> bool {
    matches!(answer, Err(Rejection::Limit { limit, .. }) if *limit == ANSWERS_MAX)
}
