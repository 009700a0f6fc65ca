//! Reading what functions wrote: by time, by request, the newest so many.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use control_plane::model::FunctionName;
use proto::json;

use super::index::{Index, Place};
use super::record::Record;
use super::segment::{self, Item, Scan};
use super::{line, mark};

/// How many bytes of lines one answer holds at most; the oldest beyond that are left out, and that is told.
pub const PAGE_MAX_BYTES: usize = 32 << 20;

/// What a line costs beyond its text, in bytes.
const LINE_COST_BYTES: usize = 200;

/// Which lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The function.
    pub function: FunctionName,
    /// Only lines written at this time or later, in microseconds since the Unix epoch.
    pub since_us: u64,
    /// Only lines of this request.
    pub request: Option<String>,
    /// The newest so many of those.
    pub limit: usize,
}

/// Lines that were asked for, in the order of writing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The lines.
    pub lines: Vec<json::LogLine>,
    /// The place of the last line that was looked at, asked for or not; what follows has a higher one.
    pub last: u64,
}

/// Why lines cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A segment cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store is closed.
    #[error("the store of function logs is closed")]
    Closed,
    /// The writer did not get to it in time.
    #[error("the store of function logs is too busy")]
    Busy,
}

impl Query {
    fn wants(&self, record: &Record) -> bool {
        record.at_us >= self.since_us
            && self.request.as_ref().is_none_or(|request| record.request.as_ref() == Some(request))
    }
}

/// Lines as they are found, of which the newest stay.
struct Newest {
    lines: VecDeque<json::LogLine>,
    limit: usize,
    bytes: usize,
    is_cut: bool,
}

impl Newest {
    fn push(&mut self, line: json::LogLine) {
        self.bytes += line.text.len() + LINE_COST_BYTES;
        self.lines.push_back(line);
        while self.lines.len() > self.limit || self.bytes > PAGE_MAX_BYTES {
            self.is_cut |= self.lines.len() <= self.limit;
            let Some(dropped) = self.lines.pop_front() else { break };
            self.bytes -= dropped.text.len() + LINE_COST_BYTES;
        }
    }
}

/// Reads from the segments of the function. Blocks on the disk.
pub(super) fn read(root: &Path, index: &Index, query: &Query) -> Result<Page, ReadError> {
    let folder = root.join(query.function.as_str());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ReadError::Io { path, source }
    };
    let firsts = segment::list(&folder).map_err(failed(&folder))?;
    let newest_segment = firsts.last().copied();
    let mut newest = Newest { lines: VecDeque::new(), limit: query.limit, bytes: 0, is_cut: false };
    let mut last = 0;
    for first in firsts {
        let mut offset = 0;
        if let Some(facts) = index.facts(&query.function, first) {
            last = last.max(facts.last);
            if facts.at_max_us < query.since_us {
                continue;
            }
            match query.request.as_ref().map(|request| index.place(&query.function, first, request)) {
                Some(Place::Nowhere) => continue,
                Some(Place::From(start)) => offset = start,
                Some(Place::Unknown) | None => {}
            }
        }
        let path = segment::path(&folder, first);
        let content = match fs::read(&path) {
            Ok(content) => content,
            // It grew too old just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&path)(error)),
        };
        let mut before = None;
        for item in Scan::starting_at(&content, usize::try_from(offset).unwrap_or(usize::MAX)) {
            let damage = match item {
                Item::Record(record, _) => {
                    last = last.max(record.sequence);
                    before = Some((record.at_us, record.revision, record.instance));
                    if query.wants(&record) {
                        newest.push(line(&query.function, record));
                    }
                    continue;
                }
                Item::Damaged => "a damaged line was passed over".to_owned(),
                // The end of the newest segment may be half-written this very moment.
                Item::Rest(_) if newest_segment == Some(first) => continue,
                Item::Rest(bytes) => format!("{bytes} damaged bytes were passed over"),
            };
            if query.request.is_none()
                && let Some((at_us, revision, instance)) = before
                && at_us >= query.since_us
            {
                newest.push(mark(&query.function, at_us, revision, instance, damage));
            }
        }
    }
    let mut lines: Vec<json::LogLine> = newest.lines.into();
    if newest.is_cut
        && let Some(oldest) = lines.first_mut()
    {
        // It takes the place of the oldest line, so that the limits hold.
        oldest.is_mark = true;
        oldest.text = "older lines were left out: the answer would be too large".to_owned();
    }
    Ok(Page { lines, last })
}
