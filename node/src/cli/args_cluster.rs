//! What the commands about the cluster take.

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
    /// Let a node take work again.
    #[command(before_help = "Examples:\n  hearth node undrain node-3")]
    Undrain {
        /// The id or name of the node.
        node: String,
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
