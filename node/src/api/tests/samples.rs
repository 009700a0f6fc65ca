//! One value of every body, with every field set.

use proto::json::*;

pub(super) fn scaling() -> Scaling {
    Scaling { min: 0, max: 20, idle_max_ms: 3_600_000 }
}

pub(super) fn resources() -> Resources {
    Resources { cpu_milli: 500, memory_bytes: 256 << 20, disk_bytes: 512 << 20, pids: 1024 }
}

pub(super) fn http_trigger() -> HttpTrigger {
    HttpTrigger { host: Some("shop.example".into()), path: "/resize/*".into(), methods: vec!["POST".into()] }
}

pub(super) fn placement() -> Placement {
    Placement { spread: Spread::Zone, require: [("arch".to_owned(), "x86_64".to_owned())].into() }
}

pub(super) fn revision_spec() -> RevisionSpec {
    RevisionSpec {
        runtime: Runtime::Python3,
        image: Some(format!("sha256:{}", "0a".repeat(32))),
        command: vec!["./serve".into()],
        handler: Some("app.handler".into()),
        environment: [("LOG".to_owned(), "info".to_owned())].into(),
        resources: resources(),
        timeout_ms: 30_000,
        concurrency: 1,
        network: Network::None,
        user: Some(1000),
        placement: placement(),
    }
}

pub(super) fn function_spec() -> FunctionSpec {
    FunctionSpec {
        name: "resize".into(),
        revision: revision_spec(),
        scaling: scaling(),
        triggers: vec![Trigger::Http(http_trigger())],
    }
}

pub(super) fn instance() -> Instance {
    Instance {
        id: "instance-1-4-7".into(),
        function: "resize".into(),
        revision: 3,
        node: "node-1".into(),
        phase: InstancePhase::Ready,
        purpose: Purpose::Demand,
        since_ms: 1_700_000_000_000,
        in_flight: 1,
        memory_bytes: Some(9 << 20),
    }
}

pub(super) fn function() -> Function {
    Function {
        name: "resize".into(),
        app: "shop".into(),
        index: 4,
        phase: FunctionPhase::Updating,
        reason: Some("resize@2 failed: the function was not ready in time".into()),
        live: Some(3),
        candidate: Some(4),
        revision: revision_spec(),
        scaling: scaling(),
        triggers: vec![Trigger::Http(http_trigger())],
        instances: 2,
    }
}

pub(super) fn revision() -> Revision {
    Revision {
        function: "resize".into(),
        number: 3,
        phase: RevisionPhase::Live,
        reason: Some("the function was not ready in time".into()),
        created_at_ms: 1_700_000_000_000,
        spec: revision_spec(),
    }
}

pub(super) fn applied() -> AppliedFunction {
    AppliedFunction { name: "resize".into(), revision: Some(3), change: Change::Revised }
}

pub(super) fn revision_ref() -> RevisionRef {
    RevisionRef { function: "resize".into(), revision: 3 }
}

pub(super) fn field_diff() -> FieldDiff {
    FieldDiff { path: "scaling.max".into(), before: Some("20".into()), after: Some("30".into()) }
}

pub(super) fn function_diff() -> FunctionDiff {
    FunctionDiff { name: "resize".into(), change: Change::Adjusted, fields: vec![field_diff()] }
}

pub(super) fn error() -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, "there is no function resise").hint("did you mean resize?")
}

pub(super) fn log_line() -> LogLine {
    LogLine {
        at_us: 1_700_000_000_000_000,
        function: "resize".into(),
        revision: 3,
        instance: "instance-1-4-7".into(),
        stream: LogStream::Stdout,
        request_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
        text: "resized".into(),
        is_mark: false,
    }
}

pub(super) fn event() -> Event {
    Event {
        at_ms: 1_700_000_000_000,
        kind: EventKind::Promoted,
        node: "node-1".into(),
        about: Some("node-2".into()),
        function: Some("resize".into()),
        revision: Some(3),
        instance: Some("instance-1-4-7".into()),
        message: "resize@3 became live".into(),
    }
}

pub(super) fn node() -> Node {
    Node {
        id: "node-1".into(),
        name: "alpha".into(),
        status: NodeStatus::Ready,
        is_leader: true,
        epoch: 1,
        capacity: resources(),
        held: resources(),
        grant: resources(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        labels_set: [("zone".to_owned(), "a".to_owned())].into(),
        feature_level: 1,
        instances: 2,
    }
}

pub(super) fn version() -> Version {
    Version {
        version: "0.1.0".into(),
        node: "node-1".into(),
        name: "alpha".into(),
        pid: 4711,
        gateway: "127.0.0.1:8080".into(),
        api: "127.0.0.1:8090".into(),
    }
}

pub(super) fn cluster() -> Cluster {
    let member = Member {
        id: "node-1".into(),
        name: "alpha".into(),
        address: "10.0.0.1:8100".into(),
        role: Role::Voter,
        status: NodeStatus::Ready,
        is_leader: true,
        is_promoted: true,
    };
    Cluster {
        id: "0f".repeat(16),
        node: "node-1".into(),
        certificate_ends_at_ms: Some(1_795_521_600_000),
        leader: Some("node-1".into()),
        term: 3,
        voters_to_lose: 1,
        feature_level: 1,
        members: vec![member],
    }
}

pub(super) fn join_token() -> JoinToken {
    JoinToken {
        token: "HRTH-1-…".into(),
        expires_ms: 1_795_521_600_000,
        uses: Some(1),
        address: "10.0.0.1:8100".into(),
    }
}
