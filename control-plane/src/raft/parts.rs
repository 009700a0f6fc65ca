//! A snapshot on its way: in parts, each answered before the next, taken up again where the receiver has come to.

use std::io;

use proto::v1;

use super::message::required_vote;
use super::wire::{log_id, parse_log_id, vote};
use super::{LogId, Vote};
use crate::codec::DecodeError;

/// How many bytes of a snapshot one message carries.
const PART_BYTES: usize = 1 << 20;

/// How long a snapshot may be: 1 GiB. A state of that size holds some hundred thousand functions.
pub const SNAPSHOT_MAX_BYTES: u64 = 1 << 30;

/// A snapshot that is being sent.
pub(super) struct Outgoing {
    vote: Vote,
    last: Option<LogId>,
    file: Vec<u8>,
    checksum: u32,
    offset: usize,
}

impl Outgoing {
    pub(super) fn new(vote: Vote, last: Option<LogId>, file: Vec<u8>) -> Self {
        let checksum = crc32fast::hash(&file);
        Self { vote, last, file, checksum, offset: 0 }
    }

    /// Returns the part that the receiver needs next.
    pub(super) fn next(&self) -> v1::SnapshotPart {
        let end = self.file.len().min(self.offset.saturating_add(PART_BYTES));
        v1::SnapshotPart {
            vote: Some(vote(&self.vote)),
            last: self.last.map(log_id),
            length: self.file.len() as u64,
            checksum: self.checksum,
            offset: self.offset as u64,
            bytes: self.file[self.offset..end].to_vec(),
        }
    }

    /// Takes the answer to a part; returns the receiver's vote once there is nothing more to send.
    pub(super) fn answered(&mut self, reply: v1::SnapshotReply) -> Result<Option<Vote>, DecodeError> {
        let theirs = required_vote(reply.vote)?;
        let received = usize::try_from(reply.received).unwrap_or(usize::MAX);
        if theirs > self.vote || received >= self.file.len() {
            return Ok(Some(theirs));
        }
        self.offset = received;
        Ok(None)
    }
}

/// A snapshot that is being received: one at a time, for there is one leader.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// What is being received, and how much of it is here.
    current: Option<(Name, Vec<u8>)>,
}

/// What tells one snapshot from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    last: Option<LogId>,
    length: u64,
    checksum: u32,
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// More is to come, from here on.
    Upto(u64),
    /// The whole file is here.
    Whole(Vec<u8>),
}

impl Incoming {
    /// Takes a part. One that does not begin where the file ends so far is answered with where the next should.
    pub(super) fn take(&mut self, part: v1::SnapshotPart) -> io::Result<Taken> {
        let name = Name { last: part.last.map(parse_log_id), length: part.length, checksum: part.checksum };
        if name.length > SNAPSHOT_MAX_BYTES {
            let message = format!("a snapshot of {} bytes is over the limit of {SNAPSHOT_MAX_BYTES}", name.length);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let (_, file) = match &mut self.current {
            Some(current) if current.0 == name => current,
            current => current.insert((name, Vec::new())),
        };
        if part.offset == file.len() as u64 {
            file.extend_from_slice(&part.bytes);
        }
        if (file.len() as u64) < name.length {
            return Ok(Taken::Upto(file.len() as u64));
        }
        let file = self.current.take().map(|(_, file)| file).unwrap_or_default();
        if file.len() as u64 != name.length || crc32fast::hash(&file) != name.checksum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot arrived damaged"));
        }
        Ok(Taken::Whole(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::LeaderId;

    fn sent(file: Vec<u8>) -> Outgoing {
        let leader_id = LeaderId { term: 3, node_id: 1 };
        Outgoing::new(Vote { leader_id, committed: true }, Some(LogId { leader_id, index: 9 }), file)
    }

    fn reply(outgoing: &Outgoing, received: u64) -> v1::SnapshotReply {
        v1::SnapshotReply { vote: Some(vote(&outgoing.vote)), received }
    }

    #[test]
    fn a_file_arrives_whole_whatever_is_sent_twice_or_gets_lost() {
        let file: Vec<u8> = (0..PART_BYTES * 2 + 17).map(|at| u8::try_from(at % 251).expect("it fits")).collect();
        let (mut outgoing, mut incoming) = (sent(file.clone()), Incoming::default());
        let Taken::Upto(first) = incoming.take(outgoing.next()).expect("it is taken") else { panic!("more comes") };
        // The answer got lost: the same part comes again and changes nothing.
        assert_eq!(incoming.take(outgoing.next()).expect("it is taken"), Taken::Upto(first));
        assert_eq!(outgoing.answered(reply(&outgoing, first)), Ok(None));
        // The receiver has started again: it says where to begin.
        incoming = Incoming::default();
        assert_eq!(incoming.take(outgoing.next()).expect("it is taken"), Taken::Upto(0));
        assert_eq!(outgoing.answered(reply(&outgoing, 0)), Ok(None));
        let whole = loop {
            match incoming.take(outgoing.next()).expect("it is taken") {
                Taken::Upto(received) => assert_eq!(outgoing.answered(reply(&outgoing, received)), Ok(None)),
                Taken::Whole(whole) => break whole,
            }
        };
        assert!(whole == file);
        let length = file.len() as u64;
        assert_eq!(outgoing.answered(reply(&outgoing, length)), Ok(Some(outgoing.vote)));
    }

    #[test]
    fn damage_and_lies_about_the_length_are_refused() {
        let mut part = sent(vec![1, 2, 3]).next();
        part.bytes[1] ^= 4;
        assert!(Incoming::default().take(part).is_err());
        let mut part = sent(vec![1, 2, 3]).next();
        part.bytes.push(4);
        assert!(Incoming::default().take(part).is_err());
        let mut part = sent(vec![1, 2, 3]).next();
        part.length = SNAPSHOT_MAX_BYTES + 1;
        assert!(Incoming::default().take(part).is_err());
    }

    #[test]
    fn a_higher_vote_ends_the_transfer() {
        let mut outgoing = sent(vec![0; PART_BYTES * 2]);
        let higher = Vote { leader_id: LeaderId { term: 4, node_id: 2 }, committed: false };
        let reply = v1::SnapshotReply { vote: Some(vote(&higher)), received: 1 };
        assert_eq!(outgoing.answered(reply), Ok(Some(higher)));
    }
}
