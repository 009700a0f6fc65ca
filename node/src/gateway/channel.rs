//! The way to one instance, whatever its contract.

use tokio::sync::watch;

use crate::contract::{Framed, Http, Invocation, Outcome, RuntimeApi};

/// A connected instance.
#[derive(Debug)]
pub enum Channel {
    /// It takes events.
    Events(EventChannel),
    /// It takes HTTP requests.
    Http(Http),
}

/// An instance that takes events.
#[derive(Debug)]
pub enum EventChannel {
    /// Through the bootstrap inside it.
    Framed(Framed),
    /// By polling the Lambda Runtime API.
    RuntimeApi(RuntimeApi),
}

impl EventChannel {
    /// Hands an event to the function and waits for its answer. Dropping the future tells the instance that nobody
    /// waits.
    pub async fn invoke(&self, invocation: Invocation) -> Outcome {
        match self {
            Self::Framed(channel) => channel.invoke(invocation).await,
            Self::RuntimeApi(channel) => channel.invoke(invocation).await,
        }
    }

    /// Watches how many invocations the instance works on, those included whose caller has gone.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        match self {
            Self::Framed(channel) => channel.in_flight(),
            Self::RuntimeApi(channel) => channel.in_flight(),
        }
    }
}

impl Channel {
    /// Notes that the instance has ended: everything in flight ends with it.
    pub fn instance_died(&self) {
        match self {
            Self::Events(EventChannel::Framed(channel)) => channel.instance_died(),
            Self::Events(EventChannel::RuntimeApi(channel)) => channel.instance_died(),
            Self::Http(channel) => channel.instance_died(),
        }
    }
}

impl From<Framed> for Channel {
    fn from(channel: Framed) -> Self {
        Self::Events(EventChannel::Framed(channel))
    }
}

impl From<RuntimeApi> for Channel {
    fn from(channel: RuntimeApi) -> Self {
        Self::Events(EventChannel::RuntimeApi(channel))
    }
}

impl From<Http> for Channel {
    fn from(channel: Http) -> Self {
        Self::Http(channel)
    }
}
