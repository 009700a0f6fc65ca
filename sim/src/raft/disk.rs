//! A disk on virtual time: what it has synced survives, of what it was syncing a part may.
//!
//! Records lie one after the other, a batch is synced at once, and what comes meanwhile is the next batch. A crash may leave the
//! batch that was being written with a gap: what lies behind the gap must never come back, so opening erases it.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_plane::raft::{Disk, Done, Record, RecordKind};

use super::check::Oracle;
use super::mark::Mark;
use super::swarm::Swarm;
use super::{planted, runtime};
use crate::rng::Rng;

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A sync fails (EIO): nobody knows what of it is there, and a second try would say that all is well.
    Sync,
    /// There is no room (ENOSPC): nothing of what was being written is there.
    Full,
}

/// How many snapshots are kept.
const SNAPSHOTS_KEPT: usize = 2;

/// One place for a record.
#[derive(Clone, Debug)]
enum Place {
    Record(Record),
    /// Half written: recovery stops here.
    Torn,
}

#[derive(Default)]
struct Contents {
    places: Vec<Place>,
    /// Where the next batch goes.
    end: usize,
    /// Invariant: the keys are the last entries that the snapshots cover.
    snapshots: BTreeMap<u64, Vec<u8>>,
    queue: Vec<(Vec<Record>, Option<Done>)>,
    in_flight: Option<Vec<Record>>,
    /// Counts the crashes: what was under way before one never completes.
    life: u64,
    /// Until when every sync waits.
    stalled_until: u64,
    /// How the next sync fails.
    fails: Option<Failure>,
    /// Nothing is taken any more until the process has ended.
    has_failed: bool,
}

struct Shared {
    node: u64,
    swarm: Swarm,
    oracle: Oracle,
    contents: Mutex<Contents>,
    rng: Mutex<Rng>,
}

/// The disk of one node; clones share it.
#[derive(Clone)]
pub(crate) struct Platter(Arc<Shared>);

