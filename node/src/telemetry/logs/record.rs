//! One line on disk.
//!
//! ```text
//! length  u32  of what follows the checksum
//! crc32   u32  of what follows it
//! sequence u64 · at_us u64 · revision u32 · instance (origin u32, epoch u32, sequence u32) · flags u8
//! request length u8 · request · text
//! ```
//! Integers are little-endian. A record is found good or bad by its checksum alone; reading any bytes never panics.

use control_plane::model::{Epoch, InstanceId, RevisionNumber};
use proto::json::LogStream;

use crate::contract::LINE_MAX_BYTES;

/// Length and checksum.
pub(super) const HEAD_BYTES: usize = 8;

/// What a record has before its request and its text.
const FIXED_BYTES: usize = 8 + 8 + 4 + 12 + 1 + 1;

/// The longest record without its head.
pub(super) const BODY_MAX_BYTES: usize = FIXED_BYTES + REQUEST_MAX_BYTES + LINE_MAX_BYTES;

/// The longest request id that is kept; a longer one is cut.
pub(super) const REQUEST_MAX_BYTES: usize = 255;

const FLAG_STDERR: u8 = 1;
const FLAG_REQUEST: u8 = 2;
const FLAG_MARK: u8 = 4;

/// One line, without the function: that is the folder it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Counts the lines of one function; never comes twice.
    pub(super) sequence: u64,
    pub(super) at_us: u64,
    pub(super) revision: RevisionNumber,
    pub(super) instance: InstanceId,
    pub(super) stream: LogStream,
    pub(super) request: Option<String>,
    pub(super) text: String,
    pub(super) is_mark: bool,
}

/// What stands at a place of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A good record, and how many bytes it takes.
    Record(Record, usize),
    /// A bad record of that many bytes; what follows may be good.
    Bad(usize),
    /// Nothing that could be a record: the file is torn or damaged from here on.
    End,
}

/// Returns the longest start of `text` that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Record {
    /// Appends the record to `buffer`. Request and text are cut at their limits.
    pub(super) fn write(&self, buffer: &mut Vec<u8>) {
        let request = cut(self.request.as_deref().unwrap_or_default(), REQUEST_MAX_BYTES);
        let text = cut(&self.text, LINE_MAX_BYTES);
        let mut flags = 0;
        flags |= if self.stream == LogStream::Stderr { FLAG_STDERR } else { 0 };
        flags |= if self.request.is_some() { FLAG_REQUEST } else { 0 };
        flags |= if self.is_mark { FLAG_MARK } else { 0 };
        let mut body = Vec::with_capacity(FIXED_BYTES + request.len() + text.len());
        body.extend_from_slice(&self.sequence.to_le_bytes());
        body.extend_from_slice(&self.at_us.to_le_bytes());
        body.extend_from_slice(&self.revision.0.to_le_bytes());
        body.extend_from_slice(&self.instance.origin.to_le_bytes());
        body.extend_from_slice(&self.instance.epoch.0.to_le_bytes());
        body.extend_from_slice(&self.instance.sequence.to_le_bytes());
        body.push(flags);
        body.push(u8::try_from(request.len()).expect("the request was cut"));
        body.extend_from_slice(request.as_bytes());
        body.extend_from_slice(text.as_bytes());
        let length = u32::try_from(body.len()).expect("request and text were cut");
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        buffer.extend_from_slice(&body);
    }
}

/// Reads what stands at the start of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Found {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Found::End };
    let [a, b, c, d, e, f, g, h] = *head;
    let checksum = u32::from_le_bytes([e, f, g, h]);
    let Ok(length) = usize::try_from(u32::from_le_bytes([a, b, c, d])) else { return Found::End };
    // A length that cannot be is no place to go on from.
    if !(FIXED_BYTES..=BODY_MAX_BYTES).contains(&length) {
        return Found::End;
    }
    let Some(body) = rest.get(..length) else { return Found::End };
    let taken = HEAD_BYTES + length;
    if crc32fast::hash(body) != checksum {
        return Found::Bad(taken);
    }
    parse(body).map_or(Found::Bad(taken), |record| Found::Record(record, taken))
}

fn parse(mut body: &[u8]) -> Option<Record> {
    fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
        let (taken, rest) = from.split_first_chunk::<N>()?;
        *from = rest;
        Some(*taken)
    }
    let sequence = u64::from_le_bytes(take(&mut body)?);
    let at_us = u64::from_le_bytes(take(&mut body)?);
    let revision = RevisionNumber(u32::from_le_bytes(take(&mut body)?));
    let instance = InstanceId {
        origin: u32::from_le_bytes(take(&mut body)?),
        epoch: Epoch(u32::from_le_bytes(take(&mut body)?)),
        sequence: u32::from_le_bytes(take(&mut body)?),
    };
    let [flags, request_length] = take(&mut body)?;
    let (request, text) = body.split_at_checked(usize::from(request_length))?;
    let request = std::str::from_utf8(request).ok()?;
    Some(Record {
        sequence,
        at_us,
        revision,
        instance,
        stream: if flags & FLAG_STDERR == 0 { LogStream::Stdout } else { LogStream::Stderr },
        request: (flags & FLAG_REQUEST != 0).then(|| request.to_owned()),
        text: std::str::from_utf8(text).ok()?.to_owned(),
        is_mark: flags & FLAG_MARK != 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_record()(
            (sequence, at_us, revision) in any::<(u64, u64, u32)>(),
            (origin, epoch, number) in any::<(u32, u32, u32)>(),
            is_stderr in any::<bool>(),
            is_mark in any::<bool>(),
            request in proptest::option::of("[0-9a-f]{0,32}"),
            text in "\\PC{0,60}",
        ) -> Record {
            Record {
                sequence,
                at_us,
                revision: RevisionNumber(revision),
                instance: InstanceId { origin, epoch: Epoch(epoch), sequence: number },
                stream: if is_stderr { LogStream::Stderr } else { LogStream::Stdout },
                request,
                text,
                is_mark,
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(record in any_record(), behind in any::<Vec<u8>>()) {
            let mut bytes = Vec::new();
            record.write(&mut bytes);
            let length = bytes.len();
            bytes.extend(behind);
            prop_assert_eq!(read(&bytes), Found::Record(record, length));
        }

        #[test]
        fn a_torn_record_is_no_record(record in any_record(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            record.write(&mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert_eq!(read(&bytes), Found::End);
        }

        #[test]
        fn a_flipped_bit_is_found(record in any_record(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut bytes = Vec::new();
            record.write(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(!matches!(read(&bytes), Found::Record(..)));
        }

        #[test]
        fn any_bytes_can_be_read(bytes in any::<Vec<u8>>()) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn too_long_a_line_is_cut_between_characters() {
        let text = "é".repeat(LINE_MAX_BYTES);
        let instance = InstanceId::placed(1);
        let record = Record {
            sequence: 1,
            at_us: 1,
            revision: RevisionNumber(1),
            instance,
            stream: LogStream::Stdout,
            request: Some("x".repeat(300)),
            text,
            is_mark: false,
        };
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        let Found::Record(read, _) = read(&bytes) else { panic!("it is a record") };
        assert_eq!((read.text.len(), read.request.unwrap().len()), (LINE_MAX_BYTES, REQUEST_MAX_BYTES));
    }
}
