//! The nouns on the wire.

use std::time::Duration;

use proto::v1;

use super::{DecodeError, function_name};
use crate::model::{
    Bytes, Concurrency, Constraints, Digest, Ending, Epoch, FeatureLevel, FunctionSpec, HttpTrigger, InstanceFailure,
    InstanceId, MilliCpu, Network, NodeSpec, Purpose, Resources, RevisionId, RevisionNumber, RevisionSpec, Runtime,
    Scaling, ScalingChange, Spread, Trigger,
};

type Decoded<T> = Result<T, DecodeError>;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn encode_resources(resources: &Resources) -> v1::Resources {
    v1::Resources {
        cpu_milli: resources.cpu.0,
        memory_bytes: resources.memory.0,
        disk_bytes: resources.disk.0,
        pids: resources.pids,
    }
}

pub(super) fn decode_resources(resources: Option<v1::Resources>) -> Decoded<Resources> {
    let resources = resources.ok_or(DecodeError::Missing("resources"))?;
    Ok(Resources {
        cpu: MilliCpu(resources.cpu_milli),
        memory: Bytes(resources.memory_bytes),
        disk: Bytes(resources.disk_bytes),
        pids: resources.pids,
    })
}

pub(super) fn encode_revision(spec: &RevisionSpec) -> v1::RevisionSpec {
    let runtime = match spec.runtime {
        Runtime::Python3 => v1::Runtime::Python3,
        Runtime::Nodejs => v1::Runtime::Nodejs,
        Runtime::Provided => v1::Runtime::Provided,
        Runtime::Http => v1::Runtime::Http,
        Runtime::Image => v1::Runtime::Image,
    };
    let network = match spec.network {
        Network::None => v1::Network::None,
        Network::Egress => v1::Network::Egress,
    };
    v1::RevisionSpec {
        runtime: runtime.into(),
        image_sha256: spec.image.as_bytes().to_vec(),
        command: spec.command.clone(),
        handler: spec.handler.clone(),
        environment: spec.environment.clone(),
        resources: Some(encode_resources(&spec.resources)),
        timeout_ms: millis(spec.timeout),
        concurrency: spec.concurrency.get().into(),
        network: network.into(),
        user: spec.user,
        // Left out where there is nothing to say, so that revisions without it keep their bytes.
        placement: (spec.placement != Constraints::default()).then(|| encode_constraints(&spec.placement)),
    }
}

fn encode_constraints(constraints: &Constraints) -> v1::Constraints {
    let spread = match constraints.spread() {
        Spread::None => v1::Spread::None,
        Spread::Zone => v1::Spread::Zone,
    };
    v1::Constraints { spread: spread.into(), require: constraints.require().clone() }
}

fn decode_constraints(constraints: Option<v1::Constraints>) -> Decoded<Constraints> {
    let Some(constraints) = constraints else { return Ok(Constraints::default()) };
    let spread = match constraints.spread() {
        v1::Spread::None => Spread::None,
        v1::Spread::Zone => Spread::Zone,
        v1::Spread::Unspecified => return Err(DecodeError::Missing("spread")),
    };
    Constraints::new(spread, constraints.require.into_iter().collect())
        .map_err(|error| DecodeError::invalid("placement", error))
}

pub(super) fn decode_revision(spec: Option<v1::RevisionSpec>) -> Decoded<RevisionSpec> {
    let spec = spec.ok_or(DecodeError::Missing("revision"))?;
    let runtime = match spec.runtime() {
        v1::Runtime::Python3 => Runtime::Python3,
        v1::Runtime::Nodejs => Runtime::Nodejs,
        v1::Runtime::Provided => Runtime::Provided,
        v1::Runtime::Http => Runtime::Http,
        v1::Runtime::Image => Runtime::Image,
        v1::Runtime::Unspecified => return Err(DecodeError::Missing("runtime")),
    };
    let network = match spec.network() {
        v1::Network::None => Network::None,
        v1::Network::Egress => Network::Egress,
        v1::Network::Unspecified => return Err(DecodeError::Missing("network")),
    };
    let image: [u8; 32] =
        spec.image_sha256.try_into().map_err(|_| DecodeError::invalid("image", "a sha256 has 32 bytes"))?;
    let concurrency = u16::try_from(spec.concurrency).ok().and_then(Concurrency::new);
    Ok(RevisionSpec {
        runtime,
        image: Digest::from_bytes(image),
        command: spec.command,
        handler: spec.handler,
        environment: spec.environment,
        resources: decode_resources(spec.resources)?,
        timeout: Duration::from_millis(spec.timeout_ms),
        concurrency: concurrency
            .ok_or_else(|| DecodeError::invalid("concurrency", format!("{} is out of range", spec.concurrency)))?,
        network,
        user: spec.user,
        placement: decode_constraints(spec.placement)?,
    })
}

