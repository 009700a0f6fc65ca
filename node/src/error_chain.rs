//! An error with everything that caused it, as one line for people.

use std::error::Error;

/// Returns the messages of an error and of its causes, joined by colons.
pub(crate) fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
