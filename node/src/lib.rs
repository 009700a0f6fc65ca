//! Everything in Hearth that acts: sockets, processes, files, clocks. The rooms in reading order.

const _: () = assert!(!control_plane::HAS_PLANTED_FAULTS, "planted faults are for the simulator alone");

pub mod agent;
pub mod api;
pub mod auth;
pub mod backup;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod contract;
pub mod daemon;
pub mod data_dir;
mod error_chain;
pub mod gateway;
mod heap;
pub mod image;
pub mod leader;
pub mod manifest;
pub mod net;
pub mod peering;
mod pieces;
mod priority;
pub mod raft;
pub mod sandbox;
pub mod telemetry;
