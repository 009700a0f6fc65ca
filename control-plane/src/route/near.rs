//! The nearest of many names: what somebody who mistyped may have meant.

use crate::model::{FunctionName, NAME_LENGTH_MAX};

/// How many edits apart two names may be and still be near.
const DISTANCE_MAX: usize = 2;

/// Returns the name that is fewest edits away, at most [`DISTANCE_MAX`] and fewer than half of what was typed.
pub(super) fn nearest<'a>(asked: &str, names: impl Iterator<Item = &'a FunctionName>) -> Option<&'a FunctionName> {
    if asked.len() > NAME_LENGTH_MAX + DISTANCE_MAX {
        return None;
    }
    names
        .filter_map(|name| Some((distance(asked.as_bytes(), name.as_str().as_bytes())?, name)))
        .filter(|(distance, _)| distance * 2 < asked.len())
        .min()
        .map(|(_, name)| name)
}

/// Returns how many insertions, deletions and replacements of bytes lead from one text to the other, if at most
/// [`DISTANCE_MAX`].
///
/// Only the band of the matrix that such few edits can reach is computed, so a wrong name costs little even among
/// thousands of others.
fn distance(from: &[u8], to: &[u8]) -> Option<usize> {
    if from.len().abs_diff(to.len()) > DISTANCE_MAX {
        return None;
    }
    // `row[k]` is the distance at column `line + k - DISTANCE_MAX`.
    const BAND: usize = 2 * DISTANCE_MAX + 1;
    const FAR: usize = DISTANCE_MAX + 1;
    let mut row = [FAR; BAND];
    for (k, cell) in row.iter_mut().enumerate().skip(DISTANCE_MAX) {
        *cell = k - DISTANCE_MAX;
    }
    for line in 1..=from.len() {
        let mut next = [FAR; BAND];
        for k in 0..BAND {
            let Some(column) = (line + k).checked_sub(DISTANCE_MAX).filter(|column| *column <= to.len()) else {
                continue;
            };
            if column == 0 {
                next[k] = line;
                continue;
            }
            let replaced = row[k] + usize::from(from[line - 1] != to[column - 1]);
            let deleted = row.get(k + 1).map_or(FAR, |cell| cell + 1);
            let inserted = k.checked_sub(1).map_or(FAR, |k| next[k] + 1);
            next[k] = replaced.min(deleted).min(inserted);
        }
        if next.iter().all(|cell| *cell > DISTANCE_MAX) {
            return None;
        }
        row = next;
    }
    let last = row[to.len() + DISTANCE_MAX - from.len()];
    (last <= DISTANCE_MAX).then_some(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole matrix, as textbooks have it.
    fn whole(from: &[u8], to: &[u8]) -> usize {
        let mut row: Vec<usize> = (0..=to.len()).collect();
        for (line, byte) in from.iter().enumerate() {
            let mut next = vec![line + 1];
            for (column, other) in to.iter().enumerate() {
                let replaced = row[column] + usize::from(byte != other);
                next.push(replaced.min(row[column + 1] + 1).min(next[column] + 1));
            }
            row = next;
        }
        row[to.len()]
    }

    proptest! {
        #[test]
        fn the_band_agrees_with_the_whole_matrix(from in "[ab]{0,7}", to in "[ab]{0,7}") {
            let far = whole(from.as_bytes(), to.as_bytes());
            prop_assert_eq!(distance(from.as_bytes(), to.as_bytes()), (far <= DISTANCE_MAX).then_some(far));
        }
    }
}
