//! Commands that look.

use hyper::Request;
use proto::json;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::args::{Format, Get, Kind, Logs, Target};
use super::client::{Client, empty};
use super::failure::Failure;
use super::output;

/// Recent events that a description shows.
const EVENTS_SHOWN: usize = 10;

impl Kind {
    /// Returns the columns of its table, the name first.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Apps => &["name", "index", "deployed_at_ms", "functions"],
            Self::Functions => {
                &["name", "app", "phase", "live", "candidate", "instances", "revision.runtime", "reason"]
            }
            Self::Versions => &["name", "phase", "created_at_ms", "reason"],
            Self::Instances => {
                &["id", "function", "revision", "node", "phase", "purpose", "in_flight", "memory_bytes", "since_ms"]
            }
            Self::Nodes => &[
                "name",
                "id",
                "status",
                "is_leader",
                "instances",
                "held.cpu_milli",
                "grant.cpu_milli",
                "capacity.cpu_milli",
                "held.memory_bytes",
                "grant.memory_bytes",
                "capacity.memory_bytes",
            ],
            Self::Images => &["digest", "names", "size_bytes", "used_by"],
            Self::Events => &["at_ms", "kind", "about", "function", "revision", "instance", "message"],
        }
    }

    /// Returns the fields by which one of them is meant.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Apps | Self::Functions => &["name"],
            Self::Versions => &["name", "function"],
            Self::Instances => &["id", "function", "node"],
            Self::Nodes => &["name", "id"],
            Self::Images => &["digest", "names"],
            // Whoever tells it is not what it is about.
            Self::Events => &["function", "instance", "about"],
        }
    }

    /// Returns whether they say by its id which node they are on or about; people call it by its name.
    const fn speaks_of_nodes(self) -> bool {
        matches!(self, Self::Instances | Self::Events)
    }

    const fn singular(self) -> &'static str {
        match self {
            Self::Apps => "app",
            Self::Functions => "function",
            Self::Versions => "version",
            Self::Instances => "instance",
            Self::Nodes => "node",
            Self::Images => "image",
            Self::Events => "event",
        }
    }
}

/// Reads what a node answers.
struct Reader {
    client: Client,
    /// Take what the node knows, though it may lack what was acknowledged elsewhere.
    is_stale: bool,
}

impl Reader {
    fn find(target: &Target, is_stale: bool) -> Result<Self, Failure> {
        Ok(Self { client: Client::find(target)?, is_stale })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let query = if self.is_stale { "?stale=1" } else { "" };
        self.client.get(&format!("{path}{query}")).await
    }
}

/// Returns what runs, beside a description: it does not fail for a node that does not answer at this moment.
async fn running(reader: &Reader) -> Result<Vec<Value>, Failure> {
    reader.client.get("/v1/instances?stale=1").await
}

/// Returns everything of a kind.
async fn all(reader: &Reader, kind: Kind) -> Result<Vec<Value>, Failure> {
    let path = match kind {
        Kind::Apps => "/v1/apps",
        Kind::Functions => "/v1/functions",
        Kind::Instances => "/v1/instances",
        Kind::Nodes => "/v1/nodes",
        Kind::Images => "/v1/images",
        Kind::Events => "/v1/events",
        Kind::Versions => {
            let functions: Vec<Value> = reader.get("/v1/functions").await?;
            let mut versions = Vec::new();
            for function in functions.iter().filter_map(|function| function["name"].as_str()) {
                versions.extend(versions_of(reader, function).await?);
            }
            return Ok(versions);
        }
    };
    reader.get(path).await
}

/// Returns the revisions of a function, newest first, each with a name of its own.
async fn versions_of(reader: &Reader, function: &str) -> Result<Vec<Value>, Failure> {
    let mut versions: Vec<Value> = reader.get(&format!("/v1/functions/{function}/versions")).await?;
    for version in &mut versions {
        version["name"] = format!("{function}@{}", version["number"]).into();
    }
    Ok(versions)
}

/// Returns the id of each node and what people call it.
async fn names_of_nodes(reader: &Reader) -> Result<Vec<(String, String)>, Failure> {
    let nodes: Vec<Value> = reader.client.get("/v1/nodes?stale=1").await?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(nodes.iter().filter_map(|node| Some((text(&node["id"])?, text(&node["name"])?))).collect())
}

/// Returns what is meant by a name, or everything of a kind.
async fn find(reader: &Reader, kind: Kind, name: Option<&str>) -> Result<Vec<Value>, Failure> {
    let mut items = all(reader, kind).await?;
    let Some(name) = name else { return Ok(items) };
    let known = |item: &Value| -> Vec<String> {
        let fields = kind.names().iter().map(|field| &item[*field]);
        let texts = fields.flat_map(|value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]));
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let names: Vec<String> = items.iter().flat_map(known).collect();
    let nodes = if kind.speaks_of_nodes() { names_of_nodes(reader).await? } else { Vec::new() };
    let is_meant = |known: &String| known == name || nodes.iter().any(|(id, called)| id == known && called == name);
    items.retain(|item| known(item).iter().any(is_meant));
    // An event is about something; that nothing happened to it is an answer.
    if items.is_empty() && kind != Kind::Events {
        let told = format!("there is no {} {name}", kind.singular());
        let names = names.iter().chain(nodes.iter().map(|(_, called)| called));
        let hint = match crate::config::nearest(name, names.map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("`hearth get {}s` lists them", kind.singular()),
        };
        return Err(Failure::coded(json::ErrorCode::NotFound, told).hint(hint));
    }
    Ok(items)
}

pub(super) async fn get(target: &Target, arguments: Get) -> Result<(), Failure> {
    let reader = Reader::find(target, arguments.stale)?;
    let items = find(&reader, arguments.kind, arguments.name.as_deref()).await?;
    output::list(arguments.output, &items, arguments.kind.columns())
}

