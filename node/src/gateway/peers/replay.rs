//! The body of a forwarded request, which may have to be sent to a second peer.
//!
//! A peer that refuses a call does so while its body may be under way already. So what has left is kept, up to a bound,
//! until the answer has begun; what is kept costs no copy, only that it is not freed.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::gateway::body::Inbound;

/// How much of a body is kept for another peer, in bytes; a body of which more has left is sent once.
const KEPT_MAX: usize = 256 << 10;

/// A body that can be lent to one peer after the other.
#[derive(Debug)]
pub(in crate::gateway) enum Replay {
    /// It lies in memory, or there is none.
    Whole(Bytes),
    /// It is still coming from the caller.
    Coming(Arc<Mutex<Coming>>),
}

#[derive(Debug)]
pub(in crate::gateway) struct Coming {
    source: Inbound,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// More has left than is kept.
    is_spent: bool,
    is_over: bool,
    /// The caller broke it off, or it was too long.
    is_broken: bool,
    /// Counts the peers it was lent to: only the last one gets anything.
    turn: u32,
}

/// What a peer is sent.
#[derive(Debug)]
pub(in crate::gateway) enum Lent {
    Whole(Bytes),
    Coming {
        coming: Arc<Mutex<Coming>>,
        turn: u32,
        /// How many of the kept pieces it has passed on.
        sent: usize,
    },
}

type BodyError = Box<dyn Error + Send + Sync>;

/// Somebody else gets the body now.
#[derive(Debug, thiserror::Error)]
#[error("the body is sent to another peer")]
struct TakenAway;

fn lock(coming: &Mutex<Coming>) -> MutexGuard<'_, Coming> {
    coming.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replay {
    /// Makes a body that comes one that can be lent.
    pub(in crate::gateway) fn coming(source: Inbound) -> Self {
        if source.is_end_stream() {
            return Self::Whole(Bytes::new());
        }
        Self::Coming(Arc::new(Mutex::new(Coming {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            is_spent: false,
            is_over: false,
            is_broken: false,
            turn: 0,
        })))
    }

    /// Returns the body from its beginning, or none if its beginning is gone. Whoever had it before gets no more of it.
    pub(in crate::gateway) fn lend(&self) -> Option<Lent> {
        match self {
            Self::Whole(bytes) => Some(Lent::Whole(bytes.clone())),
            Self::Coming(coming) => {
                let mut state = lock(coming);
                if state.is_spent {
                    return None;
                }
                state.turn += 1;
                Some(Lent::Coming { coming: Arc::clone(coming), turn: state.turn, sent: 0 })
            }
        }
    }

    /// The answer has begun: nothing is sent a second time.
    pub(in crate::gateway) fn settle(&self) {
        if let Self::Coming(coming) = self {
            // What is kept stays until whoever has the body has passed it on.
            lock(coming).is_spent = true;
        }
    }

    /// Returns the limit at which the body was cut off, if it was.
    pub(in crate::gateway) fn overlong(&self) -> Option<u64> {
        match self {
            Self::Whole(_) => None,
            Self::Coming(coming) => lock(coming).source.overlong(),
        }
    }

    /// Returns whether the caller broke the body off.
    pub(in crate::gateway) fn is_broken(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Coming(coming) => lock(coming).is_broken,
        }
    }
}

impl Coming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.source).poll_frame(context));
        match &frame {
            None => self.is_over = true,
            Some(Err(_)) => (self.is_over, self.is_broken) = (true, true),
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) if !self.is_spent && self.kept_bytes + data.len() <= KEPT_MAX => {
                    self.kept_bytes += data.len();
                    self.kept.push(data.clone());
                }
                Some(_) | None => {
                    // Whoever gets here has passed on everything that was kept.
                    self.is_spent = true;
                    self.kept = Vec::new();
                }
            },
        }
        Poll::Ready(frame)
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => {
                let frame = (!bytes.is_empty()).then(|| Ok(Frame::data(std::mem::take(bytes))));
                Poll::Ready(frame)
            }
            Self::Coming { coming, turn, sent } => {
                let mut state = lock(coming);
                if state.turn != *turn {
                    return Poll::Ready(Some(Err(Box::new(TakenAway))));
                }
                if let Some(piece) = state.kept.get(*sent) {
                    *sent += 1;
                    return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
                }
                let frame = ready!(state.poll(context));
                // What it has just been given is not for it a second time.
                *sent = state.kept.len();
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Coming { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Coming { .. } => SizeHint::default(),
        }
    }
}
