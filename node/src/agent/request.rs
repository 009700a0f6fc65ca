//! What a revision's instance becomes as a sandbox: process, environment, limits.

use std::collections::BTreeMap;

use control_plane::model::{InstanceId, Network, Purpose, RevisionId, RevisionNumber, RevisionSpec, Runtime};
use serde::{Deserialize, Serialize};

use crate::contract::{Contract, DEFAULTS, Identity, TASK_ROOT, environment};
use crate::image::{Rootfs, User};
use crate::sandbox;

/// Where an instance serves HTTP, on the loopback of its sandbox.
pub(super) const HTTP_PORT: u16 = 8080;

/// Where the node serves it the Runtime API, there as well.
const RUNTIME_API_PORT: u16 = 9001;

/// The longest answer of a handler, in bytes: Lambda's own limit.
pub(super) const ANSWER_MAX: usize = 6 << 20;

/// As whom a function runs that does not say so.
const USER_DEFAULT: User = User { uid: 1000, gid: 1000 };

/// What runs Python handlers, inside a sandbox.
const PYTHON_BOOTSTRAP: &str = "/opt/hearth/bootstrap.py";

/// What a sandbox carries so that a later daemon knows what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) instance: InstanceId,
    pub(super) revision: RevisionId,
    pub(super) purpose: Purpose,
}

#[derive(Serialize, Deserialize)]
struct WrittenLabel {
    instance: String,
    function: String,
    revision: u32,
    is_minimum: bool,
}

impl Label {
    pub(super) fn write(&self) -> String {
        let written = WrittenLabel {
            instance: self.instance.to_string(),
            function: self.revision.function.to_string(),
            revision: self.revision.number.0,
            is_minimum: self.purpose == Purpose::Minimum,
        };
        serde_json::to_string(&written).expect("text and numbers can be written as JSON")
    }

    /// Reads a label; what this version did not write is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let written: WrittenLabel = serde_json::from_str(text).ok()?;
        Some(Self {
            instance: written.instance.parse().ok()?,
            revision: RevisionId { function: written.function.parse().ok()?, number: RevisionNumber(written.revision) },
            purpose: if written.is_minimum { Purpose::Minimum } else { Purpose::Demand },
        })
    }
}

/// Returns what an instance's `context` says of its function.
pub(super) fn identity(instance: InstanceId, revision: &RevisionId, spec: &RevisionSpec) -> Identity {
    Identity {
        function: revision.function.to_string(),
        version: revision.number.to_string(),
        memory_mb: spec.resources.memory.0 >> 20,
        arn: format!("arn:aws:lambda:local:000000000000:function:{}:{}", revision.function, revision.number),
        log_stream: instance.to_string(),
    }
}

/// Returns the sandbox that an instance needs.
pub(super) fn launch(label: &Label, spec: &RevisionSpec, rootfs: Rootfs) -> sandbox::LaunchRequest {
    let config = &rootfs.config;
    let argv = if spec.command.is_empty() {
        config.entrypoint.iter().chain(&config.cmd).cloned().collect()
    } else {
        spec.command.clone()
    };
    let cwd = match (&config.working_dir, spec.runtime) {
        (Some(folder), _) => folder.clone(),
        (None, Runtime::Image) => "/".to_owned(),
        (None, Runtime::Python3 | Runtime::Nodejs | Runtime::Provided | Runtime::Http) => TASK_ROOT.to_owned(),
    };
    let uses_frames = matches!(spec.runtime, Runtime::Python3 | Runtime::Nodejs);
    let uses_runtime_api = matches!(spec.runtime, Runtime::Provided | Runtime::Image);
    let env = variables(label, spec, &config.env);
    let user = user(spec, config.user);
    let start = start(spec, &rootfs, &argv, &env);
    sandbox::LaunchRequest {
        id: label.instance.to_string(),
        process: sandbox::Process { argv, env, cwd, uid: user.uid, gid: user.gid },
        layers: rootfs.layers,
        limits: sandbox::Limits {
            memory_bytes: spec.resources.memory.0,
            cpu_milli: spec.resources.cpu.0,
            pids: spec.resources.pids,
            tmp_bytes: spec.resources.disk.0,
        },
        network: match spec.network {
            Network::None => sandbox::Network::None,
            Network::Egress => sandbox::Network::Egress,
        },
        channel: uses_frames,
        loopback_port: uses_runtime_api.then_some(RUNTIME_API_PORT),
        start,
        label: label.write(),
    }
}

