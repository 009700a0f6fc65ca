//! The description of the API, made out of the routes and out of what serde does with one sample of every body.
//!
//! `UPDATE_EXPECT=1` writes it anew. A field that is added to a body breaks its sample, which does not compile without it.

use std::collections::BTreeMap;

use expect_test::expect_file;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::super::routes::ROUTES;
use super::*;

/// What goes in and out of each route: parameters behind the `?`, the request's body, the answer's body.
const BODIES: &[(&str, &str, &[&str], &str, &str)] = &[
    ("GET", "/v1/version", &[], "", "Version"),
    ("GET", "/v1/openapi.json", &[], "", "any"),
    ("GET", "/v1/apps", &[], "", "[App]"),
    ("GET", "/v1/apps/{app}", &[], "", "App"),
    ("PUT", "/v1/apps/{app}", &["detach", "timeout_ms"], "DeployRequest", "lines DeployEvent"),
    ("DELETE", "/v1/apps/{app}", &[], "", "Done"),
    ("POST", "/v1/apps/{app}/plan", &[], "PlanRequest", "Plan"),
    ("POST", "/v1/apps/{app}/functions/{function}/build", &[], "tar", "lines ImageEvent"),
    ("GET", "/v1/functions", &[], "", "[Function]"),
    ("GET", "/v1/functions/{function}", &[], "", "Function"),
    ("DELETE", "/v1/functions/{function}", &[], "", "Done"),
    ("GET", "/v1/functions/{function}/versions", &[], "", "[Revision]"),
    ("POST", "/v1/functions/{function}/rollback", &[], "RollbackRequest", "RevisionRef"),
    ("PUT", "/v1/functions/{function}/scale", &[], "ScaleRequest", "Done"),
    ("POST", "/v1/functions/{function}/invoke", &["revision", "timeout_ms"], "any", "any"),
    ("GET", "/v1/functions/{function}/logs", &["since", "request", "limit", "follow"], "", "lines LogLine"),
    ("GET", "/v1/instances", &["stale"], "", "[Instance]"),
    ("GET", "/v1/nodes", &[], "", "[Node]"),
    ("DELETE", "/v1/nodes/{node}", &[], "", "Done"),
    ("PUT", "/v1/nodes/{node}/drain", &[], "DrainRequest", "Done"),
    ("PUT", "/v1/nodes/{node}/labels", &[], "LabelRequest", "NodeLabels"),
    ("POST", "/v1/nodes/{node}/promote", &[], "", "Done"),
    ("GET", "/v1/cluster", &[], "", "Cluster"),
    ("POST", "/v1/cluster/transfer-leader", &[], "TransferRequest", "Leader"),
    ("POST", "/v1/tokens", &[], "TokenRequest", "JoinToken"),
    ("GET", "/v1/images", &[], "", "[Image]"),
    ("POST", "/v1/images/pull", &[], "PullRequest", "lines ImageEvent"),
    ("POST", "/v1/images/import", &["tag", "name"], "tar", "lines ImageEvent"),
    ("POST", "/v1/images/capture", &[], "CaptureRequest", "lines ImageEvent"),
    ("POST", "/v1/images/gc", &[], "", "GcReport"),
    ("GET", "/v1/snapshot", &["images"], "", "bytes"),
    ("PUT", "/v1/snapshot", &[], "bytes", "Restored"),
    ("GET", "/v1/events", &[], "", "[Event]"),
    ("GET", "/metrics", &[], "", "text"),
    ("GET", "/healthz", &[], "", "text"),
    ("GET", "/readyz", &[], "", "Readiness"),
];

/// Schemas by name, and the sample each was made of.
#[derive(Default)]
struct Schemas {
    made: BTreeMap<&'static str, Value>,
    samples: Vec<(&'static str, Value)>,
}

/// Returns whether serde takes `value` for a `T`.
fn takes<T: DeserializeOwned>(value: &Value) -> bool {
    serde_json::from_value::<T>(value.clone()).is_ok()
}

/// Returns the place at a path of keys.
fn place<'a>(value: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(value, |value, key| &mut value[key.as_str()])
}

impl Schemas {
    /// Makes the schema of a body out of one sample of it with every field set.
    fn add<T: Serialize + DeserializeOwned>(&mut self, name: &'static str, sample: T) {
        let value = serde_json::to_value(&sample).unwrap();
        let schema = self.object::<T>(&value, &mut Vec::new());
        self.made.insert(name, schema);
        self.samples.push((name, value));
    }

