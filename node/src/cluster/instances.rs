//! What runs on all nodes, asked of each.

use control_plane::model::NodeId;
use futures_util::future::join_all;
use proto::json;
use proto::v1;
use tokio::time::timeout;

use super::{ASK_MAX, Cluster};
use crate::agent::{InstanceView, Phase};
use crate::api::body::write_purpose;

impl Cluster {
    /// Returns what runs on this node.
    pub fn instances_here(&self) -> Vec<json::Instance> {
        let (node, traffic) = (self.node(), &self.0.traffic);
        let measured = self.0.instances.measure().into_iter();
        measured.map(|view| on_wire(node, traffic.in_flight_on(view.instance), view)).collect()
    }

    /// Returns what runs on all nodes; what runs on one that is dead or does not answer is missing.
    pub async fn instances(&self) -> Vec<json::Instance> {
        let mut all = self.instances_here();
        let Some(raft) = self.0.raft.get() else { return all };
        let asked = self.living_others(raft).into_iter().map(|(node, address)| async move {
            let mut peer = self.ask(raft, node, &address);
            match timeout(ASK_MAX, peer.instances(v1::InstancesRequest {})).await {
                Ok(Ok(reply)) => reply.into_inner().instances,
                Ok(Err(status)) => {
                    tracing::debug!(%node, %status, "its instances are not known");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            }
        });
        let texts = join_all(asked).await.into_iter().flatten();
        all.extend(texts.filter_map(|text| serde_json::from_str::<json::Instance>(&text).ok()));
        all.sort_by(|one, other| (&one.node, &one.id).cmp(&(&other.node, &other.id)));
        all
    }
}

fn on_wire(node: NodeId, in_flight: u16, view: InstanceView) -> json::Instance {
    json::Instance {
        id: view.instance.to_string(),
        function: view.revision.function.to_string(),
        revision: view.revision.number.0,
        node: node.to_string(),
        phase: match view.phase {
            Phase::Starting => json::InstancePhase::Starting,
            Phase::Ready => json::InstancePhase::Ready,
            Phase::Draining => json::InstancePhase::Draining,
            Phase::Stopping => json::InstancePhase::Stopping,
        },
        purpose: write_purpose(view.purpose),
        since_ms: view.since.as_millis(),
        in_flight: in_flight.into(),
        memory_bytes: view.memory_bytes,
    }
}
