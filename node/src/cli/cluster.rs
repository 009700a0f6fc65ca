//! Commands about the cluster: its members, join tokens, nodes on their way out.

use std::time::Duration;

use proto::json;
use serde_json::Value;

use super::args::{Format, Target};
use super::args_cluster::{Cluster, Node, Token};
use super::client::{Client, empty};
use super::failure::Failure;
use super::output;

/// How often it is looked whether a node votes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn cluster(target: &Target, command: Cluster) -> Result<(), Failure> {
    let client = Client::find(target)?;
    match command {
        Cluster::Status { output } => {
            let cluster: Value = client.get("/v1/cluster").await?;
            output::document(output, &cluster)
        }
        Cluster::Members { output } => {
            let cluster: json::Cluster = client.get("/v1/cluster").await?;
            output::list(
                output,
                &cluster.members,
                &["id", "name", "address", "role", "status", "is_leader", "is_promoted"],
            )
        }
        Cluster::TransferLeader { to } => {
            let request = json::TransferRequest { to };
            let leader: json::Leader = client.put("POST", "/v1/cluster/transfer-leader", &request).await?;
            output::say(&format!("{} leads", leader.leader));
            Ok(())
        }
        Cluster::Promote { node, wait, output } => promote(&client, &node, wait, output).await,
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
        Node::Label { node, labels, output } => return label(target, &node, &labels, output).await,
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

async fn label(target: &Target, node: &str, labels: &[String], format: Format) -> Result<(), Failure> {
    let request = parse_labels(labels)?;
    let client = Client::find(target)?;
    let labels: Value = client.put("PUT", &format!("/v1/nodes/{node}/labels"), &request).await?;
    output::document(format, &labels)
}

/// Returns what is to be set and what to be taken back.
fn parse_labels(texts: &[String]) -> Result<json::LabelRequest, Failure> {
    let mut request = json::LabelRequest::default();
    for text in texts {
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) => {
                if request.set.insert(key.to_owned(), value.to_owned()).is_some() {
                    return Err(Failure::exit(2, format!("label {key} is given twice")));
                }
            }
            (None, Some(key)) => request.unset.push(key.to_owned()),
            (None, None) => {
                return Err(Failure::exit(2, format!("{text:?} is no label"))
                    .hint("KEY=VALUE sets one, KEY- takes back what was set"));
            }
        }
    }
    Ok(request)
}

/// Wants a node to vote, and waits until it does.
async fn promote(client: &Client, node: &str, wait: Duration, format: Format) -> Result<(), Failure> {
    let _: json::Done = client.put("POST", &format!("/v1/nodes/{node}/promote"), &serde_json::json!({})).await?;
    let deadline = tokio::time::Instant::now() + wait;
    let mut is_told = false;
    loop {
        let cluster: json::Cluster = client.get("/v1/cluster").await?;
        let member = cluster.members.iter().find(|member| member.id == node || member.name == node);
        let member = member.ok_or_else(|| {
            Failure::coded(json::ErrorCode::NotFound, format!("{node} was removed from the cluster meanwhile"))
        })?;
        let (votes, is_over) = (member.role == json::Role::Voter, tokio::time::Instant::now() >= deadline);
        if !is_told {
            output::say(&match votes {
                true => format!("{node} votes and is to go on"),
                false => format!("{node} is to vote, as soon as it has the log"),
            });
            is_told = true;
        }
        if votes || wait.is_zero() {
            return output::document(format, &serde_json::to_value(member).map_err(|error| Failure::of(&error))?);
        }
        if is_over {
            let status = match member.status {
                json::NodeStatus::Ready => "ready",
                json::NodeStatus::Draining => "draining",
                json::NodeStatus::Dead => "dead",
                json::NodeStatus::Joining => "joining",
                json::NodeStatus::Unknown => "there",
            };
            let told = format!("{node} does not vote yet: it is {status} and lacks some of the log");
            return Err(Failure::coded(json::ErrorCode::Timeout, told)
                .hint("it votes as soon as it has the log; `hearth cluster members` tells"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) async fn token(target: &Target, command: Token) -> Result<(), Failure> {
    let Token::Create { ttl, uses, output } = command;
    let client = Client::find(target)?;
    let ttl_ms = ttl.map(|ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let token: json::JoinToken = client.put("POST", "/v1/tokens", &json::TokenRequest { ttl_ms, uses }).await?;
    match output {
        Format::Table | Format::Name => {
            output::line(&token.token)?;
            output::say(&format!("hint: on the other machine, `hearth agent --join {} --token …`", token.address));
            Ok(())
        }
        format => output::document(format, &serde_json::to_value(&token).map_err(|error| Failure::of(&error))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_taken_back_in_one_go() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let request = parse_labels(&texts(&["disk=ssd", "rack-", "note=a=b-", "empty="])).expect("they are labels");
        let set = [("disk", "ssd"), ("note", "a=b-"), ("empty", "")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(request, json::LabelRequest { set: set.into(), unset: vec!["rack".to_owned()] });
        for wrong in [&["disk"][..], &["disk=a", "disk=b"]] {
            assert_eq!(parse_labels(&texts(wrong)).expect_err("they are none").exit_code(), 2, "{wrong:?}");
        }
    }
}
