//! What the commands about the cluster take.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::args::Format;

#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Tell who leads, and what the cluster can lose.
    #[command(before_help = "Examples:\n  hearth cluster status\n  hearth cluster status -o json")]
    Status {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// List the nodes with their part in deciding.
    #[command(before_help = "Examples:\n  hearth cluster members\n  hearth cluster members -o name")]
    Members {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Let another voter lead.
    #[command(
        before_help = "Examples:\n  hearth cluster transfer-leader\n  hearth cluster transfer-leader --to node-2"
    )]
    TransferLeader {
        /// The id or name of the node; any other voter unless given.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Let a node vote, in the place of one that nobody promoted, or that was promoted earlier.
    #[command(before_help = "Examples:\n  hearth cluster promote node-4\n  hearth cluster promote host-4 -o json")]
    Promote {
        /// The id or name of the node.
        node: String,
        /// How long to wait until it votes; 0s only asks for it.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "30s")]
        wait: Duration,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Take a node out of the cluster for ever.
    #[command(before_help = "Examples:\n  hearth cluster remove node-3")]
    Remove {
        /// The id or name of the node.
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Move everything off a node and start nothing on it any more.
    #[command(before_help = "Examples:\n  hearth node drain node-3")]
    Drain {
        /// The id or name of the node.
        node: String,
    },
    /// Set labels on a node, or take them back with a dash behind the name.
    #[command(
        before_help = "Examples:\n  hearth node label node-3 disk=ssd rack=7\n  hearth node label node-3 disk- -o json"
    )]
    Label {
        /// The id or name of the node.
        node: String,
        /// KEY=VALUE sets a label, KEY- takes back what was set; what the node's own configuration says holds then.
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", allow_hyphen_values = false)]
        labels: Vec<String>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Let a node take work again.
    #[command(before_help = "Examples:\n  hearth node undrain node-3")]
    Undrain {
        /// The id or name of the node.
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Snapshot {
    /// Write a backup of what is defined: apps, functions, revisions, scaling, routes.
    #[command(
        before_help = "Examples:\n  hearth snapshot save backup.hearth\n  hearth snapshot save backup.hearth --images"
    )]
    Save {
        /// The file; one that is there is replaced once the new one is whole.
        file: PathBuf,
        /// Take the images along that revisions run.
        #[arg(long)]
        images: bool,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Tell what a backup holds, and whether it is whole; needs no node.
    #[command(
        before_help = "Examples:\n  hearth snapshot inspect backup.hearth\n  hearth snapshot inspect backup.hearth -o json"
    )]
    Inspect {
        /// The file.
        file: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Bring a backup into a cluster where nothing was ever deployed.
    #[command(before_help = "Examples:\n  hearth snapshot restore backup.hearth")]
    Restore {
        /// The file.
        file: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token that lets machines join.
    #[command(before_help = "Examples:\n  hearth token create\n  hearth token create --ttl 10m --uses 1")]
    Create {
        /// How long it is good for; an hour unless given.
        #[arg(long, value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// How many machines may join with it; any number unless given.
        #[arg(long)]
        uses: Option<u32>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}
