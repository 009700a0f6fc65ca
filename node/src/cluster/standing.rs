//! Which node of which cluster this machine is, as it keeps it.
//!
//! ```text
//! cluster/
//!     standing.json    cluster and node, and where others were reached last
//!     identity.pem     the node's key and certificate
//!     authority.pem    the cluster's authority, on its founder and on voters
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::auth::{Authority, ClusterId, Identity, IdentityError, IssueError, KeyFileError, NewKey, PeerId};
use crate::data_dir::replace_file;

/// The node that founds a cluster.
pub const FOUNDER: NodeId = NodeId(1);

/// How many other nodes are remembered.
pub(super) const CONTACTS_MAX: usize = 16;

/// How much of the file is read at most, in bytes: a damaged one may have any length.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Another node and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The node.
    pub node: NodeId,
    /// A host and a port.
    pub address: String,
}

/// Why a machine does not know which node it is.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file does not hold what it must.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The node's key or certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(#[from] KeyFileError),
    /// The authority issues no certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The cluster gives this node no certificate in the place of one that has ended.
    #[error("{address} gives this node no other certificate in the place of the one that has ended: {reason}")]
    Refused {
        /// Who was asked.
        address: String,
        /// Its reason.
        reason: String,
    },
}

impl StandingError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the disk of the data directory".to_owned())
            }
            Self::Io { .. } => None,
            Self::Damaged { .. } => Some(
                "restore the folder `cluster` from a backup, or let the machine join anew with an empty directory"
                    .to_owned(),
            ),
            Self::Identity(error) => error.hint(),
            Self::Authority(error) => error.hint(),
            Self::Issue(IssueError::Ended) => Some("the cluster must be founded anew".to_owned()),
            Self::Issue(_) => None,
            Self::Refused { .. } => Some(
                "a node that was removed comes back as another one: empty its data directory and join with a new token"
                    .to_owned(),
            ),
        }
    }
}

/// Who this machine is in its cluster.
#[derive(Clone, Debug)]
pub struct Standing {
    folder: PathBuf,
    peer: PeerId,
    pub(super) identity: Identity,
    pub(super) authority: Option<Arc<Authority>>,
    contacts: Vec<Contact>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    cluster: String,
    node: u32,
    contacts: Vec<WrittenContact>,
}

#[derive(Serialize, Deserialize)]
struct WrittenContact {
    node: u32,
    address: String,
}

impl Standing {
    /// Founds a cluster whose first node this machine is, and whose certificates are good for `life` where it issues them.
    pub fn found(folder: &Path, now: Timestamp, life: Duration) -> Result<Self, StandingError> {
        let path = authority_file(folder);
        // One that a crash left behind has issued nothing that anybody has.
        let authority = match Authority::load(&path) {
            Ok(authority) => authority,
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Authority::found(&path, ClusterId::random(), now)?
            }
            Err(error) => return Err(error.into()),
        };
        let identity = issue(&authority, FOUNDER, now, life)?;
        Self::keep(folder, identity, Some(Arc::new(authority)), Vec::new())
    }

    /// Returns another identity that this machine issues itself, if it holds the authority.
    pub(super) fn issue_own(&self, now: Timestamp, life: Duration) -> Result<Option<Identity>, StandingError> {
        self.authority.as_ref().map(|authority| issue(authority, self.peer.node, now, life)).transpose()
    }

    /// Keeps what a machine has been made that joined.
    pub(super) fn joined(folder: &Path, identity: Identity, contacts: Vec<Contact>) -> Result<Self, StandingError> {
        Self::keep(folder, identity, None, contacts)
    }

    fn keep(
        folder: &Path,
        identity: Identity,
        authority: Option<Arc<Authority>>,
        contacts: Vec<Contact>,
    ) -> Result<Self, StandingError> {
        identity.save(&identity_file(folder))?;
        let this = Self { folder: folder.to_owned(), peer: identity.peer(), identity, authority, contacts };
        // Last: from here on the machine is that node.
        this.write()?;
        Ok(this)
    }

    /// Reads who this machine is; nothing where it is nobody yet. The certificate may have ended.
    pub fn load(folder: &Path) -> Result<Option<Self>, StandingError> {
        let path = standing_file(folder);
        let damaged = |reason: String| StandingError::Damaged { path: path.clone(), reason };
        let bytes = match read_small(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StandingError::Io { path, source }),
        };
        let written: Written = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let cluster = written.cluster.parse().map_err(|error: crate::auth::PeerIdError| damaged(error.to_string()))?;
        if written.node == 0 {
            return Err(damaged("zero is no node".to_owned()));
        }
        let peer = PeerId { cluster, node: NodeId(written.node) };
        let identity = Identity::load_whenever(&identity_file(folder), peer)?;
        let authority = match Authority::load(&authority_file(folder)) {
            Ok(authority) if authority.digest() == identity.authority() => Some(Arc::new(authority)),
            Ok(authority) => {
                let reason = format!("it is the authority {} and not {}", authority.digest(), identity.authority());
                return Err(KeyFileError::Damaged { path: authority_file(folder), reason }.into());
            }
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let contacts = written.contacts.into_iter();
        let contacts = contacts.map(|known| Contact { node: NodeId(known.node), address: known.address }).collect();
        Ok(Some(Self { folder: folder.to_owned(), peer, identity, authority, contacts }))
    }

    /// Returns which node this is, and of which cluster.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Returns where other nodes were reached last.
    pub(super) fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// Remembers where other nodes are reached.
    pub(super) fn set_contacts(&mut self, mut contacts: Vec<Contact>) -> Result<(), StandingError> {
        contacts.truncate(CONTACTS_MAX);
        if contacts.is_empty() || contacts == self.contacts {
            return Ok(());
        }
        self.contacts = contacts;
        self.write()
    }

    /// Takes another certificate in the place of the one it has.
    pub(super) fn renew(&mut self, identity: Identity) -> Result<(), StandingError> {
        identity.save(&identity_file(&self.folder))?;
        self.identity = identity;
        Ok(())
    }

    /// Takes over the cluster's authority, as another node has revealed it.
    pub(super) fn take_authority(&mut self, text: &str) -> Result<(), StandingError> {
        let authority = Authority::take_over(&authority_file(&self.folder), text, self.identity.authority())?;
        self.authority = Some(Arc::new(authority));
        Ok(())
    }

    fn write(&self) -> Result<(), StandingError> {
        let contacts = self.contacts.iter();
        let written = Written {
            cluster: self.peer.cluster.to_string(),
            node: self.peer.node.0,
            contacts: contacts
                .map(|contact| WrittenContact { node: contact.node.0, address: contact.address.clone() })
                .collect(),
        };
        let path = standing_file(&self.folder);
        let text = serde_json::to_vec_pretty(&written).expect("text and numbers can be written as JSON");
        replace_file(&path, &text, 0o600).map_err(|source| StandingError::Io { path, source })
    }
}