pub(super) fn encode_scaling(scaling: &Scaling) -> v1::Scaling {
    v1::Scaling { min: scaling.min(), max: scaling.max(), idle_max_ms: millis(scaling.idle_max()) }
}

pub(super) fn encode_scaling_change(change: &ScalingChange) -> v1::ScalingChange {
    v1::ScalingChange { min: change.min, max: change.max, idle_max_ms: change.idle_max.map(millis) }
}

pub(super) fn decode_scaling_change(change: v1::ScalingChange) -> ScalingChange {
    let idle_max = change.idle_max_ms.map(Duration::from_millis);
    ScalingChange { min: change.min, max: change.max, idle_max }
}

pub(super) fn decode_scaling(scaling: Option<v1::Scaling>) -> Decoded<Scaling> {
    let scaling = scaling.ok_or(DecodeError::Missing("scaling"))?;
    Scaling::new(scaling.min, scaling.max, Duration::from_millis(scaling.idle_max_ms))
        .map_err(|error| DecodeError::invalid("scaling", error))
}

pub(super) fn encode_triggers(triggers: &[Trigger]) -> Vec<v1::Trigger> {
    let encode = |trigger: &Trigger| match trigger {
        Trigger::Http(http) => v1::trigger::Kind::Http(v1::HttpTrigger {
            host: http.host.clone(),
            path: http.path.as_str().to_owned(),
            methods: http.methods.iter().map(|method| method.as_str().to_owned()).collect(),
        }),
    };
    triggers.iter().map(|trigger| v1::Trigger { kind: Some(encode(trigger)) }).collect()
}

pub(super) fn decode_triggers(triggers: Vec<v1::Trigger>) -> Decoded<Vec<Trigger>> {
    let invalid = |error| DecodeError::invalid("trigger", error);
    triggers
        .into_iter()
        .map(|trigger| match trigger.kind.ok_or(DecodeError::Missing("trigger"))? {
            v1::trigger::Kind::Http(http) => Ok(Trigger::Http(HttpTrigger {
                host: http.host,
                path: http.path.parse().map_err(invalid)?,
                methods: http.methods.iter().map(|method| method.parse()).collect::<Result<_, _>>().map_err(invalid)?,
            })),
        })
        .collect()
}

pub(super) fn encode_function(spec: &FunctionSpec) -> v1::FunctionSpec {
    v1::FunctionSpec {
        name: spec.name.to_string(),
        revision: Some(encode_revision(&spec.revision)),
        scaling: Some(encode_scaling(&spec.scaling)),
        triggers: encode_triggers(&spec.triggers),
    }
}

pub(super) fn decode_function(spec: v1::FunctionSpec) -> Decoded<FunctionSpec> {
    Ok(FunctionSpec {
        name: function_name(&spec.name)?,
        revision: decode_revision(spec.revision)?,
        scaling: decode_scaling(spec.scaling)?,
        triggers: decode_triggers(spec.triggers)?,
    })
}

pub(super) fn encode_revision_id(id: &RevisionId) -> v1::RevisionId {
    v1::RevisionId { function: id.function.to_string(), number: id.number.0 }
}

pub(super) fn decode_revision_id(id: Option<v1::RevisionId>) -> Decoded<RevisionId> {
    let id = id.ok_or(DecodeError::Missing("revision"))?;
    Ok(RevisionId { function: function_name(&id.function)?, number: RevisionNumber(id.number) })
}

