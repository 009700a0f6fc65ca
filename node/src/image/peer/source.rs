//! The peers as a source of blobs: who has them, and what becomes of asking one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use control_plane::model::{Digest, NodeId};
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::v1;
use proto::v1::images_client::ImagesClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::super::blob::{self, BlobWriter};
use super::super::oci::{DOCUMENT_MAX, Descriptor};
use super::super::pull::{Found, PullError};
use super::super::registry::digest_of;
use super::{ImagePeer, MESSAGE_MAX_BYTES, PeerLimits, PeerTraffic};
use crate::clock;

/// How many peers are asked at once whether they have an image.
const ASKED_AT_ONCE: usize = 16;

/// How long a peer may take to say whether it has an image.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How often all holders of a blob may fail one after the other without sending anything.
const ROUNDS_MAX: u32 = 5;

/// Characters of a peer's own words that are passed on.
const WORDS_MAX: usize = 300;

/// The peers, asked for one image and what belongs to it.
pub(in super::super) struct Peers {
    limits: PeerLimits,
    traffic: PeerTraffic,
    /// Whether they have the image, from those that have not answered yet; whoever waits for one holds it.
    answers: tokio::sync::Mutex<BoxStream<'static, (ImagePeer, Has)>>,
    judged: Mutex<Judged>,
}

/// What is known of the peers.
#[derive(Debug, Default)]
struct Judged {
    /// Those that have the image; whoever answers first is asked first.
    holders: Vec<ImagePeer>,
    /// What went wrong last with each.
    said: BTreeMap<NodeId, String>,
    /// Those that sent something else than they were asked for: they are asked for nothing more.
    liars: BTreeSet<NodeId>,
    /// Whether somebody did not say if it has the image.
    is_unsure: bool,
}

/// What a peer says when it is asked for the image.
enum Has {
    Yes,
    No,
    /// It does not say.
    Unknown(String),
}

/// How a peer's stream ended.
enum End {
    /// The peer says that this was all.
    Whole,
    /// It may go on another time.
    Broken(String),
    /// It has too much to do.
    Busy(String),
    /// This peer does not have this blob.
    Lacks(String),
    /// This peer cannot send this blob.
    Never(String),
}

impl Peers {
    /// Asks peers for an image, in an order of its own each time: nodes that start together do not all turn to the same.
    pub(super) fn new(image: Digest, mut peers: Vec<ImagePeer>, limits: PeerLimits, traffic: PeerTraffic) -> Self {
        if let Ok(count @ 1..) = u128::try_from(peers.len()) {
            peers.rotate_left(usize::try_from(clock::random_u128() % count).unwrap_or(0));
        }
        let asking = stream::iter(peers).map(move |peer| async move {
            let answer = ask(&peer, &image).await;
            (peer, answer)
        });
        let answers = asking.buffer_unordered(ASKED_AT_ONCE).boxed();
        Self { limits, traffic, answers: tokio::sync::Mutex::new(answers), judged: Mutex::default() }
    }

    /// Returns a manifest or an index.
    pub(in super::super) async fn document(&self, part: &Descriptor) -> Result<Found, PullError> {
        let bytes = self.small(&digest_of(part)?).await?;
        Ok(Found { bytes, kind: Some(part.media_type.clone()) })
    }

    /// Returns a small blob whole.
    pub(super) async fn small(&self, digest: &Digest) -> Result<Bytes, PullError> {
        let mut bytes = Vec::new();
        self.bring(digest, &mut Target::Memory(&mut bytes)).await?;
        Ok(bytes.into())
    }

    /// Writes a blob; where it breaks off, the same peer or another goes on.
    pub(in super::super) async fn blob(&self, part: &Descriptor, writer: &mut BlobWriter) -> Result<(), PullError> {
        self.bring(&digest_of(part)?, &mut Target::Writer(writer)).await
    }

    /// Returns what went wrong last with each peer, for an error.
    pub(super) fn said(&self) -> Vec<String> {
        self.judged().said.iter().map(|(node, said)| format!("{node}: {said}")).collect()
    }

