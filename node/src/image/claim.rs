//! Blobs that are on their way: what two images share comes once, and nobody takes away what another counts on.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use control_plane::model::Digest;
use tokio::sync::Mutex as Turn;

/// What is being made or fetched counts on these blobs.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Invariant: what is counted of each is this entry and one for every claim on it.
    claimed: Mutex<BTreeMap<Digest, Arc<Turn<()>>>>,
}

/// The blobs of one image, until it is listed or given up.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    turns: BTreeMap<Digest, Arc<Turn<()>>>,
}

impl Claims {
    /// Counts on these blobs until what it returns is dropped, whether they are there yet or not.
    pub(super) fn claim(&self, digests: impl IntoIterator<Item = Digest>) -> Claim<'_> {
        let mut claimed = self.claimed();
        let turns = digests.into_iter().map(|digest| (digest, Arc::clone(claimed.entry(digest).or_default())));
        Claim { claims: self, turns: turns.collect() }
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Turn<()>>>> {
        self.claimed.lock().expect("no holder of this lock panics")
    }
}

impl Claim<'_> {
    /// Waits until nobody else brings this blob.
    pub(super) async fn turn(&self, digest: &Digest) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.turns.get(digest) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    /// Forgets those of these blobs that nobody else counts on.
    pub(super) fn give_up(&self, digests: &[Digest], forget: impl Fn(&Digest) -> io::Result<()>) -> io::Result<()> {
        // Held meanwhile, so that nobody begins to count on what is being forgotten.
        let claimed = self.claims.claimed();
        for digest in digests {
            if claimed.get(digest).is_none_or(|turn| Arc::strong_count(turn) <= 2) {
                forget(digest)?;
            }
        }
        Ok(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.claims.claimed();
        let digests: Vec<Digest> = self.turns.keys().copied().collect();
        self.turns.clear();
        for digest in digests {
            if claimed.get(&digest).is_some_and(|turn| Arc::strong_count(turn) == 1) {
                claimed.remove(&digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_another_counts_on_stays_and_comes_once() {
        let (claims, [own, shared]) = (Claims::default(), [[1; 32], [2; 32]].map(Digest::from_bytes));
        let first = claims.claim([own, shared]);
        let second = claims.claim([shared]);
        let turn = first.turn(&shared).now_or_never().expect("nobody else brings it");
        assert!(second.turn(&shared).now_or_never().is_none(), "the first brings it");
        drop(turn);
        assert!(second.turn(&shared).now_or_never().is_some());
        let forgotten = Mutex::new(Vec::new());
        let forget = |digest: &Digest| {
            forgotten.lock().expect("no holder of this lock panics").push(*digest);
            Ok(())
        };
        first.give_up(&[own, shared], forget).expect("nothing fails");
        drop(first);
        second.give_up(&[shared], forget).expect("nothing fails");
        drop(second);
        assert_eq!(forgotten.into_inner().expect("no holder of this lock panics"), [own, shared]);
        assert!(claims.claimed().is_empty());
    }
}
