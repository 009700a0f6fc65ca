//! A cluster for tests: an authority in a folder of its own, nodes with certificates, and a clock that is moved by hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use control_plane::model::{NodeId, Timestamp};

use super::tls::MachineTime;
use super::{Authority, CERTIFICATE_LIFE, ClusterId, Identity, NewKey, PeerId};
use crate::clock::Clock;

/// Noon of the 24th of November 2026, in seconds since the Unix epoch.
const NOON: u64 = 1_795_521_600;

pub(super) struct TestCluster {
    folder: tempfile::TempDir,
    machine: Arc<AtomicU64>,
    pub(super) clock: Clock,
    pub(super) authority: Authority,
}

impl TestCluster {
    pub(super) fn found() -> Self {
        Self::found_as(ClusterId::random())
    }

    pub(super) fn found_as(cluster: ClusterId) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = Arc::new(AtomicU64::new(NOON * 1_000_000));
        let clock = {
            let machine = Arc::clone(&machine);
            Clock::reading(move || machine.load(Ordering::Relaxed))
        };
        let authority = Authority::found(&folder.path().join("authority.pem"), cluster, clock.now()).unwrap();
        Self { folder, machine, clock, authority }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the clock as TLS reads it.
    pub(super) fn time(&self) -> Arc<MachineTime> {
        Arc::new(MachineTime(self.clock.clone()))
    }

    pub(super) fn wait(&self, duration: Duration) {
        self.machine.fetch_add(u64::try_from(duration.as_micros()).unwrap(), Ordering::Relaxed);
    }

    pub(super) fn peer(&self, node: u32) -> PeerId {
        PeerId { cluster: self.authority.cluster(), node: NodeId(node) }
    }

    /// Lets a node make a key and get a certificate, good from now on.
    pub(super) fn identity(&self, node: u32) -> Identity {
        let key = NewKey::random();
        let now = self.now();
        let certificate = self.authority.issue(&key.request(), NodeId(node), now, CERTIFICATE_LIFE).unwrap();
        key.accept(&certificate, self.authority.certificate(), self.authority.digest(), now).unwrap()
    }
}
