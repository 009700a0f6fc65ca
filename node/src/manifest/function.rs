//! One function of a manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::model::{
    Bytes, CONCURRENCY_MAX, Concurrency, Constraints, FunctionName, INSTANCES_MAX, MilliCpu, Network, Resources,
    Runtime, Scaling, Trigger,
};
use proto::json;

use super::problem::{Collector, get};
use super::tree::{Entry, Node, Value};
use super::{placement, quantity, source, trigger};
use crate::api::body::write_placement;
use crate::config::nearest;

/// The keys of a function.
pub(super) const KEYS: [&str; 18] = [
    "runtime",
    "source",
    "handler",
    "command",
    "base",
    "dependencies",
    "memory",
    "cpu",
    "disk",
    "pids",
    "timeout",
    "concurrency",
    "env",
    "network",
    "user",
    "scale",
    "placement",
    "trigger",
];

/// The keys of `scale`.
pub(super) const SCALE_KEYS: [&str; 3] = ["min", "max", "max-idle"];

/// Keys that later versions honour.
pub(super) const PLANNED_KEYS: [&str; 2] = ["rollout", "secrets"];

/// Variables that the platform sets itself.
const RESERVED_VARIABLES: [&str; 2] = ["AWS_LAMBDA_RUNTIME_API", "PORT"];

/// The most that all variables of a function may hold, names included, in bytes.
const ENVIRONMENT_MAX_BYTES: usize = 64 * 1024;

/// The most arguments of a command.
const ARGUMENTS_MAX: usize = 256;

/// The least and the most memory of an instance.
const MEMORY: (Bytes, Bytes) = (Bytes::mebi(8), Bytes::mebi(1 << 20));

/// The least and the most size of `/tmp`.
const DISK: (Bytes, Bytes) = (Bytes::mebi(1), Bytes::mebi(1 << 20));

/// The fewest and the most tasks of an instance.
const PIDS: (u32, u32) = (4, 32_768);

/// The shortest and the longest timeout.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(24 * 3600));

/// The longest an idle instance may be asked to stay.
const IDLE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The largest user id: those above have no place in the user namespace of a sandbox.
const USER_MAX: u32 = 65_534;

/// What an instance gets unless its manifest says otherwise.
const RESOURCES_DEFAULT: Resources =
    Resources { cpu: MilliCpu(500), memory: Bytes::mebi(256), disk: Bytes::mebi(512), pids: 1024 };

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// One function as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    /// The contract its instances keep.
    pub runtime: Runtime,
    /// Its code: a folder or a file, below the folder of the manifest; none only for an image that `base` names.
    pub source: Option<PathBuf>,
    /// `module.function`; present exactly for the runtimes that have one.
    pub handler: Option<String>,
    /// The argument vector; never empty for `provided` and `http`.
    pub command: Vec<String>,
    /// What lies under the code, if not what its runtime has by itself.
    pub base: Option<String>,
    /// The file that lists dependencies, as a path inside the source.
    pub dependencies: Option<String>,
    /// Environment of its process.
    pub environment: BTreeMap<String, String>,
    /// What one instance holds of its node.
    pub resources: Resources,
    /// How long an invocation may take.
    pub timeout: Duration,
    /// Invocations one instance serves at once.
    pub concurrency: Concurrency,
    /// What its sandbox may reach.
    pub network: Network,
    /// The user id inside its sandbox, if it says so.
    pub user: Option<u32>,
    /// Where its instances may run.
    pub placement: Constraints,
    /// How it scales.
    pub scaling: Scaling,
    /// What invokes it beside its name.
    pub triggers: Vec<Trigger>,
}

impl Function {
    /// Returns what the API needs to build its image.
    pub fn build_request(&self) -> json::BuildRequest {
        json::BuildRequest {
            runtime: runtime_on_wire(self.runtime),
            handler: self.handler.clone(),
            command: self.command.clone(),
            dependencies: self.dependencies.clone(),
            base: self.base.clone(),
        }
    }