    /// Asks one holder after the other until the whole blob is there.
    async fn bring(&self, digest: &Digest, target: &mut Target<'_>) -> Result<(), PullError> {
        let mut without = BTreeSet::new();
        // Whose bytes are in the target.
        let mut senders = BTreeSet::new();
        // Bytes of several peers were wrong together: from here on one sends all of them, so that it is known who was wrong.
        let mut is_alone = false;
        // Whoever has it sends it or fails; as long as nobody has failed, nobody has it.
        let mut is_nowhere = true;
        let mut failures = 0;
        loop {
            let (mut is_hopeful, mut is_busy, mut has_moved) = (false, false, false);
            for index in 0.. {
                let Some(peer) = self.holder(index).await else { break };
                if without.contains(&peer.node) {
                    continue;
                }
                if self.judged().liars.contains(&peer.node) {
                    is_nowhere = false;
                    continue;
                }
                if is_alone && senders.iter().any(|sender| *sender != peer.node) {
                    target.restart().await?;
                    senders.clear();
                }
                let before = target.written();
                let end = self.receive(&peer, digest, target).await?;
                if target.written() > before {
                    senders.insert(peer.node);
                    has_moved = true;
                }
                is_nowhere &= matches!(end, End::Lacks(_));
                match end {
                    End::Whole | End::Broken(_) if target.is_whole(&end) => {
                        let actual = target.digest().await?;
                        if actual == *digest {
                            return Ok(());
                        }
                        if senders.len() > 1 {
                            (is_alone, is_hopeful) = (true, true);
                        } else {
                            let liar = senders.first().copied().unwrap_or(peer.node);
                            self.exclude(liar, format!("it sent {actual} as {digest}"));
                        }
                        target.restart().await?;
                        senders.clear();
                    }
                    End::Whole => {
                        let reason = format!("its {digest} ends after {} bytes", target.written());
                        self.note(peer.node, reason);
                        without.insert(peer.node);
                        target.restart().await?;
                        senders.clear();
                    }
                    End::Lacks(reason) | End::Never(reason) => {
                        self.note(peer.node, reason);
                        without.insert(peer.node);
                        // What it has sent is not to be built on.
                        if senders.contains(&peer.node) {
                            target.restart().await?;
                            senders.clear();
                        }
                    }
                    End::Broken(reason) => {
                        tracing::info!(peer = %peer.node, blob = %digest, at = target.written(), reason, "a peer broke off");
                        self.note(peer.node, reason);
                        is_hopeful = true;
                    }
                    End::Busy(reason) => {
                        self.note(peer.node, reason);
                        (is_hopeful, is_busy) = (true, true);
                    }
                }
            }
            failures = if has_moved && !is_alone { 0 } else { failures + 1 };
            // Whoever is busy will not be for ever; the whole has its deadline.
            if !is_hopeful || failures >= ROUNDS_MAX && !is_busy {
                let is_nowhere = is_nowhere && !self.judged().is_unsure;
                return Err(PullError::Peers { wanted: *digest, said: self.said(), is_nowhere });
            }
            self.pause(failures).await;
        }
    }

    /// Asks one peer for what is missing of a blob.
    async fn receive(&self, peer: &ImagePeer, digest: &Digest, target: &mut Target<'_>) -> Result<End, PullError> {
        let silent = || Ok(End::Broken(format!("it said nothing for {:?}", self.limits.silence_max)));
        let request = v1::BlobRequest { sha256: digest.as_bytes().to_vec(), offset: target.written() };
        let mut client = client(peer);
        let mut chunks = match timeout(self.limits.silence_max, client.blob(request)).await {
            Err(_) => return silent(),
            Ok(Err(status)) => return Ok(end_of(&status)),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        loop {
            match timeout(self.limits.silence_max, chunks.message()).await {
                Err(_) => return silent(),
                Ok(Err(status)) => return Ok(end_of(&status)),
                Ok(Ok(None)) => return Ok(End::Whole),
                Ok(Ok(Some(chunk))) => {
                    let count = u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX);
                    if count == 0 {
                        return Ok(End::Never("it sent a chunk with nothing in it".to_owned()));
                    }
                    if count > target.room() {
                        let most = target.written() + target.room();
                        return Ok(End::Never(format!("it sent more than the {most} bytes that {digest} may have")));
                    }
                    target.write(chunk.bytes).await?;
                    self.traffic.fetched(count);
                }
            }
        }
    }

