//! The executor: one thread, a virtual clock in nanoseconds, and a seeded pick among the tasks that are ready.
//!
//! Tasks belong to groups. Ending a group drops its futures where they stand, as SIGKILL does to a process; pausing one leaves
//! its tasks unpolled while time goes on around them. Everything lives in a thread-local, because openraft's runtime is a set
//! of functions without a receiver. What runs while futures are dropped must bear that the executor has gone already.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use super::join::{self, Join};
use super::tasks::{Ready, Task, TaskId, Tasks, Work};
use crate::rng::Rng;

/// How many steps may be taken without time going on: more is a loop that waits for nothing.
const STEPS_MAX: u64 = 1_000_000;

/// The tasks of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group(u64);

/// The group of everything that is not part of a simulated process.
pub(crate) const WORLD: Group = Group(0);

/// What happens at some time.
pub(super) enum Event {
    Wake(Waker),
    Call(Box<dyn FnOnce()>),
}

/// When an event happens; those of one moment in the order in which they were entered.
pub(super) type EventKey = (u64, u64);

pub(super) struct Core {
    pub(super) now: u64,
    pub(super) events: BTreeMap<EventKey, Event>,
    /// The events of this moment that were there when it came: all of them happen before any task sees one.
    due: VecDeque<Event>,
    pub(super) draws: Rng,
    order: Rng,
    tasks: Tasks,
    ready: Ready,
    groups: BTreeSet<Group>,
    /// The paused groups, and the tasks of each that would be ready.
    paused: BTreeMap<Group, Vec<TaskId>>,
    current: Group,
    last: u64,
    hash: u64,
    /// How many steps were taken since time last went on.
    steps: u64,
}

