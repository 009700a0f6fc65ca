//! Files of records: one folder per function, one file per so many bytes, named by the sequence of its first line.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::record::{self, Found, Record};

const ENDING: &str = ".log";

/// Returns the file of the segment that begins with `first`.
pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:016x}{ENDING}"))
}

/// Returns the segments in a folder by their first sequence; none if there is no such folder. Other files are passed over.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(ENDING)).filter(|digits| digits.len() == 16);
        found.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// What a scan of a segment comes upon.
#[derive(Debug)]
pub(super) enum Item {
    /// A line, and where it stands.
    Record(Record, usize),
    /// A line that is damaged.
    Damaged,
    /// The rest of so many bytes, which holds no line.
    Rest(usize),
}

/// Goes over the records of a segment.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Starts at an offset; one that lies outside finds nothing.
    pub(super) fn starting_at(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, at: offset.min(bytes.len()) }
    }
}

impl Iterator for Scan<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return None;
        }
        let at = self.at;
        match record::read(rest) {
            Found::Record(record, length) => {
                self.at += length;
                Some(Item::Record(record, at))
            }
            Found::Bad(length) => {
                self.at += length;
                Some(Item::Damaged)
            }
            Found::End => {
                self.at = self.bytes.len();
                Some(Item::Rest(rest.len()))
            }
        }
    }
}

/// What is known of a segment without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its length, up to its last record.
    pub(super) bytes: u64,
    /// The earliest time of a line, in microseconds since the Unix epoch.
    pub(super) at_min_us: u64,
    /// The latest one.
    pub(super) at_max_us: u64,
    /// The last sequence; zero if it has no line.
    pub(super) last: u64,
    /// Where the first line of each request stands.
    pub(super) requests: BTreeMap<String, u64>,
}

impl Facts {
    /// Takes in a line that stands at `offset`.
    pub(super) fn add(&mut self, sequence: u64, at_us: u64, request: Option<&str>, offset: u64) {
        self.at_min_us = if self.last == 0 { at_us } else { self.at_min_us.min(at_us) };
        self.at_max_us = self.at_max_us.max(at_us);
        self.last = self.last.max(sequence);
        if let Some(request) = request
            && !self.requests.contains_key(request)
        {
            self.requests.insert(request.to_owned(), offset);
        }
    }

    /// Finds out the facts by reading.
    pub(super) fn scan(bytes: &[u8]) -> Self {
        let mut facts = Self { bytes: bytes.len() as u64, ..Self::default() };
        for item in Scan::starting_at(bytes, 0) {
            match item {
                Item::Record(record, offset) => {
                    facts.add(record.sequence, record.at_us, record.request.as_deref(), offset as u64);
                }
                Item::Damaged => {}
                Item::Rest(rest) => facts.bytes -= rest as u64,
            }
        }
        facts
    }
}