    /// Makes the schema of a body that takes several shapes, out of one sample of each.
    fn add_choice<T: Serialize + DeserializeOwned>(&mut self, name: &'static str, tag: &str, samples: Vec<T>) {
        let mut shapes = Vec::new();
        for sample in samples {
            let value = serde_json::to_value(&sample).unwrap();
            let mut schema = self.object::<T>(&value, &mut Vec::new());
            schema["properties"][tag] = json!({"const": value[tag]});
            shapes.push(schema);
            self.samples.push((name, value));
        }
        self.made.insert(name, json!({"oneOf": shapes}));
    }

    /// Makes the schema of a closed set of words.
    fn add_words<T: Serialize>(&mut self, name: &'static str, words: &[T]) {
        self.made.insert(name, json!({"type": "string", "enum": words}));
    }

    /// Describes an object inside of `root`, a sample of `T`.
    fn object<T: DeserializeOwned>(&self, root: &Value, path: &mut Vec<String>) -> Value {
        let mut copy = root.clone();
        let fields = place(&mut copy, path).as_object().expect("a body is an object").clone();
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (key, value) in fields {
            path.push(key.clone());
            let mut without = root.clone();
            place(&mut without, &path[..path.len() - 1]).as_object_mut().unwrap().remove(&key);
            if !takes::<T>(&without) {
                required.push(Value::from(key.clone()));
            }
            let mut null = root.clone();
            *place(&mut null, path) = Value::Null;
            let mut schema = self.field::<T>(root, &value, path);
            if takes::<T>(&null) {
                schema = json!({"oneOf": [schema, {"type": "null"}]});
            }
            properties.insert(key, schema);
            path.pop();
        }
        json!({"type": "object", "properties": properties, "required": required})
    }

    fn field<T: DeserializeOwned>(&self, root: &Value, value: &Value, path: &mut Vec<String>) -> Value {
        let refer = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        if value.is_object()
            && let Some((name, _)) = self.samples.iter().find(|(_, sample)| sample == value)
        {
            return refer(name);
        }
        let takes = |replacement: Value| {
            let mut changed = root.clone();
            *place(&mut changed, path) = replacement;
            takes::<T>(&changed)
        };
        match value {
            Value::Bool(_) => json!({"type": "boolean"}),
            Value::Number(_) => json!({"type": "integer", "minimum": 0}),
            Value::String(_) => {
                let words = self.made.iter().find(|(_, schema)| {
                    let words = schema["enum"].as_array().into_iter().flatten();
                    schema["enum"].is_array() && words.clone().any(|word| word == value) && words.cloned().all(&takes)
                });
                words.map_or_else(|| json!({"type": "string"}), |(name, _)| refer(name))
            }
            Value::Array(items) => {
                let item = items.first().expect("a sample has no empty list");
                let schema = self.samples.iter().find(|(_, sample)| sample == item);
                let schema = schema.map_or_else(|| json!({"type": "string"}), |(name, _)| refer(name));
                json!({"type": "array", "items": schema})
            }
            Value::Object(_) => json!({"type": "object", "additionalProperties": {"type": "string"}}),
            Value::Null => panic!("{path:?} is not set in its sample"),
        }
    }
}

