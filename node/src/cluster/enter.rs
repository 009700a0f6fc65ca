//! How a machine becomes a node of a cluster that there is, and how a node comes back whose certificate has ended.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control_plane::model::{Digest, FeatureLevel, NodeId};
use futures_util::{StreamExt, stream};
use http::Uri;
use hyper_util::rt::TokioIo;
use proto::v1;
use proto::v1::join_client::JoinClient;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::standing::{Contact, Standing, StandingError};
use crate::auth::{Identity, IdentityError, JoinToken, NewKey, join_client};
use crate::clock::Clock;

/// How long a machine tries to be let in.
pub const ENTER_MAX: Duration = Duration::from_secs(30);

/// How long one attempt may take: somebody has to agree to it.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How many nodes are asked at once for another certificate.
const ASKED_AT_ONCE: usize = 8;

/// How long a machine rests between two attempts.
const REST: Duration = Duration::from_millis(500);

/// Why a machine is not let in.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// Nobody answers there, or nobody who can decide.
    #[error("{address} lets nobody in: {reason}")]
    Unavailable {
        /// Who was asked.
        address: String,
        /// Why, as far as it is known.
        reason: String,
    },
    /// Whoever answers is not of the cluster that the token is for.
    #[error("{address} is not of the cluster that the join token is for: {reason}")]
    OtherCluster {
        /// Who was asked.
        address: String,
        /// What TLS says.
        reason: String,
    },
    /// The cluster refuses.
    #[error("{address} refuses: {reason}")]
    Refused {
        /// Who was asked.
        address: String,
        /// Its reason.
        reason: String,
    },
    /// The cluster's log holds what this version cannot read.
    #[error("{address} refuses: {reason}")]
    TooOld {
        /// Who was asked.
        address: String,
        /// Its reason.
        reason: String,
    },
    /// What it answers makes no sense, or cannot be kept.
    #[error(transparent)]
    Standing(#[from] StandingError),
}

impl EnterError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unavailable { .. } => {
                Some("--join names the peer port (8100 unless configured) of a node of the cluster".to_owned())
            }
            Self::OtherCluster { .. } | Self::Refused { .. } => {
                Some("`hearth token create` on a node of the cluster gives a new token".to_owned())
            }
            Self::TooOld { .. } => {
                Some("let it join with the version that the cluster runs, without --feature-level".to_owned())
            }
            Self::Standing(error) => error.hint(),
        }
    }
}

/// What a machine was made.
#[derive(Debug)]
pub struct Entered {
    /// Who it is from here on.
    pub standing: Standing,
    /// Which address of it leads to the cluster.
    pub seen: Option<IpAddr>,
}

/// Lets this machine be made a node by the cluster that `token` is for, a node of which is reached at `address`.
///
/// The machine reads `level` of the cluster's log.
pub async fn enter(
    folder: &Path,
    address: &str,
    token: &JoinToken,
    level: FeatureLevel,
    clock: &Clock,
) -> Result<Entered, EnterError> {
    let deadline = Instant::now() + ENTER_MAX;
    // One request over all attempts: a cluster whose answer was lost knows the machine by it.
    let key = NewKey::random();
    let asked = v1::EnterRequest { secret: token.secret().reveal(), request: key.request(), features: level.0 };
    loop {
        match attempt(folder, address, token, (&key, &asked), clock).await {
            Err(error @ EnterError::Unavailable { .. }) if Instant::now() + REST < deadline => {
                tracing::info!(%error, "not let in yet");
                sleep(REST).await;
            }
            result => return result,
        }
    }
}

async fn attempt(
    folder: &Path,
    address: &str,
    token: &JoinToken,
    (key, asked): (&NewKey, &v1::EnterRequest),
    clock: &Clock,
) -> Result<Entered, EnterError> {
    let seen = Arc::new(Mutex::new(None));
    let mut client = JoinClient::new(channel(address, token.authority(), clock, Arc::clone(&seen)));
    let mut request = Request::new(asked.clone());
    request.set_timeout(ATTEMPT_MAX);
    let reply = timeout(ATTEMPT_MAX, client.enter(request)).await;
    let reply = reply.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {ATTEMPT_MAX:?}"))));
    let reply = reply.map_err(|status| failed(address, &status))?.into_inner();
    let certificate = reply.certificate.unwrap_or_default();
    let identity = key.accept(
        &CertificateDer::from(certificate.certificate),
        &CertificateDer::from(certificate.authority),
        token.authority(),
        clock.now(),
    );
    let contacts = reply.contacts.into_iter();
    let contacts = contacts.map(|known| Contact { node: NodeId(known.node), address: known.address }).collect();
    let standing = Standing::joined(folder, identity.map_err(StandingError::from)?, contacts)?;
    let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Entered { standing, seen })
}

