//! Messages that are answered once, by themselves.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control_plane::raft::TransportError;
use openraft_rt::{AsyncRuntime, Oneshot, OneshotSender};
use proto::v1;

use super::{Host, Network, Way};
use crate::raft::mark::Mark;
use crate::raft::runtime::{self, Virtual};

type Reply = Result<v1::RaftReply, TransportError>;

type Sender = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::Sender<Reply>;

/// Where the first answer goes; later ones are dropped.
#[derive(Clone)]
struct Answer(Arc<Mutex<Option<Sender>>>);

impl Answer {
    fn take(&self, reply: Reply) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // Whoever asked may have given up.
            let _ = sender.send(reply);
        }
    }
}

impl Way {
    pub(super) async fn ask(&self, request: v1::RaftRequest, limit: Duration) -> Reply {
        let (tx, rx) = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::channel();
        let answer = Answer(Arc::new(Mutex::new(Some(tx))));
        let (from, to, network) = (self.from, self.to, self.network.clone());
        self.network.send(from, to, move || network.arrived(from, to, request.clone(), &answer));
        let answered = async move {
            match rx.await {
                Ok(reply) => reply,
                // It was lost, and nobody knows.
                Err(_) => pending().await,
            }
        };
        Virtual::timeout(limit, answered).await.unwrap_or(Err(TransportError::Timeout(limit)))
    }
}

impl Network {
    fn arrived(&self, from: u64, to: u64, request: v1::RaftRequest, answer: &Answer) {
        match self.host_from(from, to) {
            Host::Off => {}
            Host::Down | Host::Up(_, None) => {
                self.oracle.mark(Mark::PeerRefused);
                let refused = Err(TransportError::Unreachable(format!("{to} refuses")));
                self.reply(from, to, refused, answer.clone());
            }
            Host::Up(group, Some(replica)) => {
                let (network, answer) = (self.clone(), answer.clone());
                runtime::spawn_in(group, async move {
                    let reply = replica.answer(request).await;
                    let reply = reply.map_err(|error| TransportError::Failed(error.to_string()));
                    network.reply(from, to, reply, answer);
                });
            }
        }
    }

    fn reply(&self, from: u64, to: u64, reply: Reply, answer: Answer) {
        self.send(to, from, move || answer.take(reply.clone()));
    }
}