    /// Returns the function as a deployment asks for it; without `image` it is good for a plan alone.
    pub fn spec(&self, image: Option<String>) -> json::FunctionSpec {
        json::FunctionSpec {
            name: self.name.to_string(),
            revision: json::RevisionSpec {
                runtime: runtime_on_wire(self.runtime),
                image,
                command: self.command.clone(),
                handler: self.handler.clone(),
                environment: self.environment.clone(),
                resources: json::Resources {
                    cpu_milli: self.resources.cpu.0,
                    memory_bytes: self.resources.memory.0,
                    disk_bytes: self.resources.disk.0,
                    pids: self.resources.pids,
                },
                timeout_ms: millis(self.timeout),
                concurrency: self.concurrency.get(),
                network: match self.network {
                    Network::None => json::Network::None,
                    Network::Egress => json::Network::Egress,
                },
                user: self.user,
                placement: write_placement(&self.placement),
            },
            scaling: json::Scaling {
                min: self.scaling.min(),
                max: self.scaling.max(),
                idle_max_ms: millis(self.scaling.idle_max()),
            },
            triggers: self.triggers.iter().map(trigger_on_wire).collect(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn runtime_on_wire(runtime: Runtime) -> json::Runtime {
    match runtime {
        Runtime::Python3 => json::Runtime::Python3,
        Runtime::Nodejs => json::Runtime::Nodejs,
        Runtime::Provided => json::Runtime::Provided,
        Runtime::Http => json::Runtime::Http,
        Runtime::Image => json::Runtime::Image,
    }
}

fn trigger_on_wire(trigger: &Trigger) -> json::Trigger {
    match trigger {
        Trigger::Http(http) => json::Trigger::Http(json::HttpTrigger {
            host: http.host.clone(),
            path: http.path.as_str().to_owned(),
            methods: http.methods.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// Reads one function; with the manifest's `folder` its source is looked at too.
pub(super) fn read(entry: &Entry, folder: Option<&Path>, problems: &mut Collector) -> Option<Function> {
    let name = entry.key.parse::<FunctionName>().map_err(|error| problems.add(&entry.key_span, error, "")).ok();
    let entries = problems.table(&format!("function {}", entry.key), &entry.node)?;
    problems.check_keys(&format!(" in function {}", entry.key), entries, &KEYS, &PLANNED_KEYS);
    let runtime = runtime(entry, entries, problems);
    let settings = Settings::read(entries, problems);
    let code = Code::read(entry, entries, runtime, problems);
    let (code, settings) = (code?, settings?);
    let function = Function {
        name: name?,
        runtime: runtime?,
        source: code.source.map(|source| folder.unwrap_or(Path::new("")).join(source).components().collect()),
        handler: code.handler,
        command: code.command,
        base: code.base.map(|base| beside(&base, folder)),
        dependencies: code.dependencies,
        environment: settings.environment,
        resources: settings.resources,
        timeout: settings.timeout,
        concurrency: settings.concurrency,
        network: settings.network,
        user: settings.user,
        placement: settings.placement,
        scaling: settings.scaling,
        triggers: settings.triggers,
    };
    if folder.is_some() {
        let place = |key| get(entries, key).map(|node| node.span.clone()).unwrap_or_default();
        let places = source::Places {
            source: place("source"),
            handler: place("handler"),
            dependencies: place("dependencies"),
            command: place("command"),
        };
        source::check(&function, &places, problems);
    }
    Some(function)
}

/// Returns a base that is the path of a layout as seen from the manifest's folder, any other as it is.
fn beside(base: &str, folder: Option<&Path>) -> String {
    let (kind, path) = match base.strip_prefix("oci:") {
        Some(path) => ("oci:", path),
        None if base.starts_with("./") || base.starts_with("../") => ("oci:", base),
        None => return base.to_owned(),
    };
    let joined: PathBuf = folder.unwrap_or(Path::new("")).join(path).components().collect();
    format!("{kind}{}", joined.display())
}

fn runtime(entry: &Entry, entries: &[Entry], problems: &mut Collector) -> Option<Runtime> {
    let names = Runtime::ALL.map(Runtime::as_str);
    let Some(node) = get(entries, "runtime") else {
        let message = format!("function {} has no runtime", entry.key);
        problems.add(&entry.key_span, message, format!("add runtime = \"…\": one of {}", names.join(", ")));
        return None;
    };
    let text = problems.text("runtime", node, "python3")?;
    text.parse()
        .map_err(|_| {
            // What people write who come from elsewhere: python3.12, nodejs22.x, node, python.
            let stem = text.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | 'x'));
            let known = match stem {
                "python" => Some("python3"),
                "node" | "nodejs" => Some("nodejs"),
                _ => nearest(text, names),
            };
            let note = match known {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("it is one of {}", names.join(", ")),
            };
            problems.add(&node.span, format!("there is no runtime {text:?}"), note);
        })
        .ok()
}

/// What is built.
struct Code {
    source: Option<PathBuf>,
    handler: Option<String>,
    command: Vec<String>,
    base: Option<String>,
    dependencies: Option<String>,
}

impl Code {
    fn read(entry: &Entry, entries: &[Entry], runtime: Option<Runtime>, problems: &mut Collector) -> Option<Self> {
        let text = |key: &str, example: &str, problems: &mut Collector| match get(entries, key) {
            None => Some(None),
            Some(node) => problems.text(key, node, example).map(|text| Some(text.to_owned())),
        };
        let source = text("source", "./resize", problems);
        let base = text("base", "registry.local/base:1", problems);
        let dependencies = text("dependencies", "requirements.txt", problems);
        let handler = handler(entries, problems);
        let command = get(entries, "command").map_or(Some(Vec::new()), |node| command(node, problems));
        let runtime = runtime?;
        let name = &entry.key;
        let mut refuse = |key: &str, why: &str| {
            if let Some(found) = entries.iter().find(|entry| entry.key == key) {
                problems.add(&found.key_span, format!("{key} has no meaning for runtime {runtime}"), why);
            }
        };
        match runtime {
            Runtime::Python3 | Runtime::Nodejs => refuse("command", "its handler is what runs"),
            Runtime::Provided => refuse("handler", "its command is what runs; env = { _HANDLER = \"…\" } names one"),
            Runtime::Http => refuse("handler", "its command is what runs"),
            Runtime::Image => {
                refuse("handler", "its command or entrypoint is what runs");
                refuse("dependencies", "an image holds them already");
            }
        }
        let mut require = |key: &str, note: &str| {
            if get(entries, key).is_none() {
                problems.add(&entry.key_span, format!("function {name} has no {key}"), note);
            }
        };
        match runtime {
            Runtime::Python3 | Runtime::Nodejs => require("handler", "add handler = \"MODULE.FUNCTION\""),
            Runtime::Http => require("command", "add command = [\"PROGRAM\", \"ARGUMENT\"]: it serves $PORT"),
            Runtime::Provided | Runtime::Image => {}
        }
        if runtime != Runtime::Image {
            require("source", "add source = \"./FOLDER\"");
        } else if get(entries, "base").is_none() {
            require("source", "add source = \"./LAYOUT\" or base = \"REGISTRY/NAME:TAG\"");
        }
        let mut command = command?;
        if runtime == Runtime::Provided && command.is_empty() {
            command = vec!["./bootstrap".to_owned()];
        }
        Some(Self {
            source: source?.map(PathBuf::from),
            handler: handler?,
            command,
            base: base?,
            dependencies: dependencies?,
        })
    }
}

fn handler(entries: &[Entry], problems: &mut Collector) -> Option<Option<String>> {
    let Some(node) = get(entries, "handler") else { return Some(None) };
    let text = problems.text("handler", node, "app.handler")?;
    let well_formed = text
        .rsplit_once('.')
        .is_some_and(|(module, function)| !module.is_empty() && !function.is_empty() && !function.contains('/'));
    if !well_formed || text.chars().any(char::is_whitespace) {
        let note = "it is MODULE.FUNCTION, for example \"app.handler\"";
        problems.add(&node.span, format!("{text:?} is no handler"), note);
        return None;
    }
    Some(Some(text.to_owned()))
}

fn command(node: &Node, problems: &mut Collector) -> Option<Vec<String>> {
    if let Value::Text(text) = &node.value {
        let parts: Vec<String> = text.split_whitespace().map(|part| format!("{part:?}")).collect();
        let note = format!("no shell splits it: write [{}]", parts.join(", "));
        problems.add(&node.span, "command is a text, it is a list of arguments", note);
        return None;
    }
    let items = problems.list("command", node)?;
    if items.is_empty() || items.len() > ARGUMENTS_MAX {
        let note = format!("it has 1 to {ARGUMENTS_MAX}");
        problems.add(&node.span, format!("command has {} arguments", items.len()), note);
        return None;
    }
    let arguments: Vec<Option<String>> =
        items.iter().map(|item| problems.text("an argument", item, "--port").map(str::to_owned)).collect();
    arguments.into_iter().collect()
}

/// How it runs.
struct Settings {
    environment: BTreeMap<String, String>,
    resources: Resources,
    timeout: Duration,
    concurrency: Concurrency,
    network: Network,
    user: Option<u32>,
    placement: Constraints,
    scaling: Scaling,
    triggers: Vec<Trigger>,
}

impl Settings {
    fn read(entries: &[Entry], problems: &mut Collector) -> Option<Self> {
        // Every key is read before the first that is wrong ends it, so that all are told.
        let memory = get(entries, "memory").map(|node| quantity::bytes("memory", node, MEMORY.0, MEMORY.1, problems));
        let disk = get(entries, "disk").map(|node| quantity::bytes("disk", node, DISK.0, DISK.1, problems));
        let cpu = get(entries, "cpu").map(|node| quantity::cpu("cpu", node, problems));
        let pids = get(entries, "pids").map(|node| problems.number("pids", node, PIDS.0, PIDS.1));
        let timeout =
            get(entries, "timeout").map(|node| quantity::period("timeout", node, TIMEOUT.0, TIMEOUT.1, problems));
        let concurrency =
            get(entries, "concurrency").map(|node| problems.number("concurrency", node, 1, u32::from(CONCURRENCY_MAX)));
        let network = get(entries, "network").map(|node| network(node, problems));
        let user = get(entries, "user").map(|node| problems.number("user", node, 0, USER_MAX));
        let environment = get(entries, "env").map(|node| environment(node, problems));
        let placement = get(entries, "placement").map(|node| placement::read(node, problems));
        let scaling = get(entries, "scale").map(|node| scaling(node, problems));
        let triggers = get(entries, "trigger").map(|node| trigger::read_all(node, problems));
        let defaults = RESOURCES_DEFAULT;
        Some(Self {
            environment: environment.unwrap_or_else(|| Some(BTreeMap::new()))?,
            resources: Resources {
                cpu: cpu.unwrap_or(Some(defaults.cpu))?,
                memory: memory.unwrap_or(Some(defaults.memory))?,
                disk: disk.unwrap_or(Some(defaults.disk))?,
                pids: pids.unwrap_or(Some(defaults.pids))?,
            },
            timeout: timeout.unwrap_or(Some(TIMEOUT_DEFAULT))?,
            concurrency: match concurrency {
                None => Concurrency::ONE,
                Some(count) => Concurrency::new(u16::try_from(count?).ok()?)?,
            },
            network: network.unwrap_or(Some(Network::default()))?,
            user: match user {
                Some(user) => Some(user?),
                None => None,
            },
            placement: placement.unwrap_or_else(|| Some(Constraints::default()))?,
            scaling: scaling.unwrap_or(Some(Scaling::DEFAULT))?,
            triggers: triggers.unwrap_or_else(|| Some(Vec::new()))?,
        })
    }
}

fn network(node: &Node, problems: &mut Collector) -> Option<Network> {
    match problems.text("network", node, "egress")? {
        "none" => Some(Network::None),
        "egress" => Some(Network::Egress),
        other => {
            let note = "it is \"none\" (only its own loopback) or \"egress\"";
            problems.add(&node.span, format!("there is no network {other:?}"), note);
            None
        }
    }
}

fn environment(node: &Node, problems: &mut Collector) -> Option<BTreeMap<String, String>> {
    let entries = problems.table("env", node)?;
    let mut environment = BTreeMap::new();
    let mut is_sound = true;
    for Entry { key, key_span, node } in entries {
        let well_formed = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && key.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if !well_formed {
            problems.add(key_span, format!("{key:?} is no name of a variable"), "letters, digits and _ make one");
            is_sound = false;
        } else if RESERVED_VARIABLES.contains(&key.as_str()) || key.starts_with("HEARTH_") {
            problems.add(key_span, format!("the variable {key} is set by the platform"), "take it out");
            is_sound = false;
        }
        match &node.value {
            Value::Text(text) if !text.contains('\0') => {
                environment.insert(key.clone(), text.clone());
            }
            Value::Integer(number) => {
                let note = format!("put it in quotes: \"{number}\"");
                problems.add(&node.span, format!("the variable {key} is a number, it is a text"), note);
                is_sound = false;
            }
            Value::Boolean(truth) => {
                let note = format!("put it in quotes: \"{truth}\"");
                problems.add(&node.span, format!("the variable {key} is true or false, it is a text"), note);
                is_sound = false;
            }
            Value::Text(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => {
                problems.wrong_kind(&format!("the variable {key}"), node, "a text");
                is_sound = false;
            }
        }
    }
    let size: usize = environment.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    if size > ENVIRONMENT_MAX_BYTES {
        let note = format!("at most {ENVIRONMENT_MAX_BYTES}");
        problems.add(&node.span, format!("the variables have {size} bytes"), note);
        is_sound = false;
    }
    is_sound.then_some(environment)
}

fn scaling(node: &Node, problems: &mut Collector) -> Option<Scaling> {
    let entries = problems.table("scale", node)?;
    problems.check_keys(" in scale", entries, &SCALE_KEYS, &[]);
    let default = Scaling::DEFAULT;
    let min = get(entries, "min").map(|node| problems.number("min", node, 0, INSTANCES_MAX));
    let max = get(entries, "max").map(|node| problems.number("max", node, 1, INSTANCES_MAX));
    let idle =
        get(entries, "max-idle").map(|node| quantity::period("max-idle", node, Duration::ZERO, IDLE_MAX, problems));
    let (min, idle) = (min.unwrap_or(Some(default.min()))?, idle.unwrap_or(Some(default.idle_max()))?);
    // A minimum above the usual maximum raises the maximum with it; one that is written down does not move.
    let max = max.unwrap_or(Some(default.max().max(min)))?;
    Scaling::new(min, max, idle)
        .map_err(|error| {
            let place = get(entries, "min").map_or(&node.span, |node| &node.span);
            problems.add(place, error, "");
        })
        .ok()
}
