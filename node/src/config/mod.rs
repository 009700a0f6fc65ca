//! One validated configuration out of a file, the environment and flags, in rising order of precedence.
//!
//! The file is TOML. Every key has an environment variable, `HEARTH_` and its path in capitals (`ports.gateway` is
//! `HEARTH_PORTS_GATEWAY`), and may be set by a flag of the command line. A key that does not exist is refused with its
//! place and the nearest one that does.

mod limits;
mod quantity;
mod span;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::model::FeatureLevel;
use serde::{Deserialize, Serialize};

pub use quantity::{Period, QuantityError, Size};
pub use span::{caret, nearest};

use crate::auth::CERTIFICATE_LIFE;
use crate::data_dir::{DATA_DIR_DEFAULT, RUN_ROOT_DEFAULT};
use crate::net::Subnet;
use crate::telemetry::Format;

/// The largest configuration file, in bytes.
pub const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// What every environment variable of a key begins with.
pub const ENVIRONMENT_PREFIX: &str = "HEARTH_";

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// Where data lies.
    pub data_dir: PathBuf,
    /// Where what a reboot ends lies; on tmpfs.
    pub run_dir: PathBuf,
    /// The name people call the node by; empty means the host name.
    pub name: String,
    /// The address the gateway, the API and the port for other nodes listen on.
    pub bind: IpAddr,
    /// Where other nodes reach this one: a host, or a host and a port; empty means the address it listens on, or the first of
    /// the machine that leads off it.
    pub advertise: String,
    /// Facts that placement may require, beside `arch`.
    pub labels: BTreeMap<String, String>,
    /// What the node says that it can read from the log; less than the build can lets it go back to an older one.
    pub feature_level: u32,
    /// The cluster to join; an empty data directory founds one otherwise.
    pub join: Join,
    /// Which port is what.
    pub ports: Ports,
    /// How nodes know each other.
    pub peers: Peers,
    /// Sandboxes.
    pub sandbox: Sandbox,
    /// How functions reach out that may.
    pub egress: Egress,
    /// Images and how they are built.
    pub build: Build,
    /// The gateway.
    pub gateway: Gateway,
    /// What functions write.
    pub logs: Logs,
    /// What the node itself writes.
    pub log: Log,
}

/// Which port is what; zero lets the kernel choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Ports {
    /// Invocations over HTTP.
    pub gateway: u16,
    /// The operator's API.
    pub api: u16,
    /// Other nodes.
    pub peers: u16,
}

/// How nodes know each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Peers {
    /// How long the certificates are good for that this node issues; 10 s to 90 days.
    pub certificate_life: Period,
}

/// Which cluster a node joins when its data directory is empty; otherwise it is passed over.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Join {
    /// Where a node of the cluster is reached by others: a host and a port. Empty founds a cluster.
    pub address: String,
    /// The join token that the cluster gave.
    pub token: String,
}

// The token lets machines in: it is not printed along.
impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How sandboxes are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Sandbox {
    /// How many sandboxes are made before they are needed.
    pub pool: u32,
    /// How many processes make them; 1 to 64.
    pub spawners: u32,
}

/// How functions with `network = "egress"` reach out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Egress {
    /// The addresses of their sandboxes, which nobody else sees: as many instances may run here at once.
    pub subnet: Subnet,
    /// Whom they ask for names; empty means whom the host asks, as far as that is not the host itself.
    pub dns: Vec<Ipv4Addr>,
}

/// How images are built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Build {
    /// The package index of pip; empty means what the machine's own pip is configured to use.
    pub pip_index: String,
    /// Directories or pages that pip also looks for wheels in.
    pub pip_find_links: Vec<String>,
    /// pip asks no index at all, only `pip-find-links`.
    pub pip_offline: bool,
    /// The registry of npm; empty means what the machine's own npm is configured to use.
    pub npm_registry: String,
    /// Certificates, in PEM, that pip, npm and pulls from registries trust; empty means those of the machine.
    pub ca_file: PathBuf,
    /// Registries that are spoken to without TLS, as `host:port`; those on loopback are anyway.
    pub insecure_registries: Vec<String>,
    /// Credentials for registries, in a file like Docker's `config.json`; empty means none.
    pub registry_auth_file: PathBuf,
    /// The largest source of a function, unpacked.
    pub source_max: Size,
    /// The largest image that is pulled or imported: the bytes of its layers as they come.
    pub image_max: Size,
    /// How long one build may take.
    pub timeout: Period,
}

