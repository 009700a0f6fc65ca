//! One running instance as something that can be asked, whatever runs inside.

use tokio::sync::watch;
use tokio::time::Instant;

use super::framed::Framed;
use super::http::Http;
use super::invocation::{InitFailure, Invocation, Outcome, ReadyInfo};
use super::runtime_api::RuntimeApi;

/// The daemon's end of one instance.
#[derive(Debug)]
pub enum Channel {
    /// It takes events.
    Event(EventChannel),
    /// It takes HTTP requests.
    Http(Http),
}

/// The daemon's end of one instance that takes events.
#[derive(Debug)]
pub enum EventChannel {
    /// Through our bootstrap.
    Framed(Framed),
    /// Through the AWS Lambda Runtime API.
    RuntimeApi(RuntimeApi),
}

impl Channel {
    /// Waits until the instance can be asked.
    pub async fn ready(&self, deadline: Instant) -> Result<ReadyInfo, InitFailure> {
        match self {
            Self::Event(channel) => channel.ready(deadline).await,
            Self::Http(http) => http.ready(deadline).await,
        }
    }

    /// Notes that the instance has ended: what it still sent counts, everything else in flight ends with it.
    ///
    /// Dropping the channel ends everything at once.
    pub fn instance_died(&self) {
        match self {
            Self::Event(channel) => channel.instance_died(),
            Self::Http(http) => http.instance_died(),
        }
    }
}

impl EventChannel {
    /// Waits until the instance can take invocations.
    pub async fn ready(&self, deadline: Instant) -> Result<ReadyInfo, InitFailure> {
        match self {
            Self::Framed(framed) => framed.ready(deadline).await,
            Self::RuntimeApi(api) => api.ready(deadline).await,
        }
    }

    /// Hands an event to the function and waits for its answer; any number may be in flight.
    ///
    /// Dropping the future gives up the answer, but the instance may go on: see [`in_flight`](Self::in_flight).
    pub async fn invoke(&self, invocation: Invocation) -> Outcome {
        match self {
            Self::Framed(framed) => framed.invoke(invocation).await,
            Self::RuntimeApi(api) => api.invoke(invocation).await,
        }
    }

    /// Watches how many invocations the instance works on, those included whose caller has gone.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        match self {
            Self::Framed(framed) => framed.in_flight(),
            Self::RuntimeApi(api) => api.in_flight(),
        }
    }

    /// Notes that the instance has ended: what it still sent counts, everything else in flight ends with it.
    ///
    /// Dropping the channel ends everything at once.
    pub fn instance_died(&self) {
        match self {
            Self::Framed(framed) => framed.instance_died(),
            Self::RuntimeApi(api) => api.instance_died(),
        }
    }
}
