//! Connections whose ends tell that a process has ended, and firewalls that say so of one that lives.

use std::future::pending;
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Oneshot, OneshotSender};

use super::{Host, Network};
use crate::raft::mark::Mark;
use crate::raft::runtime::{self, Virtual};

type Ended = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::Sender<()>;

/// A connection that does nothing but stand.
pub(super) struct Standing {
    from: u64,
    to: u64,
    ended: Ended,
}

/// What is refused in the name of a process that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What stood is reset and new connections are refused; messages that are under way get through.
    Connections,
    /// Everything.
    All,
}

/// How long a voter rests before it connects again.
const RECONNECT: Duration = Duration::from_millis(100);

impl Network {
    /// Waits until a connection that stood has ended and another was refused.
    pub(super) async fn died(&self, from: u64, to: u64) {
        loop {
            if self.is_cut(from, to)
                || self.refusal(from, to).is_some()
                || !matches!(self.host(to), Host::Up(_, Some(_)))
            {
                Virtual::sleep(RECONNECT).await;
                continue;
            }
            let (ended, standing) = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::channel();
            self.wires().standing.push(Standing { from, to, ended });
            if standing.await.is_err() {
                pending::<()>().await;
            }
            if self.is_refused(from, to).await {
                return;
            }
        }
    }

    /// Knocks once; silence is no refusal.
    async fn is_refused(&self, from: u64, to: u64) -> bool {
        let (tx, rx) = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::channel();
        let answer = std::sync::Arc::new(std::sync::Mutex::new(Some(tx)));
        let network = self.clone();
        self.send(from, to, move || {
            let is_false = network.refusal(from, to).is_some();
            let host = network.host(to);
            let is_refused = is_false || matches!(host, Host::Down | Host::Up(_, None));
            let (answer, network) = (std::sync::Arc::clone(&answer), network.clone());
            network.clone().send(to, from, move || {
                let Some(tx) = answer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() else { return };
                if is_refused {
                    let lives = matches!(network.host(to), Host::Up(_, Some(_)));
                    network.oracle.mark(if lives { Mark::DeathFeigned } else { Mark::DeathProven });
                }
                // Whoever knocked may have ended.
                let _ = tx.send(is_refused);
            });
        });
        let knocked = async move { rx.await.unwrap_or(false) };
        Virtual::timeout(RECONNECT, knocked).await.unwrap_or(false)
    }

    /// Ends the connections to a node whose process has ended; whoever held one hears of it, unless that gets lost.
    pub(in crate::raft) fn end_connections(&self, to: u64, from: Option<u64>) {
        let ended: Vec<Standing> = {
            let standing = &mut self.wires().standing;
            let (ended, left) =
                standing.drain(..).partition(|one| one.to == to && from.is_none_or(|from| from == one.from));
            *standing = left;
            ended
        };
        for one in ended {
            let ended = std::cell::RefCell::new(Some(one.ended));
            self.send(to, one.from, move || {
                if let Some(ended) = ended.borrow_mut().take() {
                    let _ = ended.send(());
                }
            });
        }
    }

    /// Refuses for a while what voters want of each other.
    pub(in crate::raft) fn refuse(&self, ways: Vec<(u64, u64)>, refusal: Refusal, duration: Duration) {
        self.wires().refused.extend(ways.iter().map(|way| (*way, refusal)));
        ways.iter().for_each(|(from, to)| self.end_connections(*to, Some(*from)));
        let network = self.clone();
        runtime::after(duration, move || {
            let mut wires = network.wires();
            ways.iter().for_each(|way| {
                wires.refused.remove(way);
            });
        });
    }

    pub(super) fn refusal(&self, from: u64, to: u64) -> Option<Refusal> {
        self.wires().refused.get(&(from, to)).copied()
    }

    /// Returns a node as it seems from another one.
    pub(super) fn host_from(&self, from: u64, to: u64) -> Host {
        match self.host(to) {
            Host::Up(..) if self.refusal(from, to) == Some(Refusal::All) => Host::Down,
            host => host,
        }
    }
}