/// How invocations come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Gateway {
    /// The largest body that becomes an event.
    pub body_max: Size,
    /// The most connections at once.
    pub connections_max: u32,
    /// How long calls in flight may take to finish once the node is asked to stop.
    pub drain: Period,
}

/// How much of what functions write is kept; the oldest goes first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Logs {
    /// The most that is kept of one function.
    pub function_max: Size,
    /// How long it is kept.
    pub age_max: Period,
}

/// What the node itself writes to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Log {
    /// How much: a level, or levels by part, in the words of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// How its lines look.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: DATA_DIR_DEFAULT.into(),
            run_dir: RUN_ROOT_DEFAULT.into(),
            name: String::new(),
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise: String::new(),
            join: Join::default(),
            labels: BTreeMap::new(),
            feature_level: FeatureLevel::NEWEST.0,
            ports: Ports::default(),
            peers: Peers::default(),
            sandbox: Sandbox::default(),
            egress: Egress::default(),
            build: Build::default(),
            gateway: Gateway::default(),
            logs: Logs::default(),
            log: Log::default(),
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self { gateway: 8080, api: 8090, peers: 8100 }
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self { certificate_life: Period(CERTIFICATE_LIFE) }
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { pool: 16, spawners: 2 }
    }
}

impl Default for Build {
    fn default() -> Self {
        Self {
            pip_index: String::new(),
            pip_find_links: Vec::new(),
            pip_offline: false,
            npm_registry: String::new(),
            ca_file: PathBuf::new(),
            insecure_registries: Vec::new(),
            registry_auth_file: PathBuf::new(),
            source_max: Size(256 << 20),
            image_max: Size(4 << 30),
            timeout: Period(Duration::from_secs(600)),
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self { body_max: Size(6 << 20), connections_max: 10_000, drain: Period(Duration::from_secs(30)) }
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self { function_max: Size(64 << 20), age_max: Period(Duration::from_secs(7 * 86_400)) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info,openraft=error".to_owned(), format: Format::Text }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is over [`FILE_MAX_BYTES`].
    #[error("{} has {length} bytes, the most is {FILE_MAX_BYTES}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// Something in the file is wrong; the text shows where, over several lines.
    #[error("{0}")]
    File(String),
    /// A variable of the environment or a flag has a value that its key does not take.
    #[error("{origin}: {reason}")]
    Override {
        /// The variable or the key.
        origin: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A value is outside of its limits.
    #[error("{key} is {value}, it is {limits}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Which values there may be.
        limits: &'static str,
    },
    /// The node cannot say that it reads what it does not.
    #[error("feature-level is {given}, this version reads at most {}", FeatureLevel::NEWEST)]
    TooNew {
        /// What it is to say.
        given: u32,
    },
}

/// Collects the layers of a configuration.
#[derive(Debug, Default)]
pub struct Layers {
    table: toml::Table,
}

impl Layers {
    /// Starts with nothing: every key has its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the file; its keys stand below everything that is set later.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_MAX_BYTES {
            return Err(ConfigError::TooLong { path: path.to_owned(), length });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        self.text(&path.display().to_string(), &text)
    }

    /// Reads what a file named `name` holds.
    pub fn text(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        span::check_keys(name, text, &known())?;
        // Types are checked here, where the error can still show the place.
        toml::from_str::<Config>(text).map_err(|error| ConfigError::File(span::told(name, text, &error)))?;
        self.table = toml::from_str(text).map_err(|error| ConfigError::File(span::told(name, text, &error)))?;
        Ok(())
    }

    /// Takes the variables of `environment` that belong to a key; the others are somebody else's.
    pub fn environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        for key in keys() {
            let variable = variable(&key);
            if let Some(value) = environment.get(&variable) {
                self.put(&variable, &key, value)?;
            }
        }
        Ok(())
    }

    /// Sets the key at a path such as `ports.gateway`; a flag of the command line does.
    ///
    /// Lists are separated by commas; labels are written `key=value`, separated by commas.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        self.put(key, key, value)
    }

