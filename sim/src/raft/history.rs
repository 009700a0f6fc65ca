//! What clients saw, and whether one order of everything explains it.
//!
//! The operations are chosen so that this is easy to tell. A write registers a node of the state under a name that nobody else
//! uses, and is answered with how often that node has been registered; a read tells both. So every operation knows its place
//! in the order of its key, and linearizability (Wing and Gong's question, NP-complete for registers) is a sweep over time:
//! whoever begins after another has ended must stand behind it.

use std::collections::BTreeMap;

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// What it is about.
    pub(crate) key: u32,
    /// The name that it writes; none for a read.
    pub(crate) written: Option<String>,
    pub(crate) began: u64,
    /// When it was answered, with how many writes there are and who the last one was; none while nobody knows.
    pub(crate) answered: Option<(u64, u64, String)>,
}

/// Every operation, and every committed write by key and place.
#[derive(Debug, Default)]
pub(crate) struct History {
    operations: Vec<Operation>,
    committed: BTreeMap<(u32, u64), String>,
}

impl History {
    /// Notes that an operation begins, and returns its number.
    pub(crate) fn begin(&mut self, key: u32, written: Option<String>, began: u64) -> usize {
        self.operations.push(Operation { key, written, began, answered: None });
        self.operations.len() - 1
    }

    /// Notes the answer to an operation: a write's place and name, or those of the last write that a read has seen.
    pub(crate) fn answer(&mut self, number: usize, at: u64, place: u64, name: String) {
        self.operations[number].answered = Some((at, place, name));
    }

    /// Notes a write that a replica has applied.
    pub(crate) fn commit(&mut self, key: u32, place: u64, name: String) {
        self.committed.insert((key, place), name);
    }

    /// Returns how many operations were answered.
    pub(crate) fn answered(&self) -> usize {
        self.operations.iter().filter(|operation| operation.answered.is_some()).count()
    }

    /// Returns whether a write was committed of which its client does not know.
    pub(crate) fn has_unknown_write(&self) -> bool {
        let unknown = self.operations.iter().filter(|operation| operation.answered.is_none());
        let names: std::collections::BTreeSet<&str> = unknown.filter_map(|known| known.written.as_deref()).collect();
        self.committed.values().any(|name| names.contains(name.as_str()))
    }

    /// Returns whether a client read what another one wrote; names begin with the client.
    pub(crate) fn has_read_of_another(&self) -> bool {
        let mut reads = self.operations.iter().filter(|operation| operation.written.is_none());
        reads.any(|read| read.answered.as_ref().is_some_and(|(_, place, _)| *place > 1))
    }

    /// Returns what no order of the operations explains, in words.
    pub(crate) fn violations(&self) -> Vec<String> {
        let began: BTreeMap<&str, u64> = self
            .operations
            .iter()
            .filter_map(|operation| Some((operation.written.as_deref()?, operation.began)))
            .collect();
        let mut found = Vec::new();
        let keys: std::collections::BTreeSet<u32> = self.operations.iter().map(|operation| operation.key).collect();
        for key in keys {
            self.check_key(key, &began, &mut found);
        }
        found
    }

    fn check_key(&self, key: u32, began: &BTreeMap<&str, u64>, found: &mut Vec<String>) {
        // When the last of the writes up to each place began: nobody may have seen it earlier.
        let mut seen_from: BTreeMap<u64, u64> = BTreeMap::new();
        let mut latest = 0;
        for ((_, place), name) in self.committed.range((key, 0)..=(key, u64::MAX)) {
            latest = latest.max(began.get(name.as_str()).copied().unwrap_or(u64::MAX));
            seen_from.insert(*place, latest);
        }
        let known = self.operations.iter().filter(|operation| operation.key == key);
        let mut known: Vec<(&Operation, u64, u64, &str)> = known
            .filter_map(|operation| {
                let (at, place, name) = operation.answered.as_ref()?;
                Some((operation, *at, *place, name.as_str()))
            })
            .collect();
        for (operation, at, place, name) in &known {
            let verb = if operation.written.is_some() { "write" } else { "read" };
            let committed = self.committed.get(&(key, *place)).map(String::as_str).unwrap_or_default();
            if committed != *name {
                found
                    .push(format!("key {key}: a {verb} was told {name:?} at place {place}, the log has {committed:?}"));
            }
            if seen_from.get(place).is_some_and(|from| at < from) {
                found.push(format!("key {key}: a {verb} saw {name:?} before it was written"));
            }
        }
        let mut ends: Vec<(u64, u64)> = known.iter().map(|(_, at, place, _)| (*at, *place)).collect();
        ends.sort_unstable();
        known.sort_by_key(|(operation, ..)| operation.began);
        let (mut next, mut reached) = (0, 0);
        for (operation, _, place, name) in known {
            while let Some((at, ended)) = ends.get(next)
                && *at < operation.began
            {
                reached = reached.max(*ended);
                next += 1;
            }
            let (is_behind, verb) = match operation.written {
                Some(_) => (place > reached, "write"),
                None => (place >= reached, "read"),
            };
            if !is_behind {
                found.push(format!(
                    "key {key}: a stale {verb} of {name:?} at place {place}, {reached} was known before"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One committed write each of `a` and `b`, and what some operations were told about them.
    fn history(told: &[(Option<&str>, u64, u64, u64, &str)]) -> Vec<String> {
        let mut history = History::default();
        history.commit(1, 1, "a".to_owned());
        history.commit(1, 2, "b".to_owned());
        for (written, began, at, place, name) in told {
            let number = history.begin(1, written.map(ToOwned::to_owned), *began);
            history.answer(number, *at, *place, (*name).to_owned());
        }
        history.violations()
    }

    const A: (Option<&str>, u64, u64, u64, &str) = (Some("a"), 10, 20, 1, "a");
    const B: (Option<&str>, u64, u64, u64, &str) = (Some("b"), 30, 40, 2, "b");

    #[test]
    fn an_order_that_explains_everything_is_found() {
        assert_eq!(history(&[A, B, (None, 35, 38, 1, "a"), (None, 35, 50, 2, "b"), (None, 1, 2, 0, "")]), [""; 0]);
    }

    #[test]
    fn what_no_order_explains_is_told() {
        let count = |told| history(told).len();
        assert_eq!(count(&[A, B, (None, 41, 50, 1, "a")]), 1, "a stale read");
        assert_eq!(count(&[A, B, (None, 31, 33, 2, "b"), (None, 34, 36, 1, "a")]), 1, "reads go back in time");
        assert_eq!(count(&[A, B, (None, 12, 15, 2, "b")]), 2, "a read of the future, and a write behind it");
        assert_eq!(count(&[A, (Some("b"), 30, 40, 1, "b")]), 2, "two writes at one place");
        assert_eq!(count(&[A, (Some("c"), 30, 40, 3, "c")]), 1, "an acknowledged write that is not in the log");
    }
}
