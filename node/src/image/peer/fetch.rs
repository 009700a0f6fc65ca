//! Fetches an image that this node lacks from the peers that have it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use control_plane::model::Digest;
use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use tokio::time::timeout;

use super::super::oci::Document;
use super::super::pull::{Found, Origin, PullError, PullProgress, PullStep};
use super::super::{Built, Rootfs, RootfsError, Store};
use super::{ImagePeer, ImagePeers, Peers};

/// What fetching an image comes to, told to everybody who waits for it.
type Outcome = Result<Built, Arc<PullError>>;

/// The fetches that are under way; each lives as long as anybody waits for it.
#[derive(Debug, Default)]
pub(in super::super) struct Fetching(Mutex<BTreeMap<Digest, WeakShared<BoxFuture<'static, Outcome>>>>);

/// Why an instance gets no root here.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// The image is here and has none, or there is nobody to ask for it.
    #[error(transparent)]
    Root(#[from] RootfsError),
    /// The image is not here and did not come.
    #[error("image {image} is not on this node and was not fetched")]
    Fetch {
        /// The image.
        image: Digest,
        /// Why.
        source: Arc<PullError>,
    },
}

impl Store {
    /// Fetches what this node lacks of an image from the peers that have it, and lists it as a pull does. What is here and
    /// damaged is deleted first.
    ///
    /// Who wants what is being fetched already waits for it, is told what comes of it, and hears of no progress. A fetch ends
    /// when nobody waits for it any more.
    pub async fn fetch(
        &self,
        image: &Digest,
        peers: &dyn ImagePeers,
        progress: PullProgress,
    ) -> Result<Built, Arc<PullError>> {
        self.under_way(image, peers, progress).await
    }

    /// Returns the root of an image, which is fetched from peers if it is not here, or not whole any more.
    pub async fn rootfs_or_fetch(&self, image: &Digest, peers: &dyn ImagePeers) -> Result<Rootfs, ObtainError> {
        let failure = match self.rootfs(image).await {
            Ok(root) => return Ok(root),
            Err(error) => error,
        };
        if !failure.may_be_damage() || peers.peers().is_empty() {
            return Err(failure.into());
        }
        let fetched = self.fetch(image, peers, Arc::new(|_| ())).await;
        fetched.map_err(|source| ObtainError::Fetch { image: *image, source })?;
        Ok(self.rootfs(image).await?)
    }

    /// Returns the fetch of an image, which begins if there is none.
    fn under_way(
        &self,
        image: &Digest,
        peers: &dyn ImagePeers,
        progress: PullProgress,
    ) -> Shared<BoxFuture<'static, Outcome>> {
        let is_going = |known: &Shared<BoxFuture<'static, Outcome>>| known.peek().is_none();
        let mut fetching = self.fetching().0.lock().expect("no holder of this lock panics");
        if let Some(known) = fetching.get(image).and_then(WeakShared::upgrade).filter(is_going) {
            return known;
        }
        let (store, image, peers) = (self.clone(), *image, peers.peers());
        let begun = async move { store.fetch_now(image, peers, progress).await.map_err(Arc::new) }.boxed().shared();
        fetching.retain(|_, known| known.upgrade().is_some_and(|known| is_going(&known)));
        fetching.extend(begun.downgrade().map(|begun| (image, begun)));
        begun
    }

    async fn fetch_now(
        self,
        image: Digest,
        candidates: Vec<ImagePeer>,
        progress: PullProgress,
    ) -> Result<Built, PullError> {
        let limits = self.settings().peer;
        progress(PullStep { text: format!("asking {} peers for {image}", candidates.len()), done: 0, total: None });
        let peers = Arc::new(Peers::new(image, candidates, limits, self.peer_traffic().clone()));
        let fetching = async {
            let _work = self.begin_work().await;
            // Here, because one fetch of an image is under way at a time: what it brings is not taken for what was damaged.
            self.forget_damaged(&image).await?;
            let store = self.clone();
            let known = tokio::task::spawn_blocking(move || store.blobs().read(&image)).await;
            let bytes = match known {
                Ok(Ok(bytes)) => bytes.into(),
                _ => peers.small(&image).await?,
            };
            // What a revision runs is the manifest itself: an index would be another image on another machine.
            if let Document::Index(_) = Document::parse(&bytes, None)? {
                return Err(PullError::Invalid { reason: format!("{image} is an index") });
            }
            self.take_in(&Origin::Peers(Arc::clone(&peers)), Found { bytes, kind: None }, None, progress).await
        };
        match timeout(limits.fetch_max, fetching).await {
            Ok(result) => result,
            Err(_) => Err(PullError::PeersSlow { wanted: image, limit: limits.fetch_max, said: peers.said() }),
        }
    }
}
