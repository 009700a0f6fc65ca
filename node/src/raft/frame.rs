//! What one write of the log looks like on disk: a batch of records under one checksum and a running number.
//!
//! ```text
//! length u32 │ crc32 u32 │ number u64 │ record …          record = length u32 │ kind u8 │ index u64 │ payload
//!            └──── over number and records ────┘           all little-endian
//! ```
//! A batch is written and synced at once, so that a power cut can only tear the last one. Segments are filled with zeros
//! beforehand: a length of zero is the end.

use control_plane::raft::{Record, RecordKind};

/// Bytes before the records of a batch.
pub(super) const HEAD: usize = 16;

/// Bytes of a record before its payload.
const RECORD_HEAD: usize = 13;

/// The longest batch, in bytes; what no segment can hold is no batch.
pub(super) const BATCH_MAX: usize = 64 << 20;

/// What stands at one place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole batch: its number, its records and where the next one begins.
    Batch {
        /// Its running number.
        number: u64,
        /// Its records.
        records: Vec<Record>,
        /// The offset right after it.
        end: usize,
    },
    /// Nothing was written here.
    End,
    /// Something that is no whole batch.
    Bad,
}

/// Appends the bytes of a batch.
pub(super) fn write(out: &mut Vec<u8>, number: u64, records: &[Record]) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&number.to_le_bytes());
    for record in records {
        let length = u32::try_from(record.payload.len()).expect("an entry is bounded far below 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.push(record.kind.code());
        out.extend_from_slice(&record.index.to_le_bytes());
        out.extend_from_slice(&record.payload);
    }
    let length = u32::try_from(out.len() - start - HEAD).expect("a batch is bounded far below 4 GiB");
    let checksum = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads what stands at an offset; never panics, whatever the bytes are.
pub(super) fn read(bytes: &[u8], at: usize) -> Found {
    let Some(head) = bytes.get(at..at.saturating_add(HEAD)) else {
        // Too little is left for a batch: whatever fits is padding, or torn.
        let rest = bytes.get(at..).unwrap_or_default();
        return if rest.iter().all(|byte| *byte == 0) { Found::End } else { Found::Bad };
    };
    if head.iter().all(|byte| *byte == 0) {
        return Found::End;
    }
    let word = |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let length = usize::try_from(word(0)).unwrap_or(usize::MAX);
    if length == 0 || length > BATCH_MAX {
        return Found::Bad;
    }
    let end = at + HEAD + length;
    let Some(covered) = bytes.get(at + 8..end) else { return Found::Bad };
    if crc32fast::hash(covered) != word(4) {
        return Found::Bad;
    }
    let number = u64::from_le_bytes(covered[..8].try_into().expect("eight bytes were taken"));
    match records(&covered[8..]) {
        Some(records) => Found::Batch { number, records, end },
        None => Found::Bad,
    }
}

fn records(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let head = bytes.get(..RECORD_HEAD)?;
        let length = usize::try_from(u32::from_le_bytes(head[..4].try_into().ok()?)).ok()?;
        let kind = RecordKind::from_code(head[4])?;
        let index = u64::from_le_bytes(head[5..13].try_into().ok()?);
        let end = RECORD_HEAD.checked_add(length)?;
        let payload = bytes.get(RECORD_HEAD..end)?.to_vec();
        records.push(Record { kind, index, payload });
        bytes = &bytes[end..];
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batches() -> impl Strategy<Value = Vec<Vec<Record>>> {
        let record = (0..5_usize, any::<u64>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, index, payload)| Record { kind: RecordKind::ALL[kind], index, payload });
        prop::collection::vec(prop::collection::vec(record, 1..5), 1..6)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(batches in batches()) {
            let mut bytes = Vec::new();
            for (number, batch) in (0..).zip(&batches) {
                write(&mut bytes, number, batch);
            }
            bytes.extend_from_slice(&[0; 64]);
            let mut at = 0;
            for (expected, batch) in (0..).zip(&batches) {
                let Found::Batch { number, records, end } = read(&bytes, at) else { panic!("batch {expected} is lost") };
                prop_assert_eq!((number, &records), (expected, batch));
                at = end;
            }
            prop_assert_eq!(read(&bytes, at), Found::End);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..220_usize) {
            read(&bytes, at);
        }

        #[test]
        fn a_flipped_bit_is_found(batches in batches(), place in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = Vec::new();
            write(&mut bytes, 7, &batches[0]);
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert_eq!(read(&bytes, 0), Found::Bad);
        }
    }
}
