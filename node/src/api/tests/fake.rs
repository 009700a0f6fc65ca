//! A node that is nothing but the replicated state.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use control_plane::model::{
    Bytes, Digest, Epoch, FeatureLevel, MilliCpu, NodeId, NodeSpec, Resources, RevisionId, RevisionNumber, Timestamp,
};
use control_plane::state::State;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::super::platform::*;
use super::{Arc, Command, ErrorBody, ErrorCode, Rejection, Reply, json, mpsc, samples, watch};
use crate::image::ImageFile;
use crate::raft::Members;

pub(super) struct Fake {
    pub(super) state: Mutex<State>,
    applied: watch::Sender<u64>,
    /// What builds got: the request and the upload.
    pub(super) built: Mutex<Vec<(json::BuildRequest, Vec<u8>)>>,
    pub(super) unready: Mutex<Vec<String>>,
    /// What images are made of.
    pub(super) files: Mutex<BTreeMap<Digest, Vec<ImageFile>>>,
    /// Why those cannot be read.
    pub(super) unreadable: Mutex<Option<&'static str>>,
    /// Nodes that do not say what runs on them.
    pub(super) silent: Mutex<Vec<NodeId>>,
    /// The image that is not in the store beside [`absent`].
    pub(super) lost: Mutex<Option<Digest>>,
    /// Images that were taken in, with the bytes of their manifests.
    pub(super) taken: Mutex<Vec<(Digest, Vec<u8>)>>,
    /// Why it cannot know what was acknowledged elsewhere.
    pub(super) behind: Mutex<Option<&'static str>>,
    /// Commands are answered with this instead of being applied.
    pub(super) refuse: Mutex<Option<fn() -> ProposeError>>,
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        let this = Self {
            state: Mutex::default(),
            applied: watch::Sender::new(0),
            built: Mutex::default(),
            unready: Mutex::default(),
            files: Mutex::default(),
            unreadable: Mutex::default(),
            silent: Mutex::default(),
            lost: Mutex::default(),
            taken: Mutex::default(),
            behind: Mutex::default(),
            refuse: Mutex::default(),
        };
        let capacity = Resources { cpu: MilliCpu(4000), memory: Bytes::mebi(4096), ..Resources::default() };
        let spec = NodeSpec {
            name: "alpha".into(),
            capacity,
            labels: [("zone".into(), "a".into())].into(),
            features: FeatureLevel::NEWEST,
        };
        this.apply(Command::RegisterNode { node: NodeId(1), spec }).unwrap();
        Arc::new(this)
    }

    pub(super) fn apply(&self, command: Command) -> Result<Reply, Rejection> {
        let reply = self.state.lock().unwrap().apply(Timestamp::from_millis(1_000), command);
        self.applied.send_modify(|index| *index += 1);
        reply
    }

    pub(super) fn promote(&self, function: &str, number: u32) {
        let revision = RevisionId { function: function.parse().unwrap(), number: RevisionNumber(number) };
        self.apply(Command::Promote { revision }).unwrap();
    }

    pub(super) fn fail(&self, function: &str, number: u32, reason: &str) {
        let revision = RevisionId { function: function.parse().unwrap(), number: RevisionNumber(number) };
        self.apply(Command::FailRevision { revision, reason: reason.into() }).unwrap();
    }
}

/// Every image but this one is in the store.
pub(super) fn absent() -> Digest {
    Digest::from_bytes([0xff; 32])
}

impl Platform for Fake {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        let refusal = *self.refuse.lock().unwrap();
        let answer = match refusal {
            Some(refuse) => Err(refuse()),
            None => self.apply(command).map_err(ProposeError::Rejected),
        };
        ready(answer).boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, Result<(), String>> {
        let answer = self.behind.lock().unwrap().map_or(Ok(()), |reason| Err(reason.to_owned()));
        ready(answer).boxed()
    }

    fn look(&self, look: &mut dyn FnMut(&State)) {
        look(&self.state.lock().unwrap());
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn identity(&self) -> Identity {
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Identity { node: NodeId(1), name: "alpha".into(), gateway: address(8080), api: address(8090) }
    }

    fn standing(&self) -> Standing {
        let address = "10.0.0.1:8100".to_owned();
        let members =
            Members { leader: Some(NodeId(1)), voters: [(NodeId(1), address.clone())].into(), ..Members::default() };
        let (cluster, authority) = ("0f".repeat(16).parse().unwrap(), Digest::from_bytes([7; 32]));
        let certificate_end = Timestamp::from_millis(1_795_521_600_000);
        Standing { cluster, authority, certificate_end, address, term: 3, members }
    }

    fn transfer_leader(&self, to: Option<NodeId>) -> BoxFuture<'_, Result<NodeId, ErrorBody>> {
        let answer = to.ok_or_else(|| ErrorBody::new(ErrorCode::Conflict, "no other voter has the whole log"));
        ready(answer).boxed()
    }