impl Platter {
    pub(super) fn new(seed: u64, node: u64, swarm: Swarm, oracle: Oracle) -> Self {
        let rng = Mutex::new(Rng::stream(seed, &format!("disk {node}")));
        Self(Arc::new(Shared { node, swarm, oracle, contents: Mutex::default(), rng }))
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rng(&self) -> MutexGuard<'_, Rng> {
        self.0.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns every record in order, and erases what a crash tore.
    pub(super) fn open(&self) -> Vec<Record> {
        let mut contents = self.contents();
        let whole = contents.places.iter().map_while(|place| match place {
            Place::Record(record) => Some(record.clone()),
            Place::Torn => None,
        });
        let records: Vec<Record> = whole.collect();
        contents.end = records.len();
        if !planted!(TailKept) {
            contents.places.truncate(records.len());
        }
        drop(contents);
        self.0.oracle.recovered(self.0.node, &records);
        records
    }

    /// Stops at this instant: nothing that was under way completes.
    pub(super) fn crash(&self) {
        let dropped = {
            let (mut contents, mut rng) = (self.contents(), self.rng());
            contents.life += 1;
            (contents.fails, contents.has_failed) = (None, false);
            if let Some(batch) = contents.in_flight.take() {
                self.keep_part(&mut contents, &mut rng, &batch);
            }
            mem::take(&mut contents.queue)
        };
        // Dropped outside of the lock: they may hold what uses this disk.
        drop(dropped);
    }

    /// Writes what a batch leaves behind that was not synced: nothing of it, a part, or all but what lies in one place.
    fn keep_part(&self, contents: &mut Contents, rng: &mut Rng, batch: &[Record]) {
        let length = batch.len() as u64;
        let (kept, gap) = match rng.below(4) {
            0 => (0, None),
            1 => (rng.between(0, length), None),
            _ => (length, Some(rng.below(length))),
        };
        for (number, record) in (0..kept).zip(batch.iter()) {
            let place = if Some(number) == gap { Place::Torn } else { Place::Record(record.clone()) };
            contents.write(place);
        }
        if kept > 0 && kept < length {
            self.0.oracle.mark(Mark::BatchKeptInPart);
        }
        if gap.is_some_and(|gap| gap + 1 < length) {
            self.0.oracle.mark(Mark::TailTorn);
        }
    }

    /// Lets the next sync fail.
    pub(super) fn fail(&self, failure: Failure) {
        self.contents().fails = Some(failure);
    }

    /// Returns whether it has failed: whoever uses it must end.
    pub(super) fn has_failed(&self) -> bool {
        self.contents().has_failed
    }

    /// Ends the batch that is being written with an error, and all that waits behind it.
    fn give_up(&self, failure: Failure, dones: Vec<Option<Done>>) {
        let waiting = {
            let (mut contents, mut rng) = (self.contents(), self.rng());
            contents.has_failed = true;
            let batch = contents.in_flight.take().unwrap_or_default();
            if failure == Failure::Sync && !batch.is_empty() {
                self.keep_part(&mut contents, &mut rng, &batch);
            }
            mem::take(&mut contents.queue)
        };
        self.0.oracle.mark(match failure {
            Failure::Sync => Mark::SyncFailed,
            Failure::Full => Mark::DiskFull,
        });
        let dones = dones.into_iter().chain(waiting.into_iter().map(|(_, done)| done));
        for done in dones.flatten() {
            done(Err(failed()));
        }
    }

    /// Returns how many records are being written.
    pub(super) fn writes(&self) -> usize {
        self.contents().in_flight.as_ref().map_or(0, Vec::len)
    }

    /// Lets every sync wait for a while.
    pub(super) fn stall(&self, duration: Duration) {
        let until = runtime::now() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.contents().stalled_until = until;
    }

    /// Ends a stall, and failures to come.
    pub(super) fn calm(&self) {
        let mut contents = self.contents();
        (contents.stalled_until, contents.fails) = (0, None);
    }

    fn latency(&self) -> Duration {
        let stalled = self.contents().stalled_until.saturating_sub(runtime::now());
        let (swarm, mut rng) = (&self.0.swarm, self.rng());
        let is_long = rng.chance(swarm.sync_long_permille);
        if is_long || stalled > 0 {
            self.0.oracle.mark(Mark::DiskStalled);
        }
        (if is_long { swarm.sync_long } else { swarm.sync }).draw(&mut rng) + Duration::from_nanos(stalled)
    }

    /// Begins to sync what is queued, unless a sync is under way.
    fn sync(&self) {
        let (dones, life) = {
            let mut contents = self.contents();
            if contents.in_flight.is_some() || contents.queue.is_empty() {
                return;
            }
            let (records, dones): (Vec<_>, Vec<_>) = mem::take(&mut contents.queue).into_iter().unzip();
            contents.in_flight = Some(records.into_iter().flatten().collect());
            (dones, contents.life)
        };
        let disk = self.clone();
        runtime::after(self.latency(), move || {
            let fails = {
                let mut contents = disk.contents();
                if contents.life != life {
                    return;
                }
                contents.fails.take()
            };
            if let Some(failure) = fails {
                return disk.give_up(failure, dones);
            }
            {
                let mut contents = disk.contents();
                for record in contents.in_flight.take().unwrap_or_default() {
                    let purged = (record.kind == RecordKind::Purge).then_some(record.index);
                    contents.write(Place::Record(record));
                    if let Some(index) = purged {
                        contents.forget(index, &mut disk.rng());
                    }
                }
            }
            disk.0.oracle.count("syncs");
            runtime::note(disk.0.node);
            for done in dones.into_iter().flatten() {
                done(Ok(()));
            }
            disk.sync();
        });
    }
}

fn failed() -> io::Error {
    io::Error::other("the disk has failed")
}

impl Contents {
    fn write(&mut self, place: Place) {
        match self.places.get_mut(self.end) {
            Some(old) => *old = place,
            None => self.places.push(place),
        }
        self.end += 1;
    }