pub(super) async fn versions(target: &Target, function: &str, format: Format) -> Result<(), Failure> {
    let reader = Reader::find(target, false)?;
    let versions = versions_of(&reader, function).await?;
    output::list(format, &versions, Kind::Versions.columns())
}

pub(super) async fn describe(target: &Target, arguments: Get) -> Result<(), Failure> {
    let reader = Reader::find(target, arguments.stale)?;
    let found = find(&reader, arguments.kind, arguments.name.as_deref()).await?;
    let mut described = Vec::new();
    for item in found {
        described.push(everything(&reader, arguments.kind, item).await?);
    }
    match (described.as_slice(), arguments.output) {
        ([one], format) => output::document(format, one),
        (several, Format::Table) => several.iter().enumerate().try_for_each(|(at, item)| {
            if at > 0 {
                output::line("")?;
            }
            output::document(Format::Table, item)
        }),
        (several, format) => output::list(format, several, arguments.kind.columns()),
    }
}

/// Returns a thing with what belongs to it. Variables of functions are told by name: their values may be secrets.
async fn everything(reader: &Reader, kind: Kind, mut item: Value) -> Result<Value, Failure> {
    match kind {
        Kind::Functions => {
            hide_environment(&mut item["revision"]);
            item["urls"] = urls(reader, &item).await?;
            let name = item["name"].as_str().unwrap_or_default().to_owned();
            let versions = versions_of(reader, &name).await?;
            item["versions"] = pick(&versions, &["name", "phase", "created_at_ms", "reason"]);
            let running = running(reader).await?;
            item["running"] =
                about(&running, "function", &name, &["id", "revision", "phase", "in_flight", "memory_bytes"]);
            item["events"] = events(reader, "function", &name).await?;
        }
        Kind::Versions => {
            hide_environment(&mut item["spec"]);
            let mut running = running(reader).await?;
            let function = item["function"].as_str().unwrap_or_default();
            running.retain(|instance| instance["revision"] == item["number"]);
            item["running"] = about(&running, "function", function, &["id", "phase", "in_flight", "memory_bytes"]);
        }
        Kind::Instances => {
            let id = item["id"].as_str().unwrap_or_default().to_owned();
            item["events"] = events(reader, "instance", &id).await?;
        }
        Kind::Nodes => {
            let id = item["id"].as_str().unwrap_or_default().to_owned();
            let version: Value = reader.get("/v1/version").await?;
            if version["node"] == item["id"] {
                for field in ["version", "pid", "gateway", "api"] {
                    item[field] = version[field].clone();
                }
            }
            let running = running(reader).await?;
            let fields = ["id", "function", "revision", "phase", "in_flight", "memory_bytes"];
            item["running"] = about(&running, "node", &id, &fields);
        }
        Kind::Apps | Kind::Images | Kind::Events => {}
    }
    Ok(item)
}

/// Puts names in the place of the values of variables.
fn hide_environment(revision: &mut Value) {
    if let Some(variables) = revision["environment"].as_object() {
        revision["environment"] = variables.keys().cloned().collect();
    }
}

/// Returns where a function answers.
async fn urls(reader: &Reader, function: &Value) -> Result<Value, Failure> {
    let version: Value = reader.get("/v1/version").await?;
    let gateway = version["gateway"].as_str().unwrap_or_default();
    let by_name = format!("http://{gateway}/function/{}", function["name"].as_str().unwrap_or_default());
    let routes = function["triggers"].as_array().into_iter().flatten().filter_map(|trigger| {
        let path = trigger["path"].as_str()?;
        let methods: Vec<&str> =
            trigger["methods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let url = format!("http://{}{path}", trigger["host"].as_str().unwrap_or(gateway));
        Some(if methods.is_empty() { url } else { format!("{url} ({})", methods.join(", ")) })
    });
    Ok(routes.chain([by_name]).collect())
}

/// Returns the newest events about something, oldest first.
async fn events(reader: &Reader, field: &str, name: &str) -> Result<Value, Failure> {
    let events = all(reader, Kind::Events).await?;
    let mine: Vec<Value> = events.into_iter().filter(|event| event[field] == name).collect();
    let newest = &mine[mine.len().saturating_sub(EVENTS_SHOWN)..];
    Ok(pick(newest, &["at_ms", "kind", "message"]))
}

fn about(items: &[Value], field: &str, name: &str, fields: &[&str]) -> Value {
    let mine: Vec<Value> = items.iter().filter(|item| item[field] == name).cloned().collect();
    pick(&mine, fields)
}

/// Returns some fields of each item.
fn pick(items: &[Value], fields: &[&str]) -> Value {
    let pick =
        |item: &Value| fields.iter().map(|field| ((*field).to_owned(), item[*field].clone())).collect::<Map<_, _>>();
    items.iter().map(pick).map(Value::Object).collect()
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
        let request: String = form_urlencoded::byte_serialize(request.as_bytes()).collect();
        parameters.push(format!("request={request}"));
    }
    let path = format!("/v1/functions/{}/logs?{}", arguments.function, parameters.join("&"));
    let print = |line: json::LogLine| {
        match arguments.output {
            Format::Table | Format::Name => output::line(&line.text)?,
            Format::Json | Format::Jsonl | Format::Yaml => {
                let line = serde_json::to_value(&line).map_err(|error| Failure::of(&error))?;
                // A stream has no end to close a list at: one document per line.
                let format = if arguments.output == Format::Json { Format::Jsonl } else { arguments.output };
                if format == Format::Yaml {
                    output::line("---")?;
                }
                output::document(format, &line)?;
            }
        }
        Ok(true)
    };
    client.lines(Request::get(path), empty(), print).await
}