pub(super) fn encode_instance(id: InstanceId) -> v1::InstanceId {
    v1::InstanceId { origin: id.origin, epoch: id.epoch.0, sequence: id.sequence }
}

pub(super) fn decode_instance(id: Option<v1::InstanceId>) -> Decoded<InstanceId> {
    let id = id.ok_or(DecodeError::Missing("instance"))?;
    Ok(InstanceId { origin: id.origin, epoch: Epoch(id.epoch), sequence: id.sequence })
}

pub(super) fn encode_purpose(purpose: Purpose) -> i32 {
    match purpose {
        Purpose::Demand => v1::Purpose::Demand,
        Purpose::Verify => v1::Purpose::Verify,
        Purpose::Minimum => v1::Purpose::Minimum,
    }
    .into()
}

pub(super) fn decode_purpose(purpose: v1::Purpose) -> Decoded<Purpose> {
    match purpose {
        v1::Purpose::Demand => Ok(Purpose::Demand),
        v1::Purpose::Verify => Ok(Purpose::Verify),
        v1::Purpose::Minimum => Ok(Purpose::Minimum),
        v1::Purpose::Unspecified => Err(DecodeError::Missing("purpose")),
    }
}

pub(super) fn encode_node(spec: &NodeSpec) -> v1::NodeSpec {
    v1::NodeSpec {
        name: spec.name.clone(),
        capacity: Some(encode_resources(&spec.capacity)),
        labels: spec.labels.clone(),
        features: spec.features.0,
    }
}

pub(super) fn decode_node(spec: Option<v1::NodeSpec>) -> Decoded<NodeSpec> {
    let spec = spec.ok_or(DecodeError::Missing("node"))?;
    Ok(NodeSpec {
        name: spec.name,
        capacity: decode_resources(spec.capacity)?,
        labels: spec.labels,
        features: FeatureLevel(spec.features),
    })
}

pub(super) fn encode_ending(ending: &Ending) -> v1::Ending {
    let kind = match ending {
        Ending::Stopped => v1::ending::Kind::Stopped(true),
        Ending::Lost => v1::ending::Kind::Lost(true),
        Ending::Failed(failure) => v1::ending::Kind::Failed(encode_failure(failure)),
    };
    v1::Ending { kind: Some(kind) }
}

pub(super) fn decode_ending(ending: Option<v1::Ending>) -> Decoded<Ending> {
    let kind = ending.and_then(|ending| ending.kind).ok_or(DecodeError::Missing("ending"))?;
    Ok(match kind {
        v1::ending::Kind::Stopped(_) => Ending::Stopped,
        v1::ending::Kind::Lost(_) => Ending::Lost,
        v1::ending::Kind::Failed(failure) => Ending::Failed(decode_failure(failure)?),
    })
}

pub(super) fn encode_failure(failure: &InstanceFailure) -> v1::ending::Failure {
    use v1::ending::failure::Kind as Failed;
    let kind = match failure {
        InstanceFailure::Sandbox(reason) => Failed::Sandbox(reason.clone()),
        InstanceFailure::Init(reason) => Failed::Init(reason.clone()),
        InstanceFailure::InitTimeout => Failed::InitTimeout(true),
        InstanceFailure::Exited(code) => Failed::Exited(v1::ending::Exit { code: *code }),
        InstanceFailure::OutOfMemory => Failed::OutOfMemory(true),
    };
    v1::ending::Failure { kind: Some(kind) }
}

pub(super) fn decode_failure(failure: v1::ending::Failure) -> Decoded<InstanceFailure> {
    use v1::ending::failure::Kind as Failed;
    Ok(match failure.kind.ok_or(DecodeError::Missing("failure"))? {
        Failed::Sandbox(reason) => InstanceFailure::Sandbox(reason),
        Failed::Init(reason) => InstanceFailure::Init(reason),
        Failed::InitTimeout(_) => InstanceFailure::InitTimeout,
        Failed::Exited(exit) => InstanceFailure::Exited(exit.code),
        Failed::OutOfMemory(_) => InstanceFailure::OutOfMemory,
    })
}
