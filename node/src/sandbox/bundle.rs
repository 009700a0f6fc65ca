//! The container that another OCI runtime would have to make for the same sandbox: what benchmarks compare ours with.

use std::path::Path;

use serde_json::{Value, json};

use super::cgroup::CPU_PERIOD_US;
use super::protocol::BlankNetwork;
use super::{LaunchRequest, seccomp, spec};

/// Whether a container gets the filter of system calls that every sandbox has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The same, in the form in which a runtime compiles it.
    Equal,
    /// None.
    None,
}

/// Returns the `config.json` of a container with the same namespaces, users, mounts, limits and privileges as the sandbox
/// of a request, whose root is the directory at `root`.
pub fn equal_to(request: &LaunchRequest, name: &str, cgroup: &str, root: &Path, filter: Filter) -> Value {
    let mut config = spec::blank(name, cgroup, &BlankNetwork::Own);
    // Older runtimes know no later version, and nothing here needs one.
    config["ociVersion"] = json!("1.0.2");
    config["root"] = json!({"path": root, "readonly": true});
    if let Some(mounts) = config["mounts"].as_array_mut() {
        let options = json!(["nosuid", "nodev", "mode=1777", format!("size={}", request.limits.tmp_bytes)]);
        mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options}));
    }
    let process = &request.process;
    let none = json!([]);
    config["process"]["user"] = json!({"uid": process.uid, "gid": process.gid});
    config["process"]["cwd"] = json!(process.cwd);
    config["process"]["args"] = json!(process.argv);
    config["process"]["env"] = process.env.iter().map(|(name, value)| Value::from(format!("{name}={value}"))).collect();
    // An empty list means that it may do nothing; ours gives up what it needed on the way there.
    config["process"]["capabilities"] =
        json!({"bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none});
    let quota = u64::from(request.limits.cpu_milli) * CPU_PERIOD_US / 1000;
    // Other runtimes refuse settings of user namespaces; two writes are no cost that a comparison would miss.
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("sysctl");
    }
    let resources = &mut config["linux"]["resources"];
    resources["memory"] = json!({"limit": request.limits.memory_bytes});
    resources["cpu"] = json!({"quota": quota, "period": CPU_PERIOD_US});
    resources["pids"] = json!({"limit": request.limits.pids});
    if filter == Filter::Equal {
        config["linux"]["seccomp"] = seccomp::as_oci();
    }
    config
}