    /// Returns the holder that answered as the `index`th, if there are so many.
    async fn holder(&self, index: usize) -> Option<ImagePeer> {
        let known = || self.judged().holders.get(index).cloned();
        // Those that are known are asked at once, also while somebody waits for more.
        if let Some(holder) = known() {
            return Some(holder);
        }
        let mut answers = self.answers.lock().await;
        loop {
            if let Some(holder) = known() {
                return Some(holder);
            }
            let (peer, answer) = answers.next().await?;
            match answer {
                Has::Yes => self.judged().holders.push(peer),
                Has::No => self.note(peer.node, "it does not have the image".to_owned()),
                Has::Unknown(reason) => {
                    self.judged().is_unsure = true;
                    self.note(peer.node, reason);
                }
            }
        }
    }

    fn note(&self, node: NodeId, reason: String) {
        self.judged().said.insert(node, reason);
    }

    fn exclude(&self, node: NodeId, reason: String) {
        tracing::error!(peer = %node, reason, "a peer is asked no more");
        self.judged().liars.insert(node);
        self.note(node, reason);
    }

    async fn pause(&self, failures: u32) {
        let doubled = self.limits.pause_min.saturating_mul(2_u32.saturating_pow(failures));
        let pause = doubled.min(self.limits.pause_max);
        // Several nodes that were refused together do not come back together.
        let jitter = u8::try_from(clock::random_u128() % 100).map_or(0.0, f64::from) / 200.0;
        tokio::time::sleep(pause.mul_f64(1.0 + jitter)).await;
    }

    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.judged.lock().expect("no holder of this lock panics")
    }
}

/// Asks a peer whether it has an image.
async fn ask(peer: &ImagePeer, image: &Digest) -> Has {
    let request = v1::HasRequest { sha256: image.as_bytes().to_vec() };
    match timeout(ANSWER_MAX, client(peer).has(request)).await {
        Ok(Ok(answer)) if answer.get_ref().size.is_some() => Has::Yes,
        Ok(Ok(_)) => Has::No,
        Ok(Err(status)) => Has::Unknown(words(&status)),
        Err(_) => Has::Unknown(format!("it did not answer within {ANSWER_MAX:?}")),
    }
}

fn client(peer: &ImagePeer) -> ImagesClient<Channel> {
    ImagesClient::new(peer.channel.clone()).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

/// Returns what a status means for one blob.
fn end_of(status: &Status) -> End {
    let reason = words(status);
    match status.code() {
        Code::ResourceExhausted => End::Busy(reason),
        Code::NotFound => End::Lacks(reason),
        Code::DataLoss
        | Code::OutOfRange
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition => End::Never(reason),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => End::Broken(reason),
    }
}

/// Returns what a peer said, or why it said nothing, as far as it is for people.
fn words(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.chars().filter(|character| !character.is_control()).take(WORDS_MAX).collect()
}

/// Where the bytes of a blob go.
enum Target<'a> {
    /// Into memory: its size is not known, but bounded.
    Memory(&'a mut Vec<u8>),
    /// Onto the disk: its size is known.
    Writer(&'a mut BlobWriter),
}

impl Target<'_> {
    fn written(&self) -> u64 {
        match self {
            Self::Memory(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Writer(writer) => writer.written(),
        }
    }

    /// Returns how many bytes may still come.
    fn room(&self) -> u64 {
        match self {
            Self::Memory(_) => DOCUMENT_MAX.saturating_sub(self.written()),
            Self::Writer(writer) => writer.room(),
        }
    }

    /// Returns whether everything has come; where the size is not known, only the peer can say so.
    fn is_whole(&self, end: &End) -> bool {
        match self {
            Self::Memory(_) => matches!(end, End::Whole),
            Self::Writer(writer) => writer.room() == 0,
        }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), PullError> {
        match self {
            Self::Memory(known) => {
                known.extend_from_slice(&bytes);
                Ok(())
            }
            Self::Writer(writer) => writer.write(bytes).await,
        }
    }

    async fn restart(&mut self) -> Result<(), PullError> {
        match self {
            Self::Memory(bytes) => {
                bytes.clear();
                Ok(())
            }
            Self::Writer(writer) => writer.restart().await,
        }
    }

    async fn digest(&mut self) -> Result<Digest, PullError> {
        match self {
            Self::Memory(bytes) => Ok(blob::of(bytes)),
            Self::Writer(writer) => writer.digest().await,
        }
    }
}
