//! What functions wrote.

use serde::{Deserialize, Serialize};

/// One line a function wrote: `GET /v1/functions/FN/logs`, a stream in the order of writing.
///
/// Parameters: `since` (milliseconds since the Unix epoch), `request` (a request id), `limit` (the newest so many lines of
/// those that match; 1,000 unless given, 100,000 at most), `follow=1` (the stream goes on with lines as they are written, until the client closes it). This
/// stream has no last line of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// The function.
    pub function: String,
    /// The number of the revision.
    pub revision: u32,
    /// The instance, for example `instance-1-4-7`.
    pub instance: String,
    /// Where it was written.
    pub stream: LogStream,
    /// The request during which it was written, where that is known.
    pub request_id: Option<String>,
    /// The line, without its line feed.
    pub text: String,
    /// It is no line of the function: it says that lines are missing here, and why.
    pub is_mark: bool,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}
