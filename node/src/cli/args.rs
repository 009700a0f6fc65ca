//! What the command line takes; examples come first in each help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::args_bench::{Bench, BenchVoter};
use super::args_cluster::{Cluster, Node, Snapshot, Token};
use super::args_sim::Sim;

#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    about = "Turns plain Linux machines into a serverless platform",
    before_help = "Examples:\n  hearth dev examples/hello      run an app here and follow its files\n  hearth apply shop              deploy the app in the folder shop\n  hearth invoke resize -d '{}'   call a function\n  hearth logs -f resize          follow what it writes"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Which node a command talks to.
#[derive(Clone, Debug, Args)]
pub(super) struct Target {
    /// The data directory of the local node to talk to, or to run.
    #[arg(long, global = true, env = "HEARTH_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// The address of a node's API elsewhere, for example 10.0.0.5:8090.
    #[arg(long, global = true, env = "HEARTH_ADDR")]
    pub(super) addr: Option<String>,
    /// The token for it.
    #[arg(long, global = true, env = "HEARTH_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON document per line.
    Jsonl,
    /// YAML.
    Yaml,
    /// Names alone.
    Name,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one node here, deploy the app in a folder, and deploy again when its files change.
    Dev(Dev),
    /// Run a node.
    Agent(Agent),
    /// Write a manifest and a handler that work.
    Init(Init),
    /// Check a manifest.
    #[command(before_help = "Examples:\n  hearth validate\n  hearth validate shop/hearth.yaml")]
    Validate {
        /// The folder of the app, or its manifest.
        #[arg(default_value = ".")]
        path: PathBuf,
    },
    /// Bring a manifest into its usual form.
    Fmt(Fmt),
    /// Print the JSON Schema of manifests.
    #[command(before_help = "Examples:\n  hearth schema > hearth.schema.json")]
    Schema,
    /// Tell what a deployment would change.
    Plan(Plan),
    /// Deploy an app and wait until it serves.
    Apply(Apply),
    /// Call a function with an event.
    Invoke(Invoke),
    /// Print what a function wrote.
    Logs(Logs),
    /// List apps, functions, versions, instances, nodes, images or events.
    #[command(
        before_help = "Examples:\n  hearth get functions\n  hearth get instances resize -o json\n  hearth get node -o name"
    )]
    Get(Get),
    /// Print everything known of one thing.
    #[command(
        before_help = "Examples:\n  hearth describe function resize\n  hearth describe version resize@3\n  hearth describe node"
    )]
    Describe(Get),
    /// List the revisions of a function.
    #[command(before_help = "Examples:\n  hearth versions resize\n  hearth versions resize -o json")]
    Versions {
        /// The function.
        function: String,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Make an earlier revision live.
    #[command(before_help = "Examples:\n  hearth rollback resize\n  hearth rollback resize --to 3")]
    Rollback {
        /// The function.
        function: String,
        /// The revision; the newest before the live one unless given.
        #[arg(long)]
        to: Option<u32>,
    },
    /// Change how a function scales.
    Scale(Scale),
    /// Delete functions or apps.
    Delete(Delete),
    /// Look after the cluster: who belongs to it, and who leads.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Empty nodes, let them take work again, or say what they are.
    #[command(subcommand)]
    Node(Node),
    /// Make tokens that let machines join.
    #[command(subcommand)]
    Token(Token),
    /// Keep what is defined in a file, and bring it back.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Look after images.
    #[command(subcommand)]
    Image(Image),
    /// Find out what a cluster would survive, without one.
    #[command(subcommand)]
    Sim(Sim),
    /// Measure this machine, each figure beside a peer or a floor.
    Bench(Bench),
    /// One of the voters that benchmarks of the log measure.
    #[command(hide = true)]
    BenchVoter(BenchVoter),
    /// Check whether this machine can run a node.
    #[command(before_help = "Examples:\n  hearth doctor\n  hearth doctor --data-dir /srv/hearth -o json")]
    Doctor {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Print a script that completes commands in a shell.
    #[command(before_help = "Examples:\n  hearth completion bash > /etc/bash_completion.d/hearth")]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version of this binary.
    #[command(before_help = "Examples:\n  hearth version\n  hearth version -o json")]
    Version {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Where a node listens.
#[derive(Clone, Debug, Args)]
pub(super) struct Listen {
    /// The address to listen on.
    #[arg(long)]
    pub(super) bind: Option<String>,
    /// The port of the gateway; 0 lets the kernel choose.
    #[arg(long)]
    pub(super) gateway_port: Option<u16>,
    /// The port of the API; 0 lets the kernel choose.
    #[arg(long)]
    pub(super) api_port: Option<u16>,
    /// The port for other nodes; 0 lets the kernel choose.
    #[arg(long)]
    pub(super) peers_port: Option<u16>,
    /// What the node logs: error, warn, info, debug, or a filter such as `info,hearth::access=off`.
    #[arg(long, env = "HEARTH_LOG")]
    pub(super) log: Option<String>,
    /// How the node logs: text or json.
    #[arg(long)]
    pub(super) log_format: Option<String>,
}

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  hearth dev\n  hearth dev examples/hello --gateway-port 9000")]
pub(super) struct Dev {
    /// The folder of the app.
    #[arg(default_value = ".")]
    pub(super) dir: PathBuf,
    #[command(flatten)]
    pub(super) listen: Listen,
}

#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  hearth agent\n  hearth agent --data-dir /srv/hearth --zone a --label disk=ssd\n  hearth agent --bind 10.0.0.2 --join 10.0.0.1:8100 --token HRTH-1-…\n  hearth agent --config /etc/hearth.toml --log-format json"
)]
pub(super) struct Agent {
    /// A configuration file.
    #[arg(long)]
    pub(super) config: Option<PathBuf>,
    /// The name people call the node by.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// The zone the node is in: the label `zone`.
    #[arg(long)]
    pub(super) zone: Option<String>,
    /// A fact that placement may require, KEY=VALUE; may be given again.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<String>,
    /// Join the cluster of the node at this host and port; without it an empty data directory founds a cluster.
    #[arg(long, value_name = "ADDR", requires = "token")]
    pub(super) join: Option<String>,
    /// What `hearth token create` printed.
    #[arg(long, value_name = "TOKEN", env = "HEARTH_JOIN_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// Where other nodes reach this one, if not at the address it listens on: a host, or a host and a port.
    #[arg(long, value_name = "ADDR")]
    pub(super) advertise: Option<String>,
    /// Say that this node reads no more of the log than this feature level, so that it can go back to a version that does not.
    #[arg(long, value_name = "N")]
    pub(super) feature_level: Option<u32>,
    #[command(flatten)]
    pub(super) listen: Listen,
}

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  hearth init shop\n  hearth init --runtime nodejs")]
pub(super) struct Init {
    /// The folder; made if it is not there.
    #[arg(default_value = ".")]
    pub(super) dir: PathBuf,
    /// The language.
    #[arg(long, value_enum, default_value = "python3")]
    pub(super) runtime: InitRuntime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum InitRuntime {
    /// Python.
    Python3,
    /// Node.js.
    Nodejs,
}

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  hearth fmt\n  hearth fmt shop --check")]
pub(super) struct Fmt {
    /// The folder of the app, or its manifest in TOML.
    #[arg(default_value = ".")]
    pub(super) path: PathBuf,
    /// Change nothing; exit with 1 if something would change.
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  hearth plan\n  hearth plan shop -o json > shop.plan\n  hearth plan shop --exit-code"
)]
pub(super) struct Plan {
    /// The folder of the app, or its manifest.
    #[arg(default_value = ".")]
    pub(super) path: PathBuf,
    /// Exit with 10 when there are changes.
    #[arg(long)]
    pub(super) exit_code: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  hearth apply\n  hearth apply shop --plan shop.plan\n  hearth apply shop --check-index 12 --detach"
)]
pub(super) struct Apply {
    /// The folder of the app, or its manifest.
    #[arg(default_value = ".")]
    pub(super) path: PathBuf,
    /// Do nothing unless it would change exactly what this plan says; `hearth plan -o json` writes one.
    #[arg(long, value_name = "FILE")]
    pub(super) plan: Option<PathBuf>,
    /// Do nothing unless the app has this index; 0 means it must not exist.
    #[arg(long, conflicts_with = "plan")]
    pub(super) check_index: Option<u64>,
    /// Do not wait until everything serves.
    #[arg(long)]
    pub(super) detach: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  hearth invoke resize -d '{\"width\": 100}'\n  hearth invoke resize -d @event.json\n  echo '{}' | hearth invoke resize -d -"
)]
pub(super) struct Invoke {
    /// The function.
    pub(super) function: String,
    /// The event: JSON, @FILE, or - for standard input.
    #[arg(short, long, default_value = "{}")]
    pub(super) data: String,
    /// The revision; the live one unless given.
    #[arg(long)]
    pub(super) version: Option<u32>,
}

