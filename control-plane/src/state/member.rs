//! What the commands about joining and leaving do.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{NotInvited, Rejection, Reply, State};
use crate::model::{Digest, NodeId, Timestamp};

/// How many secrets let machines in at once, at most.
pub const INVITATIONS_MAX: usize = 256;

/// How many machines may have been let in without having registered, at most.
pub const ADMITTED_MAX: usize = 1024;

/// How long a machine that was let in may take to register.
pub const ADMITTED_LIFE: Duration = Duration::from_secs(3600);

/// A machine that was let in and has not registered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// When it was let in.
    pub at: Timestamp,
    /// The SHA-256 of its request for a certificate: by it the machine is known when it asks again.
    pub request: Digest,
}

/// What the cluster keeps of one join token, beside the hash of its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// When it ends.
    pub expires_at: Timestamp,
    /// How many more machines may join by it; none means any number.
    pub uses_left: Option<u32>,
}

impl State {
    pub(super) fn invite(
        &mut self,
        at: Timestamp,
        secret: Digest,
        expires_at: Timestamp,
        uses: Option<u32>,
    ) -> Result<Reply, Rejection> {
        let is_over = |invitation: &Invitation| invitation.expires_at <= at || invitation.uses_left == Some(0);
        let open =
            self.invitations.iter().filter(|(known, invitation)| **known != secret && !is_over(invitation)).count();
        if open >= INVITATIONS_MAX {
            return Err(Rejection::Limit { what: "join tokens".to_owned(), limit: INVITATIONS_MAX });
        }
        self.invitations.retain(|_, invitation| !is_over(invitation));
        self.invitations.insert(secret, Invitation { expires_at, uses_left: uses });
        Ok(self.done())
    }

    pub(super) fn admit(&mut self, at: Timestamp, secret: Digest, request: Digest) -> Result<Reply, Rejection> {
        let lasts = |admitted: &Admitted| admitted.at + ADMITTED_LIFE > at;
        let again = self.admitted.iter().find(|(_, known)| known.request == request && lasts(known));
        if let Some((node, _)) = again {
            return Ok(Reply::Admitted { node: *node });
        }
        let invitation = self.invitations.get_mut(&secret).ok_or(Rejection::NotInvited(NotInvited::Unknown))?;
        if invitation.expires_at <= at {
            return Err(Rejection::NotInvited(NotInvited::Expired));
        }
        if invitation.uses_left == Some(0) {
            return Err(Rejection::NotInvited(NotInvited::UsedUp));
        }
        if self.admitted.values().filter(|known| lasts(known)).count() >= ADMITTED_MAX {
            return Err(Rejection::Limit { what: "nodes that have not registered".to_owned(), limit: ADMITTED_MAX });
        }
        let known = [self.nodes.last_key_value().map(|(id, _)| *id), self.admitted.last_key_value().map(|(id, _)| *id)];
        let last = known.into_iter().flatten().chain(self.removed.last().copied()).map(|id| id.0).max().unwrap_or(0);
        let id = last.checked_add(1).map(NodeId);
        let id = id.ok_or_else(|| Rejection::Limit { what: "node ids".to_owned(), limit: u32::MAX as usize })?;
        invitation.uses_left = invitation.uses_left.map(|left| left - 1);
        // Whoever never came counts as removed: its id is not given again.
        let (here, lapsed): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.admitted).into_iter().partition(|(_, known)| lasts(known));
        self.admitted = here;
        self.removed.extend(lapsed.into_keys());
        self.admitted.insert(id, Admitted { at, request });
        self.index += 1;
        Ok(Reply::Admitted { node: id })
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Result<Reply, Rejection> {
        if !self.is_member(id) {
            return Err(Rejection::NoNode(id));
        }
        if self.nodes.len() == 1 && self.nodes.contains_key(&id) {
            return Err(Rejection::LastNode(id));
        }
        self.nodes.remove(&id);
        self.sessions.remove(&id);
        self.admitted.remove(&id);
        self.removed.insert(id);
        self.placements.remove_of(id);
        self.raise_features();
        Ok(self.done())
    }
}