    fn leader(&self) -> Option<NodeId> {
        Some(NodeId(1))
    }

    fn unready(&self) -> Vec<String> {
        self.unready.lock().unwrap().clone()
    }

    fn instances(&self) -> BoxFuture<'_, Running> {
        let silent = self.silent.lock().unwrap().clone();
        ready(Running { instances: vec![samples::instance()], silent }).boxed()
    }

    fn build(&self, build: Build, progress: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult> {
        async move {
            let content = std::fs::read(build.source.path()).unwrap();
            assert_eq!(content.len() as u64, build.source.length());
            progress.send(json::ImageEvent::Output { text: "collecting".into() }).await.unwrap();
            let is_python = build.request.runtime == json::Runtime::Python3;
            self.built.lock().unwrap().push((build.request, content));
            if is_python {
                Ok(StoredImage { digest: Digest::from_bytes([7; 32]), reused: false, size_bytes: 12 })
            } else {
                Err(ErrorBody::new(ErrorCode::LanguageMissing, "there is no nodejs here").hint("install it"))
            }
        }
        .boxed()
    }

    fn pull(&self, reference: String, _: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult> {
        ready(Err(ErrorBody::new(ErrorCode::NotFound, format!("there is no {reference}")))).boxed()
    }

    fn import(&self, import: Import, _: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult> {
        assert_eq!(std::fs::read(import.layout.path()).unwrap().len() as u64, import.layout.length());
        ready(Ok(StoredImage {
            digest: Digest::from_bytes([6; 32]),
            reused: false,
            size_bytes: import.layout.length(),
        }))
        .boxed()
    }

    fn capture(&self, _: json::CaptureRequest, _: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult> {
        ready(Ok(StoredImage { digest: Digest::from_bytes([8; 32]), reused: true, size_bytes: 1 })).boxed()
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<json::Image>, ErrorBody>> {
        let digest = Digest::from_bytes([7; 32]).to_string();
        ready(Ok(vec![json::Image { digest, names: vec![], size_bytes: 12, used_by: vec!["resize@1".into()] }])).boxed()
    }

    fn has_image(&self, image: Digest) -> BoxFuture<'_, bool> {
        ready(image != absent() && Some(image) != *self.lost.lock().unwrap()).boxed()
    }

    fn sweep_images(&self) -> BoxFuture<'_, Result<json::GcReport, ErrorBody>> {
        ready(Ok(json::GcReport::default())).boxed()
    }

    fn image_files(&self, image: Digest) -> BoxFuture<'_, Result<Option<Vec<ImageFile>>, ErrorBody>> {
        let answer = match *self.unreadable.lock().unwrap() {
            Some(reason) => Err(ErrorBody::new(ErrorCode::Internal, reason)),
            None => Ok(self.files.lock().unwrap().get(&image).cloned()),
        };
        ready(answer).boxed()
    }

    fn take_image(&self, layout: PathBuf, image: Digest) -> BoxFuture<'_, Result<(), ErrorBody>> {
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["digest"], image.to_string());
        let manifest = std::fs::read(layout.join("blobs/sha256").join(image.hex())).unwrap();
        self.taken.lock().unwrap().push((image, manifest));
        ready(Ok(())).boxed()
    }

    fn invoke(&self, invocation: Invocation) -> BoxFuture<'_, Invoked> {
        let outcome = match &invocation.payload[..] {
            b"raise" => InvokeOutcome::Raised(r#"{"errorType":"ValueError"}"#.into()),
            b"die" => {
                InvokeOutcome::Failed(ErrorBody::new(ErrorCode::InstanceFailed, "the process exited with code 3"))
            }
            b"wait" => {
                assert_eq!(invocation.deadline, Some(Duration::from_millis(5)));
                InvokeOutcome::Failed(ErrorBody::new(ErrorCode::Timeout, "it took longer than 5 ms"))
            }
            echo => InvokeOutcome::Answered(bytes::Bytes::copy_from_slice(echo)),
        };
        let request_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
        ready(Invoked { request_id, revision: Some(RevisionNumber(2)), outcome }).boxed()
    }
}

// The epoch of the only node after it registered once.
pub(super) const EPOCH: Epoch = Epoch(1);