#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  hearth logs resize --since 10m\n  hearth logs -f resize\n  hearth logs resize --request ID"
)]
pub(super) struct Logs {
    /// The function.
    pub(super) function: String,
    /// Go on with what is written from here on.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only what was written within this time, for example 10m.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(super) since: Option<Duration>,
    /// Only what this request wrote.
    #[arg(long)]
    pub(super) request: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Apps.
    #[value(alias = "app")]
    Apps,
    /// Functions.
    #[value(alias = "function", alias = "fn")]
    Functions,
    /// Revisions of functions.
    #[value(alias = "version")]
    Versions,
    /// Instances.
    #[value(alias = "instance")]
    Instances,
    /// Nodes.
    #[value(alias = "node")]
    Nodes,
    /// Images.
    #[value(alias = "image")]
    Images,
    /// What happened lately.
    #[value(alias = "event")]
    Events,
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// What.
    #[arg(value_enum)]
    pub(super) kind: Kind,
    /// Only this one: a name, an id, or the function it belongs to; FUNCTION@NUMBER for a version.
    pub(super) name: Option<String>,
    /// Take what the node knows, though it may lack what was just acknowledged elsewhere; for when no majority is there.
    #[arg(long)]
    pub(super) stale: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  hearth scale resize --min 1\n  hearth scale resize --min 0 --max 50")]
pub(super) struct Scale {
    /// The function.
    pub(super) function: String,
    /// How many instances are always kept.
    #[arg(long, required_unless_present = "max")]
    pub(super) min: Option<u32>,
    /// The most there may be.
    #[arg(long)]
    pub(super) max: Option<u32>,
}

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  hearth delete resize\n  hearth delete --app shop\n  hearth delete --all --yes")]
pub(super) struct Delete {
    /// The functions.
    #[arg(required_unless_present_any = ["app", "all"])]
    pub(super) functions: Vec<String>,
    /// Delete this app with its functions.
    #[arg(long)]
    pub(super) app: Option<String>,
    /// Delete every app.
    #[arg(long, requires = "yes")]
    pub(super) all: bool,
    /// Really.
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// List the images.
    #[command(before_help = "Examples:\n  hearth image ls\n  hearth image ls -o json")]
    Ls {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Fetch an image from a registry, or import an OCI layout of this machine.
    #[command(
        before_help = "Examples:\n  hearth image pull registry.example/base:1\n  hearth image pull oci:./layout --name base"
    )]
    Pull {
        /// REGISTRY/NAME:TAG[@sha256:…], or a layout: oci:FOLDER[:TAG], or the path of a folder or a tar.
        reference: String,
        /// The name manifests refer to a layout's image by; it is FOLDER[:TAG] unless given.
        #[arg(long)]
        name: Option<String>,
    },
    /// Make a base image of what this machine has.
    #[command(
        before_help = "Examples:\n  hearth image capture python3\n  hearth image capture /usr/bin/ruby --name ruby"
    )]
    Capture {
        /// python3, nodejs, or the absolute path of an executable.
        what: String,
        /// The name manifests refer to it by.
        #[arg(long)]
        name: Option<String>,
    },
    /// Delete images that nothing refers to.
    #[command(before_help = "Examples:\n  hearth image gc")]
    Gc,
}