/// Gets another certificate for a node that was away until its own had ended; changes nothing otherwise.
///
/// Asks until [`ENTER_MAX`] has passed, and then returns the certificate's own error. What the node issues itself is good for `life`.
pub async fn return_if_ended(standing: &mut Standing, clock: &Clock, life: Duration) -> Result<(), StandingError> {
    let Err(error) = standing.identity.check_time(clock.now()) else { return Ok(()) };
    let IdentityError::Expired { .. } = &error else { return Err(error.into()) };
    let deadline = Instant::now() + ENTER_MAX;
    loop {
        if let Some(identity) = next_identity(standing, clock, life).await? {
            return standing.renew(identity);
        }
        if Instant::now() + REST >= deadline {
            return Err(error.into());
        }
        sleep(REST).await;
    }
}

/// Returns the next identity of a node that the others may not listen to; none where nobody gives it one yet.
///
/// The nodes it knew are asked first, because they know whether it still belongs to them: one that says no is believed. A node that
/// holds the authority and hears of nobody who decides issues its own, as all do whose cluster was off.
pub(super) async fn next_identity(
    standing: &Standing,
    clock: &Clock,
    life: Duration,
) -> Result<Option<Identity>, StandingError> {
    let (contacts, ended, clock_there) = (standing.contacts().to_vec(), standing.identity.clone(), clock.clone());
    let asked = contacts.into_iter().map(move |contact| ask_again(contact, ended.clone(), clock_there.clone()));
    let mut answers = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(identity) => return Ok(Some(identity)),
            Err(EnterError::Refused { address, reason }) => return Err(StandingError::Refused { address, reason }),
            // One whose clock is wrong gives what is good for nothing; others may do better.
            Err(error) => tracing::debug!(%error, "no other certificate from here"),
        }
    }
    standing.issue_own(clock.now(), life)
}

async fn ask_again(contact: Contact, ended: Identity, clock: Clock) -> Result<Identity, EnterError> {
    let (address, pin) = (&contact.address, ended.authority());
    let mut client = JoinClient::new(channel(address, pin, &clock, Arc::default()));
    let key = NewKey::again(&ended);
    let mut request = Request::new(v1::ReturnRequest { request: key.request(), ended: ended.certificate().to_vec() });
    request.set_timeout(ATTEMPT_MAX);
    let reply = timeout(ATTEMPT_MAX, client.r#return(request)).await;
    let reply = reply.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {ATTEMPT_MAX:?}"))));
    let v1::CertificateReply { certificate, authority } =
        reply.map_err(|status| failed(address, &status))?.into_inner();
    let identity = key.accept(&certificate.into(), &authority.into(), pin, clock.now());
    Ok(identity.map_err(StandingError::from)?)
}

/// Returns a connection to a node of the cluster whose authority's certificate has the digest `pin`, made when it is needed.
fn channel(address: &str, pin: Digest, clock: &Clock, seen: Arc<Mutex<Option<IpAddr>>>) -> Channel {
    let (config, address) = (Arc::new(join_client(pin, clock)), address.to_owned());
    let endpoint = Endpoint::from_static("http://cluster").connect_timeout(CONNECT_MAX);
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let (config, address, seen) = (Arc::clone(&config), address.clone(), Arc::clone(&seen));
        async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = stream.local_addr().ok().map(|local| local.ip());
            // Who it is, the pinned digest tells.
            let name = ServerName::try_from("cluster").map_err(io::Error::other)?;
            TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
        }
    }))
}

/// Says in our words why there is no answer.
fn failed(address: &str, status: &Status) -> EnterError {
    let address = address.to_owned();
    let mut reason = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return EnterError::OtherCluster { address, reason: error.to_string() };
        }
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    match status.code() {
        Code::FailedPrecondition => EnterError::TooOld { address, reason },
        Code::PermissionDenied | Code::InvalidArgument => EnterError::Refused { address, reason },
        _ => EnterError::Unavailable { address, reason },
    }
}
