//! What two gateways tell each other of a forwarded call, beside the request and the answer themselves.
//!
//! Both are values of one header, which no caller and no function can set: a gateway takes it out of what comes from
//! either, and believes it only on a connection of a peer.
//!
//! ```text
//! request   KIND FUNCTION@REVISION live|pinned CLIENT ROUTE…
//!           http checkout@3 live 192.0.2.1 GET /shop/*
//! answer    answered|OUTCOME INSTANCE|- REVISION|- QUEUE PLACE/SANDBOX/INIT|- RUN      durations in microseconds
//!           answered instance-1-4-7 3 12 - 830
//!           turned WHY                                                                  it has not begun
//! ```

use std::time::Duration;

use control_plane::model::{FunctionName, InstanceId, RevisionId, RevisionNumber};
use http::HeaderValue;
use http::header::HeaderName;

use crate::gateway::failure::CallFailure;
use crate::gateway::phases::{Phases, StartPhases};
use crate::gateway::record::{CallOutcome, CallRecord};

/// Carries both.
pub(in crate::gateway) const HOP: HeaderName = HeaderName::from_static("x-hearth-hop");

/// What a forwarded call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Kind {
    /// A request over HTTP, with the headers a function is to see.
    Http,
    /// A bare event, which is the body; so is the answer.
    Event,
}

/// What a gateway asks of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Ask {
    pub(in crate::gateway) kind: Kind,
    pub(in crate::gateway) revision: RevisionId,
    /// The caller asked for this very revision.
    pub(in crate::gateway) is_pinned: bool,
    /// The address of the first caller; `-` where there is none.
    pub(in crate::gateway) client: String,
    /// The route as events name it; `-` where there is none.
    pub(in crate::gateway) route_key: String,
}

impl Ask {
    /// Returns the value that says this, or none where the route has bytes that no header may have.
    pub(in crate::gateway) fn to_value(&self) -> Option<HeaderValue> {
        let kind = match self.kind {
            Kind::Http => "http",
            Kind::Event => "event",
        };
        let pinned = if self.is_pinned { "pinned" } else { "live" };
        let text = format!("{kind} {} {pinned} {} {}", self.revision, self.client, self.route_key);
        HeaderValue::from_bytes(text.as_bytes()).ok()
    }

    /// Reads a value; none where it is not one of ours.
    pub(in crate::gateway) fn parse(value: &HeaderValue) -> Option<Self> {
        let mut parts = std::str::from_utf8(value.as_bytes()).ok()?.splitn(5, ' ');
        let kind = match parts.next()? {
            "http" => Kind::Http,
            "event" => Kind::Event,
            _ => return None,
        };
        let (function, number) = parts.next()?.split_once('@')?;
        let function = function.parse::<FunctionName>().ok()?;
        let revision = RevisionId { function, number: RevisionNumber(number.parse().ok()?) };
        let is_pinned = match parts.next()? {
            "pinned" => true,
            "live" => false,
            _ => return None,
        };
        Some(Self { kind, revision, is_pinned, client: parts.next()?.to_owned(), route_key: parts.next()?.to_owned() })
    }
}

/// Why a peer did not begin a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Turned {
    /// It has no instance and no room.
    NoCapacity,
    /// As many calls wait there as may.
    QueueFull,
    /// No instance became free there in time.
    Waited,
    /// It does not serve the revision, or not yet.
    Unknown,
    /// It knows that whoever asks is not a member of the cluster any more.
    Removed,
}

impl Turned {
    const ALL: [Self; 5] = [Self::NoCapacity, Self::QueueFull, Self::Waited, Self::Unknown, Self::Removed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::NoCapacity => "no-capacity",
            Self::QueueFull => "queue-full",
            Self::Waited => "waited",
            Self::Unknown => "unknown",
            Self::Removed => "removed",
        }
    }

    /// Returns why a failure means that no instance has seen the call; none where one may have.
    pub(in crate::gateway) fn of(failure: &CallFailure) -> Option<Self> {
        match failure {
            CallFailure::NoCapacity { .. } => Some(Self::NoCapacity),
            CallFailure::QueueFull { .. } => Some(Self::QueueFull),
            CallFailure::Waited { .. } => Some(Self::Waited),
            CallFailure::NoFunction { .. } | CallFailure::NoRevision(_) | CallFailure::Retired { .. } => {
                Some(Self::Unknown)
            }
            CallFailure::Removed(_) => Some(Self::Removed),
            CallFailure::NotFound { .. }
            | CallFailure::MethodNotAllowed { .. }
            | CallFailure::BadRequest(_)
            | CallFailure::TooLarge { .. }
            | CallFailure::SlowBody { .. }
            | CallFailure::NoEvents { .. }
            | CallFailure::NoUpgrade
            | CallFailure::Starting { .. }
            | CallFailure::NeverStarted { .. }
            | CallFailure::Function(_)
            | CallFailure::Instance(_)
            | CallFailure::TimedOut { .. } => None,
        }
    }
}

/// What a peer tells of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Told {
    /// It has not begun, and may be given to somebody else.
    Refused(Turned),
    /// It has ended, or its answer has begun.
    Ended(Ended),
}