    /// Gives up some of the oldest records that a snapshot covers, but never the newest vote and the like among them.
    fn forget(&mut self, covered: u64, rng: &mut Rng) {
        let is_covered = |place: &&Place| match place {
            Place::Record(record) => record.kind != RecordKind::Entry || record.index <= covered,
            Place::Torn => false,
        };
        let most = self.places[..self.end].iter().take_while(is_covered).count();
        let given_up = usize::try_from(rng.between(0, most as u64)).unwrap_or(0);
        let mut carried: BTreeMap<RecordKind, Record> = BTreeMap::new();
        for place in &self.places[..given_up] {
            if let Place::Record(record) = place
                && matches!(record.kind, RecordKind::Vote | RecordKind::Purge | RecordKind::Committed)
            {
                carried.insert(record.kind, record.clone());
            }
        }
        let added = carried.len();
        self.places.splice(..given_up, carried.into_values().map(Place::Record));
        self.end = self.end - given_up + added;
    }
}

impl Disk for Platter {
    fn append(&self, records: Vec<Record>, done: Done) {
        // Also where it fails: what is committed may be applied from memory before the node knows of the failure and ends.
        records.iter().for_each(|record| self.0.oracle.appended(self.0.node, record));
        if self.has_failed() {
            return done(Err(failed()));
        }
        self.contents().queue.push((records, Some(done)));
        self.sync();
    }

    fn append_lazily(&self, record: Record) {
        if self.has_failed() {
            return;
        }
        self.0.oracle.appended(self.0.node, &record);
        self.contents().queue.push((vec![record], None));
    }

    fn put_snapshot(&self, index: u64, bytes: Vec<u8>, done: Done) {
        if self.has_failed() {
            return done(Err(failed()));
        }
        self.0.oracle.snapshot(self.0.node, index);
        let (disk, life) = (self.clone(), self.contents().life);
        // A file, its directory: two syncs, beside the log.
        runtime::after(self.latency() + self.latency(), move || {
            {
                let mut contents = disk.contents();
                if contents.life != life {
                    return;
                }
                contents.snapshots.insert(index, bytes);
                while contents.snapshots.len() > SNAPSHOTS_KEPT {
                    contents.snapshots.pop_first();
                }
            }
            done(Ok(()));
        });
    }

    fn snapshot(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.contents().snapshots.last_key_value().map(|(_, bytes)| bytes.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Record {
        Record { kind: RecordKind::Entry, index, payload: Vec::new() }
    }

    /// Plays one seed of a disk that is given entries 1 to 9 and crashes; returns what was acknowledged and what came back.
    fn crashed(seed: u64) -> (u64, Vec<u64>) {
        runtime::begin(seed);
        let disk = Platter::new(seed, 1, Swarm::calm(1), Oracle::default());
        let acknowledged = Arc::new(Mutex::new(0));
        for index in 1..=9 {
            let (disk, acknowledged) = (disk.clone(), Arc::clone(&acknowledged));
            runtime::after(Duration::from_micros(30 * index), move || {
                disk.append(vec![entry(index)], Box::new(move |_| *acknowledged.lock().expect("no panic") = index));
            });
        }
        let crash = Duration::from_micros(Rng::stream(seed, "crash").between(1, 600));
        runtime::run_until(crash, || false);
        disk.crash();
        let recovered = disk.open().iter().map(|record| record.index).collect();
        runtime::end();
        let acknowledged = *acknowledged.lock().expect("no panic");
        (acknowledged, recovered)
    }

    #[test]
    fn what_was_acknowledged_survives_and_nothing_stands_behind_a_gap() {
        let mut more = 0;
        for seed in 0..300 {
            let (acknowledged, recovered) = crashed(seed);
            let last = recovered.len() as u64;
            assert_eq!(recovered, (1..=last).collect::<Vec<_>>(), "seed {seed}");
            assert!(last >= acknowledged, "seed {seed}: {acknowledged} were acknowledged, {last} are there");
            more += u64::from(last > acknowledged);
        }
        assert!(more > 0, "what was being synced survives at times");
    }
}