/// Returns as whom an instance runs: whom its manifest says, or for an image whom that says, or nobody in particular.
fn user(spec: &RevisionSpec, image: Option<User>) -> User {
    let image = image.filter(|_| spec.runtime == Runtime::Image);
    match (spec.user, image) {
        // The group comes with the user.
        (Some(uid), Some(image)) if image.uid == uid => image,
        (Some(uid), _) => User { uid, gid: uid },
        (None, Some(image)) => image,
        (None, None) => USER_DEFAULT,
    }
}

/// Returns how an instance's process comes to be: by a fork where nothing about it asks for an interpreter of its own.
fn start(spec: &RevisionSpec, rootfs: &Rootfs, argv: &[String], env: &[(String, String)]) -> sandbox::Start {
    let [interpreter, script] = argv else { return sandbox::Start::Exec };
    let is_bootstrap = spec.runtime == Runtime::Python3 && script == PYTHON_BOOTSTRAP;
    match rootfs.captured.first() {
        Some(layer) if is_bootstrap && !env.iter().any(|(name, value)| needs_exec(name, value)) => {
            sandbox::Start::Zygote(sandbox::ZygoteSpec { layer: layer.clone(), interpreter: interpreter.clone() })
        }
        _ => sandbox::Start::Exec,
    }
}

/// Returns whether a variable has an effect only on an interpreter that is executed with it.
fn needs_exec(name: &str, value: &str) -> bool {
    let is_read_at_start =
        ["PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_"].iter().any(|prefix| name.starts_with(prefix)) || name == "LANG";
    // These two are followed by a fork as well.
    is_read_at_start && name != "PYTHONPATH" && !(name == "LANG" && value == "C.UTF-8")
}

/// Returns the environment: defaults, what the image says, what the user sets, what the contract promises; each over the one before.
fn variables(label: &Label, spec: &RevisionSpec, image: &[String]) -> Vec<(String, String)> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut variables: BTreeMap<String, String> = DEFAULTS.into_iter().map(own).collect();
    variables.extend(image.iter().filter_map(|variable| variable.split_once('=')).map(own));
    variables.extend(spec.environment.clone());
    let identity = identity(label.instance, &label.revision, spec);
    for contract in contracts(spec) {
        variables.extend(environment(&identity, &contract, spec.concurrency.get()));
    }
    variables.into_iter().collect()
}

/// Returns the contracts that a function may live by; an image shows only later which.
fn contracts(spec: &RevisionSpec) -> Vec<Contract> {
    let handler = spec.handler.clone().unwrap_or_default();
    let http = Contract::Http { port: HTTP_PORT };
    match spec.runtime {
        Runtime::Python3 | Runtime::Nodejs => vec![Contract::Framed { handler, answer_max: ANSWER_MAX }],
        Runtime::Provided => vec![Contract::RuntimeApi { handler, port: RUNTIME_API_PORT }],
        Runtime::Http => vec![http],
        Runtime::Image => vec![Contract::RuntimeApi { handler, port: RUNTIME_API_PORT }, http],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_reads_back_and_anything_else_is_none() {
        let label = Label {
            instance: InstanceId::placed(7),
            revision: RevisionId { function: "resize".parse().expect("a name"), number: RevisionNumber(3) },
            purpose: Purpose::Minimum,
        };
        assert_eq!(Label::parse(&label.write()), Some(label));
        assert_eq!(Label::parse("{}"), None);
        assert_eq!(Label::parse("instance-0-0-7"), None);
    }
}
