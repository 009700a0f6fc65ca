//! Cuts a stream of bytes into lines of bounded length.

use std::borrow::Cow;

/// The longest line that is kept in one piece, in bytes. A longer one becomes several lines.
pub const LINE_MAX_BYTES: usize = 64 * 1024;

/// Collects bytes until a line is complete.
///
/// Bytes that are no UTF-8 are replaced, a carriage return before the line feed is dropped.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    /// Invariant: holds no line feed and fewer than [`LINE_MAX_BYTES`] bytes between calls.
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Takes the next bytes and hands every line they complete to `emit`.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = LINE_MAX_BYTES - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                if self.partial.is_empty() {
                    emit(&text(&bytes[..end]));
                } else {
                    self.partial.extend_from_slice(&bytes[..end]);
                    emit(&text(&self.partial));
                    self.partial.clear();
                }
                bytes = &bytes[end + 1..];
            } else {
                self.partial.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if self.partial.len() == LINE_MAX_BYTES {
                    let rest = self.partial.split_off(whole_characters(&self.partial));
                    emit(&text(&self.partial));
                    self.partial = rest;
                }
            }
        }
    }

    /// Hands over what was written without a line feed at its end.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            emit(&text(&self.partial));
            self.partial.clear();
        }
    }
}

/// Returns a line as text.
fn text(line: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))
}

/// Returns how many of these bytes can be cut off without cutting a UTF-8 character in two.
fn whole_characters(bytes: &[u8]) -> usize {
    let is_start = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
    match bytes.iter().rev().take(4).position(is_start) {
        Some(back) if back < 3 && bytes[bytes.len() - 1 - back] >= 0b1100_0000 => bytes.len() - 1 - back,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(portions: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for portion in portions {
            splitter.push(portion, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_end_at_line_feeds_and_at_the_end() {
        assert_eq!(lines(&[b"a\nb", b"c\r\n\nd"]), ["a", "bc", "", "d"]);
        assert_eq!(lines(&[b"\xffx\n"]), ["\u{fffd}x"]);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let long = "é".repeat(LINE_MAX_BYTES / 2) + "e";
        let odd = format!("x{long}");
        let cut = lines(&[odd.as_bytes()]);
        assert_eq!(cut.len(), 2);
        assert_eq!(cut[0].len(), LINE_MAX_BYTES - 1);
        assert_eq!(cut.concat(), odd);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_the_bytes_arrive(
            text in "[a-zé\n]{0,400}",
            portion in 1usize..40,
        ) {
            let portions: Vec<&[u8]> = text.as_bytes().chunks(portion).collect();
            let expected: Vec<&str> = text.strip_suffix('\n').map_or_else(
                || if text.is_empty() { vec![] } else { text.split('\n').collect() },
                |text| text.split('\n').collect(),
            );
            prop_assert_eq!(lines(&portions), expected);
        }
    }
}
