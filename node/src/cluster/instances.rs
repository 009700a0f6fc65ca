//! What runs on all nodes, asked of each.

use control_plane::model::NodeId;
use futures_util::future::join_all;
use proto::json;
use proto::v1;
use tokio::time::timeout;

use super::{ASK_MAX, Cluster};
use crate::agent::{InstanceView, Phase};
use crate::api::Running;
use crate::api::body::write_purpose;

impl Cluster {
    /// Returns what runs on this node.
    pub fn instances_here(&self) -> Vec<json::Instance> {
        let (node, traffic) = (self.node(), &self.0.traffic);
        let measured = self.0.instances.measure().into_iter();
        measured.map(|view| on_wire(node, traffic.in_flight_on(view.instance), view)).collect()
    }

    /// Returns what runs on all nodes that nobody declared dead, as far as they answer.
    pub async fn instances(&self) -> Running {
        let mut running = Running { instances: self.instances_here(), silent: Vec::new() };
        let Some(raft) = self.0.raft.get() else { return running };
        let asked = self.living_others(raft).into_iter().map(|(node, address)| async move {
            let mut peer = self.ask(raft, node, &address);
            let answered = timeout(ASK_MAX, peer.instances(v1::InstancesRequest {})).await;
            let answered = answered.map_err(|_| format!("no answer within {ASK_MAX:?}"));
            (node, answered.and_then(|answered| answered.map_err(|status| status.message().to_owned())))
        });
        for (node, answered) in join_all(asked).await {
            match answered {
                Ok(reply) => {
                    let texts = reply.into_inner().instances.into_iter();
                    running.instances.extend(texts.filter_map(|text| serde_json::from_str(&text).ok()));
                }
                Err(reason) => {
                    tracing::debug!(%node, reason, "its instances are not known");
                    running.silent.push(node);
                }
            }
        }
        running.instances.sort_by(|one, other| (&one.node, &one.id).cmp(&(&other.node, &other.id)));
        running
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
