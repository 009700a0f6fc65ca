//! One client for both: puts small values into a replicated log over gRPC and reads them, ours or etcd's.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use control_plane::codec;
use control_plane::model::{FeatureLevel, NodeSpec, Resources};
use control_plane::state::Command;
use http::uri::PathAndQuery;
use proto::v1;
use proto::v1::cluster_client::ClusterClient;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::range::{self, Found, Range, VALUE_LABEL};

/// How long a value is, in bytes.
const VALUE_BYTES: usize = 64;

/// How many keys are written, again and again.
pub(super) const KEYS: usize = 1024;

/// Whom the client talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Ours,
    Etcd,
}

/// A client over one connection; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    dialect: Dialect,
    channel: Channel,
}

/// etcd's `PutRequest`, as far as it is used here.
#[derive(Clone, PartialEq, prost::Message)]
struct EtcdPut {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// An answer whose content does not matter.
#[derive(Clone, PartialEq, prost::Message)]
struct Ignored {}

/// etcd's `StatusResponse`, as far as it is used here.
#[derive(Clone, PartialEq, prost::Message)]
struct EtcdStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<EtcdHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// etcd's `MoveLeaderRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct EtcdMoveLeader {
    #[prost(uint64, tag = "1")]
    target: u64,
}

/// etcd's `ResponseHeader`, as far as it is used here.
#[derive(Clone, PartialEq, prost::Message)]
struct EtcdHeader {
    #[prost(uint64, tag = "2")]
    member: u64,
}

impl Client {
    pub(super) fn new(dialect: Dialect, address: SocketAddr) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        Ok(Self { dialect, channel: endpoint.connect_lazy() })
    }

    /// Puts the `number`th value; returns once it is acknowledged.
    pub(super) async fn put(&self, number: usize) -> Result<(), Status> {
        let key = number % KEYS;
        match self.dialect {
            Dialect::Ours => {
                let mut client = ClusterClient::new(self.channel.clone());
                let reply = client
                    .propose(v1::ProposeRequest { command: Some(command(key)), ticket: None })
                    .await?
                    .into_inner();
                match reply.result {
                    Some(v1::propose_reply::Result::Applied(_)) => Ok(()),
                    Some(v1::propose_reply::Result::Refused(_)) => {
                        Err(Status::failed_precondition("it refuses to write"))
                    }
                    Some(v1::propose_reply::Result::NotLeader(_)) | None => {
                        Err(Status::unavailable("it does not lead, or not any more"))
                    }
                }
            }
            Dialect::Etcd => {
                let put = EtcdPut { key: range::key(key), value: vec![b'v'; VALUE_BYTES] };
                self.ask::<EtcdPut, Ignored>("/etcdserverpb.KV/Put", put).await.map(drop)
            }
        }
    }

    /// Reads the `number`th value, with all that was acknowledged before; it must have been put.
    pub(super) async fn get(&self, number: usize) -> Result<(), Status> {
        let key = range::key(number % KEYS);
        let found = self.ask::<Range, Found>(range::PATH, Range { key }).await?;
        let is_whole = found.pairs.first().is_some_and(|pair| pair.value.len() == VALUE_BYTES);
        if is_whole { Ok(()) } else { Err(Status::data_loss("what was written is not read")) }
    }

    /// Returns whether the other side leads, and puts a first value if so.
    pub(super) async fn is_leader(&self) -> bool {
        let leads = match self.dialect {
            Dialect::Ours => true,
            Dialect::Etcd => self.member().await.is_ok_and(|(member, leader)| member == leader),
        };
        leads && self.put(0).await.is_ok()
    }

    /// Returns etcd's id of the other side, and of whom it takes for the leader.
    pub(super) async fn member(&self) -> Result<(u64, u64), Status> {
        let status = self.ask::<Ignored, EtcdStatus>("/etcdserverpb.Maintenance/Status", Ignored {}).await?;
        Ok((status.header.map_or(0, |header| header.member), status.leader))
    }

    /// Asks an etcd that leads to hand leadership over.
    pub(super) async fn move_leader(&self, target: u64) -> Result<(), Status> {
        let path = "/etcdserverpb.Maintenance/MoveLeader";
        self.ask::<EtcdMoveLeader, Ignored>(path, EtcdMoveLeader { target }).await.map(drop)
    }

    async fn ask<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(grpc.unary(Request::new(message), PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

/// Our command that comes closest to a put: it writes one row, of the same size.
fn command(key: usize) -> v1::Command {
    let labels = BTreeMap::from([(VALUE_LABEL.to_owned(), "v".repeat(VALUE_BYTES))]);
    let spec = NodeSpec {
        name: format!("node-{key}"),
        capacity: Resources::default(),
        labels,
        features: FeatureLevel::NEWEST,
    };
    codec::encode_command(&Command::RegisterNode { node: range::row(key), spec })
}
