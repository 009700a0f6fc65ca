//! Commands that look.

use hyper::Request;
use proto::json;
use serde_json::Value;

use super::args::{Format, Get, Kind, Logs, Target};
use super::client::{Client, empty};
use super::failure::Failure;
use super::output;

pub(super) async fn get(target: &Target, arguments: Get) -> Result<(), Failure> {
    let client = Client::find(target)?;
    let (path, columns): (&str, &[&str]) = match arguments.kind {
        Kind::Functions => ("/v1/functions", &["name", "app", "phase", "live", "instances"]),
        Kind::Instances => ("/v1/instances", &["id", "function", "revision", "node", "phase", "purpose"]),
        Kind::Nodes => ("/v1/nodes", &["name", "id"]),
        Kind::Events => ("/v1/events", &["at_ms", "kind", "function", "revision", "message"]),
        Kind::Versions => {
            let function = arguments.name.ok_or_else(|| Failure::exit(2, "versions of which function?"))?;
            return versions(target, &function, arguments.output).await;
        }
    };
    let mut items: Vec<Value> = client.get(path).await?;
    if let Some(name) = &arguments.name {
        let fields = ["name", "id", "function"];
        items.retain(|item| fields.iter().any(|field| item[*field] == name.as_str()));
        if items.is_empty() {
            return Err(Failure::coded(json::ErrorCode::NotFound, format!("there is no {name}")));
        }
    }
    output::list(arguments.output, &items, columns)
}

pub(super) async fn describe(target: &Target, arguments: Get) -> Result<(), Failure> {
    let output = if arguments.output == Format::Table { Format::Yaml } else { arguments.output };
    get(target, Get { output, ..arguments }).await
}

pub(super) async fn versions(target: &Target, function: &str, format: Format) -> Result<(), Failure> {
    let client = Client::find(target)?;
    let versions: Vec<Value> = client.get(&format!("/v1/functions/{function}/versions")).await?;
    output::list(format, &versions, &["number", "phase", "created_at_ms", "reason"])
}

pub(super) async fn logs(target: &Target, arguments: Logs) -> Result<(), Failure> {
    let client = Client::find(target)?;
    let mut parameters = vec![format!("follow={}", u8::from(arguments.follow))];
    if let Some(since) = arguments.since {
        let now = crate::clock::Clock::system().now().as_millis();
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        parameters.push(format!("since={}", now.saturating_sub(since)));
    }
    if let Some(request) = &arguments.request {
        parameters.push(format!("request={request}"));
    }
    let path = format!("/v1/functions/{}/logs?{}", arguments.function, parameters.join("&"));
    let print = |line: json::LogLine| {
        match arguments.output {
            Format::Table | Format::Name | Format::Yaml => output::line(&line.text)?,
            Format::Json | Format::Jsonl => {
                output::line(&serde_json::to_string(&line).map_err(|error| Failure::of(&error))?)?;
            }
        }
        Ok(true)
    };
    client.lines(Request::get(path), empty(), print).await
}
