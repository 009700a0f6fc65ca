//! Streams: in order like TCP's; what is lost silences the rest of its direction, and nobody is told.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use control_plane::raft::{AppendReplies, Appends, TransportError};
use futures_util::{Stream, StreamExt};
use proto::v1;

use super::pipe::Pipe;
use super::{Host, Network, Way};
use crate::raft::mark::Mark;
use crate::raft::runtime;

/// One direction of a stream.
struct Direction {
    from: u64,
    to: u64,
    network: Network,
    flow: Mutex<Flow>,
}

#[derive(Default)]
struct Flow {
    /// When the last thing that was sent arrives: the next comes no earlier.
    arrives: u64,
    /// Something was lost: what comes after it will never be acknowledged.
    is_silent: bool,
}

impl Direction {
    fn new(from: u64, to: u64, network: &Network) -> Arc<Self> {
        Arc::new(Self { from, to, network: network.clone(), flow: Mutex::default() })
    }

    fn fall_silent(&self) {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner).is_silent = true;
        self.network.oracle.mark(Mark::StreamStalled);
    }

    /// Sends something after everything before it. Returns false if that broke the stream.
    fn send(self: &Arc<Self>, arrive: impl FnOnce() + 'static) -> bool {
        let delay = {
            let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
            if flow.is_silent {
                return true;
            }
            let mut wires = self.network.wires();
            if wires.breaks() {
                self.network.oracle.mark(Mark::StreamBroken);
                return false;
            }
            if wires.is_cut(self.from, self.to) {
                drop((flow, wires));
                self.fall_silent();
                return true;
            }
            // What is lost on the way is sent again, which takes time.
            let again = if wires.loses() { Duration::from_millis(200) } else { Duration::ZERO };
            let delay = wires.delay(self.from, self.to) + again;
            let earliest = runtime::now() + u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
            flow.arrives = earliest.max(flow.arrives);
            Duration::from_nanos(flow.arrives - runtime::now())
        };
        let direction = Arc::clone(self);
        runtime::after(delay, move || {
            if direction.network.is_cut(direction.from, direction.to) {
                direction.fall_silent();
            }
            if !direction.flow.lock().unwrap_or_else(PoisonError::into_inner).is_silent {
                runtime::note(direction.from << 16 | direction.to);
                arrive();
            }
        });
        true
    }
}

type Replies = Pipe<Result<v1::AppendReply, TransportError>>;

/// The end of a stream at which requests go in and replies come out.
struct Caller {
    way: Way,
    there: Arc<Direction>,
    /// Taken once there are no more.
    appends: Option<Appends>,
    requests: Pipe<v1::AppendRequest>,
    replies: Replies,
    is_over: bool,
}

/// The other end: tells the caller if its process ends.
struct Callee {
    back: Arc<Direction>,
    replies: Replies,
    is_done: bool,
}

impl Callee {
    /// Sends an answer back, or breaks the stream.
    fn send(&self, reply: Result<v1::AppendReply, TransportError>) -> bool {
        let replies = self.replies.clone();
        self.back.send(move || replies.push(reply))
    }

    /// Ends the stream in good order.
    fn finish(mut self) {
        self.is_done = true;
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        let replies = self.replies.clone();
        let is_done = self.is_done;
        self.back.send(move || {
            if !is_done {
                replies.push(Err(TransportError::Unreachable("the stream was reset".to_owned())));
            }
            replies.close();
        });
    }
}

impl Way {
    pub(super) fn open(&self, appends: Appends) -> AppendReplies {
        let way = Way { from: self.from, to: self.to, network: self.network.clone() };
        let there = Direction::new(self.from, self.to, &self.network);
        let back = Direction::new(self.to, self.from, &self.network);
        let (requests, replies) = (Pipe::new(), Replies::new());
        let (network, to, incoming, outgoing) = (self.network.clone(), self.to, requests.clone(), replies.clone());
        let is_over = !there.send(move || {
            // Made here: a beginning that is lost must not look like a callee that has gone.
            network.accept(to, incoming, Callee { back, replies: outgoing, is_done: false });
        });
        if is_over {
            replies.push(Err(TransportError::Unreachable("the stream broke at once".to_owned())));
            replies.close();
        }
        Box::pin(Caller { way, there, appends: Some(appends), requests, replies, is_over })
    }
}

impl Network {
    fn accept(&self, to: u64, requests: Pipe<v1::AppendRequest>, callee: Callee) {
        match self.host_from(callee.back.to, to) {
            Host::Off => {}
            Host::Down | Host::Up(_, None) => {
                self.oracle.mark(Mark::PeerRefused);
                callee.send(Err(TransportError::Unreachable(format!("{to} refuses"))));
                callee.finish();
            }
            Host::Up(group, Some(replica)) => {
                runtime::spawn_in(group, async move {
                    let mut answers = replica.answer_appends(requests);
                    drop(replica);
                    while let Some(answer) = answers.next().await {
                        if !callee.send(answer) {
                            return;
                        }
                    }
                    callee.finish();
                });
            }
        }
    }
}

impl Caller {
    /// Sends what there is to send. Returns false if that broke the stream.
    fn send(&mut self, context: &mut Context<'_>) -> bool {
        while let Some(appends) = &mut self.appends {
            match appends.poll_next_unpin(context) {
                Poll::Pending => return true,
                Poll::Ready(Some(append)) => {
                    self.way.led(&append);
                    let requests = self.requests.clone();
                    if !self.there.send(move || requests.push(append)) {
                        return false;
                    }
                }
                Poll::Ready(None) => self.hang_up(),
            }
        }
        true
    }

    fn hang_up(&mut self) {
        if self.appends.take().is_some() {
            let requests = self.requests.clone();
            self.there.send(move || requests.close());
        }
    }
}

impl Stream for Caller {
    type Item = Result<v1::AppendReply, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.is_over && !self.send(context) {
            self.is_over = true;
            return Poll::Ready(Some(Err(TransportError::Unreachable("the stream broke".to_owned()))));
        }
        self.replies.poll_next_unpin(context)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.hang_up();
    }
}