/// Makes a node's identity by the authority that is here.
fn issue(authority: &Authority, node: NodeId, now: Timestamp, life: Duration) -> Result<Identity, StandingError> {
    let key = NewKey::random();
    let certificate = authority.issue(&key.request(), node, now, life)?;
    Ok(key.accept(&certificate, authority.certificate(), authority.digest(), now)?)
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(path)?, FILE_MAX_BYTES), &mut bytes)?;
    Ok(bytes)
}

fn standing_file(folder: &Path) -> PathBuf {
    folder.join("standing.json")
}

fn identity_file(folder: &Path) -> PathBuf {
    folder.join("identity.pem")
}

fn authority_file(folder: &Path) -> PathBuf {
    folder.join("authority.pem")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CERTIFICATE_LIFE;
    use crate::clock::Clock;

    #[test]
    fn a_founder_reads_back_who_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Standing::load(folder.path()).unwrap().is_none(), "it is nobody yet");
        let mut founded = Standing::found(folder.path(), Clock::system().now(), CERTIFICATE_LIFE).unwrap();
        let contact = Contact { node: NodeId(2), address: "10.0.0.2:8100".to_owned() };
        founded.set_contacts(vec![contact.clone()]).unwrap();
        let read = Standing::load(folder.path()).unwrap().expect("it is somebody");
        assert_eq!(read.peer(), founded.peer());
        assert_eq!(read.peer().node, FOUNDER);
        assert_eq!(read.contacts(), [contact]);
        assert_eq!(read.authority.expect("a founder has it").digest(), founded.identity.authority());
    }

    #[test]
    fn a_founding_that_broke_off_is_taken_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let now = Clock::system().now();
        let first = Standing::found(folder.path(), now, CERTIFICATE_LIFE).unwrap().peer();
        std::fs::remove_file(standing_file(folder.path())).unwrap();
        assert_eq!(Standing::found(folder.path(), now, CERTIFICATE_LIFE).unwrap().peer(), first);
    }

    #[test]
    fn what_is_damaged_is_told_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        Standing::found(folder.path(), Clock::system().now(), CERTIFICATE_LIFE).unwrap();
        let path = standing_file(folder.path());
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [whole.replace(": 1", ": 0"), whole[..20].to_owned(), whole.replace(": 1", ": 2")] {
            std::fs::write(&path, &damaged).unwrap();
            let told = Standing::load(folder.path()).unwrap_err();
            assert!(told.hint().is_some(), "{told} about {damaged}");
        }
        let stranger = tempfile::tempdir().unwrap();
        Standing::found(stranger.path(), Clock::system().now(), CERTIFICATE_LIFE).unwrap();
        std::fs::write(&path, whole).unwrap();
        std::fs::copy(authority_file(stranger.path()), authority_file(folder.path())).unwrap();
        let told = Standing::load(folder.path()).unwrap_err();
        assert!(told.to_string().contains("it is the authority"), "{told}");
    }
}
