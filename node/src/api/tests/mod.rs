//! The API over its real sockets, in front of a node that is nothing but the replicated state.

mod client;
mod cluster;
mod deploy;
mod fake;
mod openapi;
mod operate;
mod samples;
mod snapshot;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use control_plane::state::{Command, Rejection, Reply};
use proto::json::{self, ErrorBody, ErrorCode};
use tokio::sync::{mpsc, watch};

use super::{Api, Limits, Platform, Server};
use crate::auth::Token;
use crate::clock::Clock;
use crate::telemetry::logs::LogStore;
use crate::telemetry::{EventLog, Metrics};
use client::Fixture;
use fake::Fake;
