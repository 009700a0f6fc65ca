//! The one thread that writes down what functions wrote.
//!
//! Lines come over a queue of bounded size, are appended in batches with one write per function, and are then shown to whoever
//! follows. Lines that cannot be written, because the disk is full, are counted and given up; the thread goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use control_plane::model::FunctionName;
use tokio::sync::oneshot;

use super::follow::Followers;
use super::index::Index;
use super::record::Record;
use super::shelf::Shelf;
use super::{Limits, SEGMENTS_PER_FUNCTION, line};
use crate::clock::Clock;
use crate::telemetry::Metrics;

/// How many lines are appended at once at most.
const BATCH_MAX: usize = 1024;

/// How often old segments are looked for and idle files are closed.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

/// How often a failing disk is told at most.
const TOLD_INTERVAL: Duration = Duration::from_secs(60);

/// The largest segment, in bytes: one is read as a whole.
const SEGMENT_MAX_BYTES: u64 = 4 << 20;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Order {
    /// Write this down; the size is what it counts in the queue.
    Line(FunctionName, Box<Record>, usize),
    /// Answer once everything asked before is done.
    Barrier(oneshot::Sender<()>),
    /// Write what is there and end.
    Stop,
}

/// Everything the thread owns.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) folder: PathBuf,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) index: Index,
    pub(super) metrics: Arc<Metrics>,
    pub(super) followers: Followers,
    pub(super) queued_bytes: Arc<AtomicUsize>,
    pub(super) shelves: BTreeMap<FunctionName, Shelf>,
    pub(super) told: Option<Instant>,
}

impl Writer {
    /// Writes until it is told to stop, or until nobody is left who could tell.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        let mut unopened = self.left_behind();
        let mut tidied = Instant::now();
        loop {
            let patience = match unopened.is_empty() {
                // What an earlier process left is looked through between lines: there may be a lot of it.
                false => Duration::ZERO,
                true => TIDY_INTERVAL.saturating_sub(tidied.elapsed()),
            };
            match orders.recv_timeout(patience) {
                Ok(first) => {
                    if self.batch(first, orders) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(function) = unopened.pop() {
                        self.look_through(&function);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if tidied.elapsed() >= TIDY_INTERVAL {
                self.tidy_all();
                tidied = Instant::now();
            }
        }
        for (function, shelf) in &mut self.shelves {
            if let Err(error) = shelf.sync() {
                tracing::warn!(%function, %error, "what a function wrote last may not be kept");
            }
        }
    }

    /// Does one order and those that wait behind it; returns whether to stop.
    fn batch(&mut self, first: Order, orders: &Receiver<Order>) -> bool {
        let mut lines = Vec::new();
        let mut barriers = Vec::new();
        let mut is_over = false;
        let mut order = Ok(first);
        loop {
            match order {
                Ok(Order::Line(function, record, bytes)) => {
                    self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    lines.push((function, *record));
                }
                Ok(Order::Barrier(sender)) => barriers.push(sender),
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => is_over = true,
                Err(TryRecvError::Empty) => break,
            }
            if is_over || lines.len() == BATCH_MAX {
                break;
            }
            order = orders.try_recv();
        }
        self.append(lines);
        for barrier in barriers {
            // Whoever asked may have gone.
            let _ = barrier.send(());
        }
        is_over
    }

    fn append(&mut self, mut lines: Vec<(FunctionName, Record)>) {
        let mut touched = BTreeSet::new();
        let mut failed = BTreeSet::new();
        for (function, record) in &mut lines {
            match self.shelf(function) {
                Ok(shelf) => {
                    shelf.take(record);
                    touched.insert(function.clone());
                }
                Err(error) => {
                    self.tell(function, &error);
                    failed.insert(function.clone());
                }
            }
        }
        for function in touched {
            let limits = self.limits;
            let oldest = self.oldest_us();
            let Some(shelf) = self.shelves.get_mut(&function) else { continue };
            if let Err(error) = shelf.flush() {
                self.tell(&function, &error);
                failed.insert(function);
            } else if let Err(error) = shelf.tidy(segment_max(limits), limits.function_max_bytes, oldest) {
                self.tell(&function, &error);
            }
        }
        for (function, record) in lines {
            if failed.contains(&function) {
                self.metrics.function_log_lines_lost.inc();
                continue;
            }
            self.metrics.function_log_lines.inc();
            self.followers.show(&function, record.sequence, || line(&function, record));
        }
    }

    fn shelf(&mut self, function: &FunctionName) -> std::io::Result<&mut Shelf> {
        if !self.shelves.contains_key(function) {
            let folder = self.folder.join(function.as_str());
            let shelf = Shelf::open(function.clone(), folder, self.index.clone())?;
            self.shelves.insert(function.clone(), shelf);
        }
        self.shelves.get_mut(function).ok_or_else(|| std::io::Error::other("the shelf was opened just before"))
    }

    /// Returns the functions whose lines an earlier process left.
    fn left_behind(&self) -> Vec<FunctionName> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// Opens what is there of a function and deletes what is too old.
    fn look_through(&mut self, function: &FunctionName) {
        let (limits, oldest) = (self.limits, self.oldest_us());
        let looked =
            self.shelf(function).and_then(|shelf| shelf.tidy(segment_max(limits), limits.function_max_bytes, oldest));
        if let Err(error) = looked {
            self.tell(function, &error);
        }
        self.measure();
    }

    /// Says how much is on disk.
    fn measure(&self) {
        let bytes: u64 = self.shelves.values().map(Shelf::bytes).sum();
        self.metrics.function_log_size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn tidy_all(&mut self) {
        let oldest = self.oldest_us();
        let limits = self.limits;
        let mut failed = Vec::new();
        for (function, shelf) in &mut self.shelves {
            shelf.rest();
            if let Err(error) = shelf.tidy(segment_max(limits), limits.function_max_bytes, oldest) {
                failed.push((function.clone(), error));
            }
        }
        for (function, error) in failed {
            self.tell(&function, &error);
        }
        self.measure();
    }

    /// Returns the time before which lines are too old to keep.
    fn oldest_us(&self) -> u64 {
        let age = u64::try_from(self.limits.age_max.as_micros()).unwrap_or(u64::MAX);
        self.clock.now_us().saturating_sub(age)
    }

    /// Tells of a failure, though not of each.
    fn tell(&mut self, function: &FunctionName, error: &std::io::Error) {
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_INTERVAL) {
            tracing::warn!(%function, %error, "what functions write cannot be kept");
            self.told = Some(Instant::now());
        }
    }
}

fn segment_max(limits: Limits) -> u64 {
    (limits.function_max_bytes / SEGMENTS_PER_FUNCTION).min(SEGMENT_MAX_BYTES)
}
