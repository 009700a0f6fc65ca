//! The tasks of an executor, each at a place of its own so that one is found at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use super::executor::Group;

/// What a task does.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks that were woken.
pub(super) type Ready = Arc<Mutex<Vec<TaskId>>>;

/// What a task is known by, and where it lies; another one may lie there once it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskId {
    pub(super) number: u64,
    place: usize,
}

pub(super) struct Task {
    /// Taken out while it is polled.
    pub(super) work: Option<Work>,
    pub(super) group: Group,
    pub(super) waker: Arc<TaskWaker>,
}

pub(super) struct TaskWaker {
    task: TaskId,
    pub(super) is_queued: AtomicBool,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.task);
        }
    }
}

#[derive(Default)]
pub(super) struct Tasks {
    places: Vec<Option<Task>>,
    free: Vec<usize>,
}

impl Tasks {
    /// Adds a task of a number that no task has had, and wakes it.
    pub(super) fn insert(&mut self, number: u64, group: Group, work: Work, ready: &Ready) {
        let place = self.free.pop().unwrap_or(self.places.len());
        let task = TaskId { number, place };
        let waker = Arc::new(TaskWaker { task, is_queued: AtomicBool::new(false), ready: Arc::clone(ready) });
        waker.wake_by_ref();
        let task = Some(Task { work: Some(work), group, waker });
        match self.places.get_mut(place) {
            Some(free) => *free = task,
            None => self.places.push(task),
        }
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.places.get_mut(id.place)?.as_mut().filter(|task| task.waker.task == id)
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.get_mut(id)?;
        self.free.push(id.place);
        self.places[id.place].take()
    }

    /// Takes out all tasks of a group, in the order in which they were added.
    pub(super) fn remove_of(&mut self, group: Group) -> Vec<Task> {
        let all = self.places.iter().flatten();
        let mut found: Vec<TaskId> = all.filter(|task| task.group == group).map(|task| task.waker.task).collect();
        found.sort_by_key(|id| id.number);
        found.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}