/// How a call went at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Ended {
    pub(in crate::gateway) outcome: CallOutcome,
    pub(in crate::gateway) instance: Option<InstanceId>,
    pub(in crate::gateway) revision: Option<RevisionNumber>,
    pub(in crate::gateway) phases: Phases,
}

impl Told {
    /// Returns what there is to tell of a call.
    pub(in crate::gateway) fn of(record: &CallRecord, failure: Option<&CallFailure>) -> Self {
        if let Some(turned) = failure.and_then(Turned::of) {
            return Self::Refused(turned);
        }
        Self::Ended(Ended {
            outcome: record.outcome,
            instance: record.instance,
            revision: record.revision.as_ref().map(|revision| revision.number),
            phases: record.phases,
        })
    }

    /// Returns the value that says this.
    pub(in crate::gateway) fn to_value(&self) -> HeaderValue {
        let text = match self {
            Self::Refused(turned) => format!("turned {}", turned.as_str()),
            Self::Ended(Ended { outcome, instance, revision, phases }) => {
                let instance = instance.map_or_else(|| "-".to_owned(), |instance| instance.to_string());
                let revision = revision.map_or_else(|| "-".to_owned(), |number| number.to_string());
                let start = phases.start.map_or_else(
                    || "-".to_owned(),
                    |start| {
                        let [place, sandbox, init] = [start.place, start.sandbox, start.init].map(|d| d.as_micros());
                        format!("{place}/{sandbox}/{init}")
                    },
                );
                let (queue, run) = (phases.queue.as_micros(), phases.run.as_micros());
                format!("{} {instance} {revision} {queue} {start} {run}", outcome.as_str())
            }
        };
        HeaderValue::try_from(text).expect("words and digits are visible ASCII")
    }

    /// Reads a value; none where it is not one of ours.
    pub(in crate::gateway) fn parse(value: &HeaderValue) -> Option<Self> {
        let mut words = value.to_str().ok()?.split(' ');
        let first = words.next()?;
        if first == "turned" {
            let why = words.next()?;
            return Turned::ALL.into_iter().find(|turned| turned.as_str() == why).map(Self::Refused);
        }
        let outcome = CallOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == first)?;
        let instance = given(words.next()?, |text| text.parse().ok())?;
        let revision = given(words.next()?, |text| text.parse().ok().map(RevisionNumber))?;
        let queue = micros(words.next()?)?;
        let start = given(words.next()?, |text| {
            let mut parts = text.split('/').map(micros);
            let mut next = || parts.next().flatten();
            Some(StartPhases { place: next()?, sandbox: next()?, init: next()? })
        })?;
        let run = micros(words.next()?)?;
        let phases = Phases { queue, start, run, hop: Duration::ZERO };
        Some(Self::Ended(Ended { outcome, instance, revision, phases }))
    }
}

/// Reads what may be left out; the outer none is an error.
fn given<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "-" { Some(None) } else { parse(text).map(Some) }
}

fn micros(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use control_plane::model::Epoch;
    use proptest::prelude::*;

    use super::*;

    fn duration() -> impl Strategy<Value = Duration> {
        (0..10_000_000_u64).prop_map(Duration::from_micros)
    }

    fn told() -> impl Strategy<Value = Told> {
        let start = (duration(), duration(), duration()).prop_map(|(place, sandbox, init)| StartPhases {
            place,
            sandbox,
            init,
        });
        let phases = (duration(), prop::option::of(start), duration()).prop_map(|(queue, start, run)| Phases {
            queue,
            start,
            run,
            hop: Duration::ZERO,
        });
        let instance = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(origin, epoch, sequence)| InstanceId {
            origin,
            epoch: Epoch(epoch),
            sequence,
        });
        let ended = (
            prop::sample::select(CallOutcome::ALL.to_vec()),
            prop::option::of(instance),
            prop::option::of(any::<u32>().prop_map(RevisionNumber)),
            phases,
        )
            .prop_map(|(outcome, instance, revision, phases)| Ended { outcome, instance, revision, phases });
        prop_oneof![ended.prop_map(Told::Ended), prop::sample::select(Turned::ALL.to_vec()).prop_map(Told::Refused),]
    }

    proptest! {
        #[test]
        fn what_is_told_is_read_back(told in told()) {
            prop_assert_eq!(Told::parse(&told.to_value()), Some(told));
        }

        #[test]
        fn what_is_asked_is_read_back(
            is_event in any::<bool>(),
            is_pinned in any::<bool>(),
            number in any::<u32>(),
            route_key in "(GET|POST) /[a-zé/ *]{0,20}",
        ) {
            let revision = RevisionId { function: "checkout".parse().unwrap(), number: RevisionNumber(number) };
            let kind = if is_event { Kind::Event } else { Kind::Http };
            let ask = Ask { kind, revision, is_pinned, client: "2001:db8::7".to_owned(), route_key };
            prop_assert_eq!(Ask::parse(&ask.to_value().unwrap()), Some(ask));
        }

        #[test]
        fn no_value_makes_the_reader_panic(bytes in prop::collection::vec(32..127_u8, 0..60)) {
            let value = HeaderValue::from_bytes(&bytes).unwrap();
            if let Some(ask) = Ask::parse(&value) {
                prop_assert!(ask.to_value().is_some());
            }
            if let Some(told) = Told::parse(&value) {
                prop_assert_eq!(Told::parse(&told.to_value()), Some(told));
            }
        }
    }
}