impl Core {
    fn new(seed: u64) -> Self {
        Self {
            now: 0,
            events: BTreeMap::new(),
            due: VecDeque::new(),
            draws: Rng::stream(seed, "openraft"),
            order: Rng::stream(seed, "order of tasks"),
            tasks: Tasks::default(),
            ready: Arc::default(),
            groups: BTreeSet::from([WORLD]),
            paused: BTreeMap::new(),
            current: WORLD,
            last: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn enter(&mut self, at: u64, event: Event) -> EventKey {
        let key = (at.max(self.now), self.number());
        self.events.insert(key, event);
        key
    }

    fn mix(&mut self, what: u64) {
        self.hash = (self.hash ^ what).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    /// Takes a ready task at random; tasks of paused groups are put by.
    fn pick(&mut self) -> Option<TaskId> {
        loop {
            let id = {
                let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
                if ready.is_empty() {
                    return None;
                }
                let index = self.order.below(ready.len() as u64);
                ready.swap_remove(usize::try_from(index).unwrap_or(0))
            };
            let Some(task) = self.tasks.get_mut(id) else { continue };
            match self.paused.get_mut(&task.group) {
                Some(parked) => parked.push(id),
                None => return Some(id),
            }
        }
    }

    fn next(&mut self, until: u64) -> Step {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "{STEPS_MAX} steps without time going on");
        if let Some(event) = self.due.pop_front() {
            return Step::Fire(event);
        }
        if let Some(id) = self.pick() {
            self.mix(id.number);
            let Some(task) = self.tasks.get_mut(id) else { return Step::Again };
            task.waker.is_queued.store(false, Ordering::Relaxed);
            let Some(work) = task.work.take() else { return Step::Again };
            self.current = task.group;
            return Step::Poll(id, work, Waker::from(Arc::clone(&task.waker)));
        }
        match self.events.first_key_value() {
            Some((key, _)) if key.0 <= until => {
                let key = *key;
                if key.0 > self.now {
                    (self.now, self.steps) = (key.0, 0);
                }
                self.mix(key.0);
                while let Some(event) = self.events.first_entry().filter(|event| event.key().0 == key.0) {
                    self.due.push_back(event.remove());
                }
                Step::Again
            }
            Some(_) => {
                self.now = self.now.max(until);
                Step::Over
            }
            None => Step::Idle,
        }
    }
}

enum Step {
    Poll(TaskId, Work, Waker),
    Fire(Event),
    Again,
    /// The next event lies beyond the end.
    Over,
    /// Nothing will ever happen again.
    Idle,
}

thread_local! {
    static CORE: RefCell<Option<Core>> = const { RefCell::new(None) };
}

/// Calls `f` with the executor of this thread, or with none where there is none.
pub(super) fn try_with<T>(f: impl FnOnce(&mut Core) -> T) -> Option<T> {
    CORE.try_with(|core| core.try_borrow_mut().ok().and_then(|mut core| core.as_mut().map(f))).ok().flatten()
}

fn with<T>(f: impl FnOnce(&mut Core) -> T) -> T {
    try_with(f).expect("a simulation runs in this thread")
}

/// Begins a simulation in this thread, at time zero.
pub(crate) fn begin(seed: u64) {
    end();
    CORE.with(|core| *core.borrow_mut() = Some(Core::new(seed)));
}

/// Ends the simulation of this thread and drops everything that is left of it; returns the hash of all that happened.
pub(crate) fn end() -> u64 {
    let ended = CORE.with(|core| core.borrow_mut().take());
    // Dropped without an executor: whatever wakes, waits or starts meanwhile does nothing.
    ended.map_or(0, |core| core.hash)
}

/// Mixes what happened into the hash.
pub(crate) fn note(what: u64) {
    try_with(|core| core.mix(what));
}

/// Returns the time in nanoseconds since the beginning.
pub(crate) fn now() -> u64 {
    try_with(|core| core.now).unwrap_or(0)
}

/// Calls `f` after a while, outside of any task.
pub(crate) fn after(delay: Duration, f: impl FnOnce() + 'static) {
    let delay = nanos(delay);
    try_with(|core| core.enter(core.now.saturating_add(delay), Event::Call(Box::new(f))));
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes a group for one more process.
pub(crate) fn group() -> Group {
    with(|core| {
        let group = Group(core.number());
        core.groups.insert(group);
        group
    })
}

/// Returns the group whose task is running.
pub(super) fn current() -> Group {
    try_with(|core| core.current).unwrap_or(WORLD)
}

/// Starts a task in a group; in one that has ended it is dropped at once.
pub(crate) fn spawn_in<T: Send + 'static>(group: Group, future: impl Future<Output = T> + Send + 'static) -> Join<T> {
    let (work, join) = join::pair(future);
    let mut work: Option<Work> = Some(Box::pin(work));
    try_with(|core| {
        if core.groups.contains(&group) {
            let number = core.number();
            if let Some(work) = work.take() {
                core.tasks.insert(number, group, work, &core.ready);
            }
        }
    });
    join
}

/// Ends a group: its futures are dropped, and with them whatever they held.
pub(crate) fn kill(group: Group) {
    let (dead, before): (Vec<Task>, Group) = with(|core| {
        core.groups.remove(&group);
        core.paused.remove(&group);
        // What its futures start while they are dropped is of the same group, and dropped too.
        (core.tasks.remove_of(group), mem::replace(&mut core.current, group))
    });
    drop(dead);
    with(|core| core.current = before);
}

/// Stops polling a group's tasks until it is resumed.
pub(crate) fn pause(group: Group) {
    with(|core| {
        if core.groups.contains(&group) {
            core.paused.entry(group).or_default();
        }
    });
}

/// Lets a paused group go on.
pub(crate) fn resume(group: Group) {
    with(|core| {
        let parked = core.paused.remove(&group).unwrap_or_default();
        core.ready.lock().unwrap_or_else(PoisonError::into_inner).extend(parked);
    });
}

/// Runs until a time, until nothing is left that could happen, or until `stop` says so. Returns whether anything is left.
pub(crate) fn run_until(until: Duration, mut stop: impl FnMut() -> bool) -> bool {
    let until = nanos(until);
    loop {
        if stop() {
            return true;
        }
        match with(|core| core.next(until)) {
            Step::Poll(task, mut work, waker) => {
                let is_done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
                let mut work = Some(work);
                let ended = with(|core| {
                    core.current = WORLD;
                    if is_done {
                        return core.tasks.remove(task);
                    }
                    if let Some(task) = core.tasks.get_mut(task) {
                        task.work = work.take();
                    }
                    None
                });
                // What is left here was done, or ended its own group; its end may wake others.
                drop((work, ended));
            }
            Step::Fire(Event::Wake(waker)) => waker.wake(),
            Step::Fire(Event::Call(f)) => f(),
            Step::Again => {}
            Step::Over => return true,
            Step::Idle => return false,
        }
    }
}
