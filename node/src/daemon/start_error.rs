//! Why a daemon does not start, and what to do about it.

use std::io;
use std::net::SocketAddr;

use crate::api::ServeError;
use crate::auth::{JoinTokenError, TokenError};
use crate::cluster::{EnterError, StandingError};
use crate::data_dir;
use crate::raft;
use crate::sandbox;
use crate::telemetry::logs;

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] data_dir::OpenError),
    /// The token cannot be read or made.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// This machine does not know which node it is.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The join token is none.
    #[error(transparent)]
    JoinToken(#[from] JoinTokenError),
    /// The cluster does not let this machine in.
    #[error("cannot join the cluster")]
    Enter(#[from] EnterError),
    /// The index cannot be opened, even empty.
    #[error("the index cannot be opened")]
    Index(#[source] sled::Error),
    /// The function logs cannot be opened.
    #[error(transparent)]
    Logs(#[from] logs::OpenError),
    /// The replicated state cannot be opened.
    #[error("the replicated state cannot be opened")]
    Raft(#[from] raft::OpenError),
    /// The image store cannot be opened.
    #[error("the image store cannot be opened")]
    Images(#[source] io::Error),
    /// Sandboxes cannot be made here.
    #[error(transparent)]
    Sandboxes(#[from] sandbox::StartError),
    /// A port cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The API cannot be served.
    #[error(transparent)]
    Api(#[from] ServeError),
    /// The machine does not say what it has.
    #[error("the machine's capacity cannot be read")]
    Capacity(#[source] io::Error),
    /// The executable of this process cannot be found again.
    #[error("the executable cannot be found")]
    Executable(#[source] io::Error),
}

impl StartError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DataDir(error) => error.hint(),
            Self::Api(error) => error.hint(),
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "`ss -ltnp 'sport = :{}'` shows who has the port; --gateway-port, --api-port and --peers-port take others",
                address.port()
            )),
            Self::Listen { .. } => Some("--bind takes an address of this machine".to_owned()),
            Self::Sandboxes(sandbox::StartError::NoCgroups) => Some("mount cgroups at /sys/fs/cgroup".to_owned()),
            Self::Sandboxes(sandbox::StartError::NotRoot) => Some("run it with sudo".to_owned()),
            Self::Token(error) => error.hint(),
            Self::Standing(error) => error.hint(),
            Self::Enter(error) => error.hint(),
            Self::JoinToken(_) => Some("`hearth token create` on a node of the cluster gives one".to_owned()),
            Self::Raft(error) if is_full(error) => Some("make room on the disk of the data directory".to_owned()),
            Self::Raft(_) => Some(
                "what is damaged is never repaired by guessing: restore the data directory from a backup, or start with an \
                 empty one"
                    .to_owned(),
            ),
            Self::Images(source) if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the disk of the data directory".to_owned())
            }
            Self::Images(source) if source.kind() == io::ErrorKind::InvalidData => {
                Some("restore the folder `images` of the data directory from a backup".to_owned())
            }
            Self::Index(_)
            | Self::Logs(_)
            | Self::Images(_)
            | Self::Sandboxes(_)
            | Self::Capacity(_)
            | Self::Executable(_) => None,
        }
    }
}

/// Returns whether a full disk is what lies under an error.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|error| error.downcast_ref::<io::Error>()).any(|error| error.kind() == io::ErrorKind::StorageFull)
}
