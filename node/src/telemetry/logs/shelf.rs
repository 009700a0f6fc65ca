//! The segments of one function, as the writer keeps them: appended to, sealed when full, deleted when old.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use control_plane::model::FunctionName;

use super::index::Index;
use super::record::Record;
use super::segment::{self, Facts};

/// The segments of one function.
#[derive(Debug)]
pub(super) struct Shelf {
    function: FunctionName,
    folder: PathBuf,
    index: Index,
    /// Full segments by first sequence; their requests are in the index alone.
    sealed: BTreeMap<u64, Facts>,
    /// The segment that is appended to.
    active: Option<Active>,
    /// Invariant: above every sequence on disk.
    next: u64,
    /// What is to be appended.
    waiting: Vec<u8>,
    /// What there is to know of each record in `waiting`.
    waiting_lines: Vec<Line>,
}

/// What the facts of a segment need of a record that is not on disk yet.
#[derive(Debug)]
struct Line {
    sequence: u64,
    at_us: u64,
    request: Option<String>,
    /// From the start of what waits.
    offset: u64,
}

#[derive(Debug)]
struct Active {
    first: u64,
    facts: Facts,
    /// Open while lines come.
    file: Option<File>,
}

impl Shelf {
    /// Looks through the folder. The newest segment is read, and what a crash tore off its end is erased; older ones are read
    /// only if the index does not know them.
    pub(super) fn open(function: FunctionName, folder: PathBuf, index: Index) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut firsts = segment::list(&folder)?;
        let mut active = None;
        if let Some(first) = firsts.pop() {
            let path = segment::path(&folder, first);
            let content = fs::read(&path)?;
            let facts = Facts::scan(&content);
            if facts.bytes < content.len() as u64 {
                let lost_bytes = content.len() as u64 - facts.bytes;
                tracing::info!(%function, file = %path.display(), lost_bytes, "erased the torn end of a function's log");
                File::options().write(true).open(&path)?.set_len(facts.bytes)?;
            }
            active = Some(Active { first, facts, file: None });
        }
        let mut sealed = BTreeMap::new();
        for first in firsts {
            let facts = match index.facts(&function, first) {
                Some(facts) => facts,
                None => {
                    let mut facts = Facts::scan(&fs::read(segment::path(&folder, first))?);
                    index.enter(&function, first, &facts);
                    facts.requests.clear();
                    facts
                }
            };
            sealed.insert(first, facts);
        }
        // The first sequence of a segment counts even if its record is damaged.
        let last_of = |first: u64, facts: &Facts| first.max(facts.last);
        let last_sealed = sealed.iter().map(|(first, facts)| last_of(*first, facts)).max();
        let last_active = active.as_ref().map(|active| last_of(active.first, &active.facts));
        let next = last_sealed.max(last_active).map_or(1, |last| last.saturating_add(1));
        Ok(Self { function, folder, index, sealed, active, next, waiting: Vec::new(), waiting_lines: Vec::new() })
    }

    /// Returns how many bytes are on disk.
    pub(super) fn bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.facts.bytes);
        active + self.sealed.values().map(|facts| facts.bytes).sum::<u64>()
    }

    /// Gives a line its sequence and takes it for the next [`flush`](Self::flush).
    pub(super) fn take(&mut self, record: &mut Record) {
        record.sequence = self.next;
        self.next += 1;
        self.waiting_lines.push(Line {
            sequence: record.sequence,
            at_us: record.at_us,
            request: record.request.clone(),
            offset: self.waiting.len() as u64,
        });
        record.write(&mut self.waiting);
    }

    /// Appends what was taken. After an error nothing of it is on disk, and what comes later can be appended all the same.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let lines = std::mem::take(&mut self.waiting_lines);
        let Some(first) = lines.first().map(|line| line.sequence) else { return Ok(()) };
        let active = self.active.get_or_insert_with(|| Active { first, facts: Facts::default(), file: None });
        let path = segment::path(&self.folder, active.first);
        let file = match &mut active.file {
            Some(file) => file,
            closed @ None => closed.insert(File::options().create(true).append(true).open(&path)?),
        };
        let start = active.facts.bytes;
        if let Err(error) = file.write_all(&waiting) {
            // Half a record would hide those behind it.
            if file.set_len(start).is_err() {
                active.file = None;
            }
            return Err(error);
        }
        for line in lines {
            active.facts.add(line.sequence, line.at_us, line.request.as_deref(), start + line.offset);
        }
        active.facts.bytes = start + waiting.len() as u64;
        Ok(())
    }

    /// Seals the active segment if it has `segment_max` bytes, and deletes what is over `total_max` or older than `oldest_us`.
    pub(super) fn tidy(&mut self, segment_max: u64, total_max: u64, oldest_us: u64) -> io::Result<()> {
        if let Some(active) = self.active.take_if(|active| {
            active.facts.bytes >= segment_max || (active.facts.last != 0 && active.facts.at_max_us < oldest_us)
        }) {
            let synced = active.file.map_or(Ok(()), |file| file.sync_data());
            self.index.enter(&self.function, active.first, &active.facts);
            self.sealed.insert(active.first, Facts { requests: BTreeMap::new(), ..active.facts });
            synced?;
        }
        while let Some(oldest) = self.sealed.first_entry() {
            let is_old = oldest.get().at_max_us < oldest_us;
            let first = *oldest.key();
            if !is_old && self.bytes() <= total_max {
                break;
            }
            self.sealed.remove(&first);
            self.delete(first)?;
        }
        Ok(())
    }

    fn delete(&self, first: u64) -> io::Result<()> {
        let path = segment::path(&self.folder, first);
        let requests = Facts::scan(&fs::read(&path)?).requests;
        fs::remove_file(&path)?;
        self.index.forget(&self.function, first, requests.into_keys());
        Ok(())
    }

    /// Makes what was flushed survive the power failing.
    pub(super) fn sync(&self) -> io::Result<()> {
        let file = self.active.as_ref().and_then(|active| active.file.as_ref());
        file.map_or(Ok(()), File::sync_data)
    }

    /// Closes the file until lines come again.
    pub(super) fn rest(&mut self) {
        if let Some(active) = &mut self.active {
            active.file = None;
        }
    }
}
