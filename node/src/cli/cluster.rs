//! Commands about the cluster: its members, join tokens, nodes on their way out.

use std::time::Duration;

use proto::json;
use serde_json::Value;

use super::args::Target;
use super::args_cluster::{Cluster, Node, Token};
use super::client::{Client, empty};
use super::failure::Failure;
use super::output;

pub(super) async fn cluster(target: &Target, command: Cluster) -> Result<(), Failure> {
    let client = Client::find(target)?;
    match command {
        Cluster::Status { output } => {
            let cluster: Value = client.get("/v1/cluster").await?;
            output::document(output, &cluster)
        }
        Cluster::Members { output } => {
            let cluster: json::Cluster = client.get("/v1/cluster").await?;
            output::list(output, &cluster.members, &["id", "name", "address", "role", "status", "is_leader"])
        }
        Cluster::TransferLeader { to } => {
            let request = json::TransferRequest { to };
            let leader: json::Leader = client.put("POST", "/v1/cluster/transfer-leader", &request).await?;
            output::say(&format!("{} leads", leader.leader));
            Ok(())
        }
        Cluster::Remove { node } => {
            client.ask(hyper::Request::delete(format!("/v1/nodes/{node}")), empty()).await?;
            output::say(&format!("{node} is removed"));
            output::say("hint: stop its agent; it joins again with an empty data directory and a new token");
            Ok(())
        }
    }
}

pub(super) async fn node(target: &Target, command: Node) -> Result<(), Failure> {
    let (node, draining) = match command {
        Node::Drain { node } => (node, true),
        Node::Undrain { node } => (node, false),
    };
    let client = Client::find(target)?;
    let _: json::Done = client.put("PUT", &format!("/v1/nodes/{node}/drain"), &json::DrainRequest { draining }).await?;
    output::say(&if draining {
        format!("{node} is being emptied; `hearth get instances` shows what is left on it")
    } else {
        format!("{node} takes work again")
    });
    Ok(())
}

pub(super) async fn token(target: &Target, command: Token) -> Result<(), Failure> {
    let Token::Create { ttl, uses, output } = command;
    let client = Client::find(target)?;
    let ttl_ms = ttl.map(|ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let token: json::JoinToken = client.put("POST", "/v1/tokens", &json::TokenRequest { ttl_ms, uses }).await?;
    match output {
        super::args::Format::Table | super::args::Format::Name => {
            output::line(&token.token)?;
            output::say(&format!("hint: on the other machine, `hearth agent --join {} --token …`", token.address));
            Ok(())
        }
        format => output::document(format, &serde_json::to_value(&token).map_err(|error| Failure::of(&error))?),
    }
}
