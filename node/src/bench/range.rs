//! etcd's read of one key, as far as it is used here: our voters answer the very same messages, so that the client cannot tell.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use control_plane::model::NodeId;
use http_body::Body;
use tonic::codegen::{Service, StdError};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::raft::Raft;

/// What it is called on the wire. Unless told otherwise, etcd answers it only with what a quorum has confirmed.
pub(super) const PATH: &str = "/etcdserverpb.KV/Range";

/// The label of a row that holds its value.
pub(super) const VALUE_LABEL: &str = "value";

/// etcd's `RangeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
}

/// etcd's `RangeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Found {
    #[prost(message, repeated, tag = "2")]
    pub(super) pairs: Vec<Pair>,
}

/// etcd's `KeyValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
}

/// Returns the `number`th key.
pub(super) fn key(number: usize) -> Vec<u8> {
    format!("node-{number}").into_bytes()
}

/// Returns the row that stands for the `number`th key.
pub(super) fn row(number: usize) -> NodeId {
    NodeId(u32::try_from(number).unwrap_or_default() + 1)
}

/// Answers reads as the API of a node does: once this node has applied all that was acknowledged before.
#[derive(Clone)]
pub(super) struct Ranges(pub(super) Raft);

impl Ranges {
    async fn find(self, request: Request<Range>) -> Result<Response<Found>, Status> {
        let key = request.into_inner().key;
        let number = std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix("node-")?.parse().ok());
        let row = row(number.ok_or_else(|| Status::invalid_argument("the key is none that is written"))?);
        self.0.catch_up().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let value = self.0.read(|state| state.nodes.get(&row)?.spec.labels.get(VALUE_LABEL).cloned());
        let pairs = value.map(|value| Pair { key, value: value.into_bytes() }).into_iter().collect();
        Ok(Response::new(Found { pairs }))
    }
}

impl NamedService for Ranges {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl<B> Service<http::Request<B>> for Ranges
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let ranges = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("only single keys are read here").into_http());
            }
            let find = service_fn(move |request: Request<Range>| ranges.clone().find(request));
            Ok(Grpc::new(ProstCodec::<Found, Range>::default()).unary(find, request).await)
        })
    }
}