fn schemas() -> BTreeMap<&'static str, Value> {
    use json::*;
    let mut s = Schemas::default();
    s.add_words("ErrorCode", ErrorCode::ALL);
    s.add_words("Runtime", &[Runtime::Python3, Runtime::Nodejs, Runtime::Provided, Runtime::Http, Runtime::Image]);
    s.add_words("Network", &[Network::None, Network::Egress]);
    s.add_words("Spread", &[Spread::None, Spread::Zone]);
    let changes = [Change::Created, Change::Revised, Change::Adjusted, Change::Unchanged, Change::Deleted];
    s.add_words("Change", &changes);
    let phases = [FunctionPhase::Serving, FunctionPhase::Updating, FunctionPhase::Starting, FunctionPhase::Failed];
    s.add_words("FunctionPhase", &phases);
    let phases = [RevisionPhase::Live, RevisionPhase::Candidate, RevisionPhase::Retired, RevisionPhase::Failed];
    s.add_words("RevisionPhase", &phases);
    let phases = [InstancePhase::Starting, InstancePhase::Ready, InstancePhase::Draining, InstancePhase::Stopping];
    s.add_words("InstancePhase", &phases);
    s.add_words("Purpose", &[Purpose::Demand, Purpose::Verify, Purpose::Minimum]);
    s.add_words("LogStream", &[LogStream::Stdout, LogStream::Stderr]);
    let kinds = [
        EventKind::Deployed,
        EventKind::Promoted,
        EventKind::RevisionFailed,
        EventKind::Restored,
        EventKind::Scaled,
        EventKind::InstanceReady,
        EventKind::InstanceStopped,
        EventKind::InstanceFailed,
        EventKind::NodeStarted,
        EventKind::NodeJoined,
        EventKind::NodeRemoved,
        EventKind::NodeDead,
        EventKind::NodeBack,
        EventKind::NodeDrained,
        EventKind::NodeUndrained,
        EventKind::VoterAdded,
        EventKind::VoterRemoved,
        EventKind::LeaderChanged,
        EventKind::Placed,
        EventKind::NotPlaced,
        EventKind::Other,
    ];
    s.add_words("EventKind", &kinds);

    s.add("ErrorBody", samples::error());
    s.add("Resources", samples::resources());
    s.add("Scaling", samples::scaling());
    s.add_choice("Trigger", "type", vec![Trigger::Http(samples::http_trigger())]);
    s.add("Placement", samples::placement());
    s.add("RevisionSpec", samples::revision_spec());
    s.add("FunctionSpec", samples::function_spec());
    s.add("Function", samples::function());
    s.add("Revision", samples::revision());
    s.add("RevisionRef", samples::revision_ref());
    s.add("RollbackRequest", RollbackRequest { to: Some(2) });
    s.add("ScaleRequest", ScaleRequest { min: Some(1), max: Some(2), idle_max_ms: Some(1000) });
    s.add("AppliedFunction", samples::applied());
    s.add("FieldDiff", samples::field_diff());
    s.add("FunctionDiff", samples::function_diff());
    let functions = vec!["resize".into()];
    s.add("App", App { name: "shop".into(), index: 4, deployed_at_ms: 1_700_000_000_000, functions });
    s.add("DeployRequest", DeployRequest { functions: vec![samples::function_spec()], check_index: Some(4) });
    s.add("PlanRequest", PlanRequest { functions: vec![samples::function_spec()] });
    s.add("Plan", Plan { app: "shop".into(), index: 4, functions: vec![samples::function_diff()] });
    let failed = DeployEvent::Failed { function: "resize".into(), revision: 3, reason: "it exited".into() };
    let accepted = DeployEvent::Accepted { index: 4, functions: vec![samples::applied()] };
    let serving = DeployEvent::Serving(samples::revision_ref());
    let done = DeployEvent::Done { index: 4 };
    s.add_choice("DeployEvent", "event", vec![accepted, serving, failed, done, DeployEvent::Error(samples::error())]);
    let request = BuildRequest {
        runtime: Runtime::Python3,
        handler: Some("app.handler".into()),
        command: vec!["./serve".into()],
        dependencies: Some("requirements.txt".into()),
        base: Some("python3".into()),
    };
    s.add("BuildRequest", request);
    let events = vec![
        ImageEvent::Progress { step: "installing".into(), done: 1, total: Some(2) },
        ImageEvent::Output { text: "Collecting pillow".into() },
        ImageEvent::Done { image: format!("sha256:{}", "0a".repeat(32)), reused: true, size_bytes: 1 },
        ImageEvent::Error(samples::error()),
    ];
    s.add_choice("ImageEvent", "event", events);
    let names = vec!["python3".into()];
    let used_by = vec!["resize@3".into()];
    s.add("Image", Image { digest: format!("sha256:{}", "0a".repeat(32)), names, size_bytes: 1, used_by });
    s.add("PullRequest", PullRequest { reference: "registry.example/base:1".into() });
    s.add("CaptureRequest", CaptureRequest { what: "python3".into(), name: Some("base".into()) });
    s.add("GcReport", GcReport { images: 1, blobs: 3, freed_bytes: 4 });
    s.add("Instance", samples::instance());
    s.add("Node", samples::node());
    s.add("Member", samples::cluster().members.remove(0));
    s.add("Cluster", samples::cluster());
    s.add("TokenRequest", TokenRequest { ttl_ms: Some(600_000), uses: Some(1) });
    s.add("JoinToken", samples::join_token());
    s.add("DrainRequest", DrainRequest { draining: true });
    let labels = samples::node().labels;
    s.add("LabelRequest", LabelRequest { set: labels.clone(), unset: vec!["disk".into()] });
    s.add("NodeLabels", NodeLabels { id: "node-1".into(), labels: labels.clone(), labels_set: labels });
    s.add("TransferRequest", TransferRequest { to: Some("node-2".into()) });
    s.add("Leader", Leader { leader: "node-2".into() });
    s.add("LogLine", samples::log_line());
    s.add("Event", samples::event());
    s.add("Done", Done { index: 4 });
    let missing = MissingImage { image: format!("sha256:{}", "0a".repeat(32)), used_by: vec!["resize@3".into()] };
    s.add("MissingImage", missing.clone());
    s.add("Restored", Restored { index: 4, apps: 1, functions: 2, revisions: 3, missing: vec![missing] });
    s.add("Version", samples::version());
    s.add("Readiness", Readiness { ready: false, reasons: vec!["the log is being replayed".into()] });
    s.made
}