    fn put(&mut self, origin: &str, key: &str, text: &str) -> Result<(), ConfigError> {
        let refuse = |reason: String| ConfigError::Override { origin: origin.to_owned(), reason };
        let known = known();
        let default =
            key.split('.').try_fold(&toml::Value::Table(known.clone()), |value, part| value.get(part)).cloned();
        let value = match default {
            None => return Err(refuse("there is no such key".to_owned())),
            Some(toml::Value::Integer(_)) => {
                let number = text.parse().map_err(|_| refuse(format!("{text:?} is no whole number")))?;
                toml::Value::Integer(number)
            }
            Some(toml::Value::Boolean(_)) => {
                let truth = text.parse().map_err(|_| refuse(format!("{text:?} is neither true nor false")))?;
                toml::Value::Boolean(truth)
            }
            Some(toml::Value::Array(_)) => text.split(',').filter(|part| !part.is_empty()).collect::<Vec<_>>().into(),
            Some(toml::Value::Table(_)) => toml::Value::Table(labels(text).map_err(refuse)?),
            Some(_) => text.into(),
        };
        match (key, value) {
            // Each flag adds its own.
            ("labels", toml::Value::Table(added)) => {
                for (label, value) in added {
                    insert(&mut self.table, &format!("labels.{label}"), value);
                }
            }
            (key, value) => insert(&mut self.table, key, value),
        }
        toml::Value::Table(self.table.clone())
            .try_into::<Config>()
            .map(drop)
            .map_err(|error| refuse(error.message().to_owned()))
    }

    /// Returns the configuration if its values fit each other.
    pub fn finish(self) -> Result<Config, ConfigError> {
        let config: Config = toml::Value::Table(self.table)
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::File(error.message().to_owned()))?;
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Returns where the gateway listens.
    pub fn gateway_address(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports.gateway)
    }

    /// Returns where the API listens.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports.api)
    }

    /// Returns where other nodes are listened for.
    pub fn peers_address(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports.peers)
    }
}

/// Returns every key with its default.
fn known() -> toml::Table {
    toml::Table::try_from(Config::default()).expect("the default configuration is plain data")
}

/// Returns the path of every key that has a value of its own, sorted.
fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in known() {
        match value {
            toml::Value::Table(section) if key != "labels" => {
                keys.extend(section.keys().map(|inner| format!("{key}.{inner}")));
            }
            _ => keys.push(key),
        }
    }
    keys
}

/// Returns the environment variable of a key.
fn variable(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}

fn labels(text: &str) -> Result<toml::Table, String> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no label: it is key=value"))?;
            Ok((key.to_owned(), value.into()))
        })
        .collect()
}

fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let mut layers = Layers::new();
        let told = match layers.text("hearth-agent.toml", text).and_then(|()| layers.finish()) {
            Ok(config) => format!("{config:?}"),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&told);
    }

    #[test]
    fn flags_stand_above_the_environment_and_that_above_the_file() {
        let mut layers = Layers::new();
        layers.text("f", "name = \"file\"\nbind = \"0.0.0.0\"\n[ports]\ngateway = 1\napi = 2\n").unwrap();
        let variables = [("HEARTH_NAME", "variable"), ("HEARTH_PORTS_API", "3"), ("HEARTH_TOKEN", "not a key")];
        layers.environment(variables.map(|(key, value)| (key.to_owned(), value.to_owned()))).unwrap();
        layers.set("name", "flag").unwrap();
        layers.set("labels", "zone=a,disk=fast").unwrap();
        layers.set("build.pip-find-links", "/srv/wheels,/srv/more").unwrap();
        let config = layers.finish().unwrap();
        assert_eq!((config.name.as_str(), config.gateway_address().to_string().as_str()), ("flag", "0.0.0.0:1"));
        assert_eq!((config.ports.api, config.labels["disk"].as_str()), (3, "fast"));
        assert_eq!(config.build.pip_find_links, ["/srv/wheels", "/srv/more"]);
        assert_eq!(config.logs, Logs::default());
    }

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let variables: std::collections::BTreeSet<String> = keys().iter().map(|key| variable(key)).collect();
        assert_eq!(variables.len(), keys().len());
        assert!(variables.contains("HEARTH_DATA_DIR") && variables.contains("HEARTH_BUILD_PIP_INDEX"));
    }

    #[test]
    fn the_page_about_configuration_lists_every_key() {
        let page = include_str!("../../../docs/reference/configuration.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
        let told: BTreeMap<&str, &str> = rows.filter_map(|(key, rest)| Some((key, rest.split_once('`')?.0))).collect();
        let known: BTreeMap<String, String> = keys().into_iter().map(|key| (key.clone(), variable(&key))).collect();
        let known: BTreeMap<&str, &str> =
            known.iter().map(|(key, variable)| (key.as_str(), variable.as_str())).collect();
        assert_eq!(told, known);
    }

    #[test]
    fn an_unknown_key_is_shown_with_the_nearest_one() {
        check(
            "[ports]\ngatway = 80\n",
            expect![[r#"
                hearth-agent.toml:2:1: there is no key gatway in ports
                  |
                2 | gatway = 80
                  | ^^^^^^ did you mean gateway?"#]],
        );
        check(
            "nmae = \"a\"\n",
            expect![[r#"
                hearth-agent.toml:1:1: there is no key nmae
                  |
                1 | nmae = "a"
                  | ^^^^ did you mean name?"#]],
        );
        check(
            "[entirely]\nelse = 1\n",
            expect![[r#"
                hearth-agent.toml:1:2: there is no key entirely
                  |
                1 | [entirely]
                  |  ^^^^^^^^ the keys are advertise, bind, build, data-dir, egress, feature-level, gateway, join, labels, log, logs, name, peers, ports, run-dir, sandbox"#]],
        );
    }

    #[test]
    fn wrong_values_are_shown_in_their_place() {
        check(
            "[logs]\nfunction-max = \"64MB\"\n",
            expect![[r#"
                hearth-agent.toml:2:16: "64MB" is no size: it is a whole number with Ki, Mi, Gi or nothing behind it, for example 256Mi
                  |
                2 | function-max = "64MB"
                  |                ^^^^^^"#]],
        );
        check(
            "[ports]\napi = 70000\n",
            expect![[r#"
                hearth-agent.toml:2:7: invalid value: integer `70000`, expected u16
                  |
                2 | api = 70000
                  |       ^^^^^"#]],
        );
        check(
            "[egress]\nsubnet = \"10.1.2.3/24\"\n",
            expect![[r#"
                hearth-agent.toml:2:10: 10.1.2.3 is within a range that begins at 10.1.2.0
                  |
                2 | subnet = "10.1.2.3/24"
                  |          ^^^^^^^^^^^^^"#]],
        );
        check(
            "[egress]\ndns = [\"10.0.0.1\", \"127.0.0.53\"]\n",
            expect![
                "egress.dns is 127.0.0.53, it is an address that a sandbox can reach: not loopback, not link-local"
            ],
        );
        check(
            "[egress]\nsubnet = \"10.1.2.0/28\"\n",
            expect!["egress.subnet is 10.1.2.0/28, it is a range of more addresses than sandbox.pool has sandboxes"],
        );
        check("[ports]\napi = 8080\n", expect!["ports.api is 8080, it is another port than ports.gateway"]);
        check("feature-level = 99\n", expect!["feature-level is 99, this version reads at most 1"]);
        for (life, told) in [
            ("9s", expect!["peers.certificate-life is 9s, it is 10s to 90d"]),
            ("91d", expect!["peers.certificate-life is 91d, it is 10s to 90d"]),
        ] {
            check(&format!("[peers]\ncertificate-life = \"{life}\"\n"), told);
        }
        let mut layers = Layers::new();
        let told = layers.environment([("HEARTH_PORTS_API".to_owned(), "high".to_owned())]).unwrap_err().to_string();
        expect![[r#"HEARTH_PORTS_API: "high" is no whole number"#]].assert_eq(&told);
    }
}
