//! A thread with a mount namespace of its own, for programs that cannot live with the mounts of this machine.
//!
//! Older releases of crun refuse a machine that has cgroups of both versions: in the annex the second is not mounted.
//! What is started there sees the annex's mounts; everybody else keeps theirs.

use std::io;
use std::path::Path;
use std::sync::mpsc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Where machines with cgroups of both versions have the second.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Annex(mpsc::Sender<Job>);

impl Annex {
    pub(super) fn open() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, answer) = mpsc::channel();
        std::thread::Builder::new().name("annex".to_owned()).spawn(move || {
            let is_open = leave();
            let may_work = is_open.is_ok();
            // Whoever opened it waits for this.
            let _ = opened.send(is_open);
            if may_work {
                queue.into_iter().for_each(|job| job());
            }
        })?;
        answer.recv().map_err(io::Error::other)??;
        Ok(Self(jobs))
    }

    /// Does something there and waits for it; threads and processes started meanwhile belong there too.
    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (done, answer) = mpsc::channel();
        let job = Box::new(move || {
            // Whoever asked waits for this.
            let _ = done.send(work());
        });
        self.0.send(job).map_err(|_| io::Error::other("the annex is closed"))?;
        answer.recv().map_err(io::Error::other)
    }
}

fn leave() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount::<str, _, str, str>(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    if Path::new(UNIFIED).join("cgroup.controllers").exists() && Path::new("/sys/fs/cgroup/memory").exists() {
        umount2(UNIFIED, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annex_has_mounts_of_its_own_and_so_has_what_it_starts() {
        let here = std::fs::read_link("/proc/thread-self/ns/mnt").expect("a thread has a namespace");
        let annex = Annex::open().expect("a namespace can be made; it needs root");
        let look = || std::fs::read_link("/proc/thread-self/ns/mnt").expect("a thread has a namespace");
        let (there, child) = annex
            .run(move || (look(), std::thread::spawn(look).join().expect("it only looks")))
            .expect("the annex works");
        assert_ne!(here, there);
        assert_eq!(there, child);
    }
}