fn content(body: &str, known: &BTreeMap<&str, Value>) -> Value {
    let refer = |name: &str| {
        assert!(known.contains_key(name), "there is no body {name}");
        json!({"$ref": format!("#/components/schemas/{name}")})
    };
    if let Some(name) = body.strip_prefix("lines ") {
        return json!({json::NDJSON: {"schema": refer(name)}});
    }
    if let Some(name) = body.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return json!({"application/json": {"schema": {"type": "array", "items": refer(name)}}});
    }
    match body {
        "any" => json!({"application/json": {}}),
        "text" => json!({"text/plain": {}}),
        "bytes" => json!({"application/octet-stream": {}}),
        "tar" => json!({"application/x-tar": {}}),
        name => json!({"application/json": {"schema": refer(name)}}),
    }
}

/// Describes the names of apps and functions.
fn name_schema() -> Value {
    let most = control_plane::model::NAME_LENGTH_MAX;
    json!({"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$", "maxLength": most})
}

fn document() -> Value {
    let schemas = schemas();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in ROUTES {
        let (_, _, parameters, request, answer) = BODIES
            .iter()
            .find(|(method, path, ..)| *method == route.method && *path == route.path)
            .unwrap_or_else(|| panic!("{} {} is in no list of bodies", route.method, route.path));
        let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut described: Vec<Value> = in_path
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": name_schema()}))
            .collect();
        for name in *parameters {
            let schema = match *name {
                "request" => json!({"type": "string"}),
                "detach" | "follow" | "images" | "stale" => json!({"type": "integer", "enum": [0, 1]}),
                "limit" => json!({"type": "integer", "minimum": 0, "maximum": crate::api::LINES_MAX}),
                _ => json!({"type": "integer", "minimum": 0}),
            };
            described.push(json!({"name": name, "in": "query", "schema": schema}));
        }
        if *request == "tar" {
            let about = "the standard base64 of a BuildRequest in JSON";
            described.push(json!({
                "name": json::BUILD_HEADER, "in": "header", "required": true, "description": about,
                "schema": {"type": "string"},
            }));
        }
        let failure = content("ErrorBody", &schemas);
        let mut operation = json!({
            "summary": route.summary,
            "parameters": described,
            "responses": {
                "200": {"description": "it is done", "content": content(answer, &schemas)},
                "default": {"description": "it is not done", "content": failure},
            },
        });
        if !request.is_empty() {
            operation["requestBody"] = json!({"content": content(request, &schemas)});
        }
        if !route.path.starts_with("/v1") {
            operation["security"] = json!([]);
        }
        paths.entry(route.path).or_default().insert(route.method.as_str().to_ascii_lowercase(), operation);
    }
    let about =
        "Over the Unix socket no token is needed. Fields are added, never renamed; pass over those you do not know.";
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Hearth", "version": "v1", "description": about},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    })
}

#[test]
fn the_description_is_that_of_the_routes_and_the_bodies() {
    assert_eq!(BODIES.len(), ROUTES.len(), "a list of bodies has no route");
    let mut text = serde_json::to_string_pretty(&document()).unwrap();
    text.push('\n');
    expect_file!["../openapi.json"].assert_eq(&text);
}
