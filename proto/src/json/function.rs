//! Functions and their revisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One function as a deployment asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Its name, unique in the cluster.
    pub name: String,
    /// What its instances run; a difference to the newest revision makes another revision.
    pub revision: RevisionSpec,
    /// How it scales; changed in place.
    pub scaling: Scaling,
    /// What invokes it beside its name; changed in place.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
}

/// What every instance of one revision runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionSpec {
    /// The contract its instances keep.
    pub runtime: Runtime,
    /// The digest of the image's manifest, `sha256:…`; none only in a plan of code that is not built.
    #[serde(default)]
    pub image: Option<String>,
    /// The argument vector; empty means the image's own entrypoint and command.
    #[serde(default)]
    pub command: Vec<String>,
    /// `module.function` for the runtimes that have one.
    #[serde(default)]
    pub handler: Option<String>,
    /// Environment of the process, beside what the contract defines.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// What one instance holds of its node.
    pub resources: Resources,
    /// How long an invocation may take, and an instance until it is ready.
    pub timeout_ms: u64,
    /// Invocations one instance serves at once.
    pub concurrency: u16,
    /// What the sandbox may reach.
    #[serde(default)]
    pub network: Network,
    /// The user id inside the sandbox; none means whom the image names, 1000 where it names nobody.
    #[serde(default)]
    pub user: Option<u32>,
    /// Where its instances may run.
    #[serde(default)]
    pub placement: Placement,
}

/// Where instances may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// What they are spread over.
    #[serde(default)]
    pub spread: Spread,
    /// Labels that a node must have, with these values.
    #[serde(default)]
    pub require: BTreeMap<String, String>,
}

/// What instances are spread over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Nothing: they are packed.
    #[default]
    None,
    /// The zones that nodes are labelled with.
    Zone,
}

/// The contract between an instance and its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// `handler(event, context)` in Python.
    Python3,
    /// `handler(event, context)` in Node.js.
    Nodejs,
    /// An executable that polls the AWS Lambda Runtime API.
    Provided,
    /// A process that serves HTTP/1.1 on `$PORT`.
    Http,
    /// An OCI image whose entrypoint does one of the last two.
    Image,
}

/// What a sandbox may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Only its own loopback interface.
    #[default]
    None,
    /// What lies beyond its node, but neither the node itself nor other sandboxes.
    Egress,
}

/// What an instance holds of its node, or what a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Processor time, in thousandths of a core.
    pub cpu_milli: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Size of `/tmp`.
    pub disk_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// How many instances a function may have, and how long idle ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// How many are always kept.
    pub min: u32,
    /// The most there may be.
    pub max: u32,
    /// The longest an idle instance stays.
    pub idle_max_ms: u64,
}

/// What invokes a function beside its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Trigger {
    /// HTTP requests by host, path and method.
    Http(HttpTrigger),
}

/// Which HTTP requests reach a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpTrigger {
    /// The host, lower case and without port; none means every host.
    #[serde(default)]
    pub host: Option<String>,
    /// The path; a final `/*` takes all below it too.
    pub path: String,
    /// The methods; empty means every method.
    #[serde(default)]
    pub methods: Vec<String>,
}

/// A function: `GET /v1/functions` lists them, `GET /v1/functions/FN` returns one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The app that owns it.
    pub app: String,
    /// Goes up whenever the function changes.
    pub index: u64,
    /// How it is doing.
    pub phase: FunctionPhase,
    /// Why, if the newest revision failed.
    pub reason: Option<String>,
    /// The revision that takes all traffic.
    pub live: Option<u32>,
    /// The revision that is being proved before it becomes live.
    pub candidate: Option<u32>,
    /// What the live revision runs, or the newest one while none is live.
    pub revision: RevisionSpec,
    /// How it scales.
    pub scaling: Scaling,
    /// What invokes it beside its name.
    pub triggers: Vec<Trigger>,
    /// How many instances it has, starting ones included.
    pub instances: u32,
}

/// How a function is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionPhase {
    /// A revision is live and no other is being proved.
    Serving,
    /// A revision is live and the next one is being proved.
    Updating,
    /// No revision is live yet; one is being proved.
    Starting,
    /// No revision is live and the newest one failed.
    Failed,
}

/// A revision: `GET /v1/functions/FN/versions`, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The function.
    pub function: String,
    /// Its number, counted from 1 per function.
    pub number: u32,
    /// How far it came.
    pub phase: RevisionPhase,
    /// Why, if it failed.
    pub reason: Option<String>,
    /// When it was deployed, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// What its instances run.
    pub spec: RevisionSpec,
}

/// How far a revision came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionPhase {
    /// It takes all traffic.
    Live,
    /// It is being proved before it becomes live.
    Candidate,
    /// It took traffic before, or was overtaken while it was being proved; one can roll back to it.
    Retired,
    /// Its instances do not start.
    Failed,
}

/// Makes an earlier revision live: `POST /v1/functions/FN/rollback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// The revision; none means the newest proved one before the live one.
    #[serde(default)]
    pub to: Option<u32>,
}

/// Changes how a function scales: `PUT /v1/functions/FN/scale`. What is none stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleRequest {
    /// How many instances are always kept.
    #[serde(default)]
    pub min: Option<u32>,
    /// The most there may be.
    #[serde(default)]
    pub max: Option<u32>,
    /// The longest an idle instance stays.
    #[serde(default)]
    pub idle_max_ms: Option<u64>,
}
