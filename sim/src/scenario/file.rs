//! A scenario as TOML: unknown keys are refused with their place, and what does not make sense with what would.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::model::{Bytes, Concurrency, FunctionName, MilliCpu, Scaling};
use serde::Deserialize;

use super::Target;
use super::text::{Cpu, Memory, ShareBound, Time, TimeBound, Times};
use super::{Expect, FAULTS_MAX, Fault, FunctionLoad, Kind, LOAD_MAX, NODES_MAX, RATE_MAX, Scenario, ScenarioError};

/// How long the text of a scenario may be, in bytes.
const TEXT_MAX: usize = 1 << 20;

/// How much longer messages take where a fault is to slow them and does not say.
const DELAY_DEFAULT: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    name: Option<String>,
    topology: Topology,
    function: Vec<Function>,
    load: Load,
    #[serde(default)]
    fault: Vec<WrittenFault>,
    #[serde(default)]
    expect: WrittenExpect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Topology {
    zones: BTreeMap<String, u32>,
    #[serde(default)]
    memory: Option<Memory>,
    #[serde(default)]
    cpu: Option<Cpu>,
    #[serde(default)]
    latency: Option<Time>,
    #[serde(default)]
    latency_between_zones: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Function {
    name: String,
    rate: u32,
    #[serde(default)]
    memory: Option<Memory>,
    #[serde(default)]
    concurrency: Option<u16>,
    #[serde(default)]
    min: Option<u32>,
    #[serde(default)]
    max: Option<u32>,
    #[serde(default)]
    max_idle: Option<Time>,
    #[serde(default)]
    start: Option<Times>,
    #[serde(default)]
    call: Option<Times>,
    #[serde(default)]
    timeout: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Load {
    r#for: Time,
    #[serde(default)]
    change_every: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenFault {
    at: Time,
    r#for: Time,
    kind: Kind,
    target: Target,
    #[serde(default)]
    delay: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenExpect {
    #[serde(default)]
    lost_acked: Option<u64>,
    #[serde(default)]
    availability: Option<ShareBound>,
    #[serde(default)]
    p99: Option<TimeBound>,
    #[serde(default)]
    cold_p99: Option<TimeBound>,
    #[serde(default)]
    recovery: Option<TimeBound>,
}

fn refuse(problem: impl Into<String>, hint: impl Into<String>) -> ScenarioError {
    ScenarioError::new(problem, hint)
}

/// Reads a scenario.
pub(super) fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    if text.len() > TEXT_MAX {
        return Err(refuse(format!("the text is longer than {TEXT_MAX} bytes"), "a scenario is a page, not a trace"));
    }
    let file: File = toml::from_str(text).map_err(|error| {
        let hint = "docs/guide/simulator.md lists every key; `hearth sim run --help` shows an example";
        refuse(error.to_string().trim_end(), hint)
    })?;
    let topology = file.topology;
    let zones = zones(topology.zones)?;
    let nodes = zones.values().sum();
    let time = |time: Option<Time>, default| time.map_or(default, |time| time.0);
    let length = file.load.r#for.0;
    if length.is_zero() || length > LOAD_MAX {
        return Err(refuse("load.for is out of range", "say how long there is load: up to 24h"));
    }
    let change_every = file.load.change_every.map(|every| every.0);
    if change_every.is_some_and(|every| every < Duration::from_millis(1)) {
        return Err(refuse("load.change-every is too short", "an operator needs a millisecond or more"));
    }
    Ok(Scenario {
        name: file.name.unwrap_or_else(|| "scenario".to_owned()),
        capacity: (
            topology.cpu.map_or(MilliCpu(16_000), |cpu| cpu.0),
            topology.memory.map_or(Bytes::mebi(4096), |memory| memory.0),
        ),
        latency: time(topology.latency, Duration::from_micros(200)),
        latency_between: time(topology.latency_between_zones, Duration::ZERO),
        functions: functions(file.function)?,
        length,
        change_every,
        faults: faults(file.fault, &zones, nodes, length)?,
        zones,
        expect: Expect {
            lost_acked: file.expect.lost_acked,
            availability: file.expect.availability.map(|bound| bound.0),
            p99: file.expect.p99.map(|bound| bound.0),
            cold_p99: file.expect.cold_p99.map(|bound| bound.0),
            recovery: file.expect.recovery.map(|bound| bound.0),
        },
    })
}

fn zones(zones: BTreeMap<String, u32>) -> Result<BTreeMap<String, u32>, ScenarioError> {
    let nodes = zones.values().fold(0_u32, |sum, count| sum.saturating_add(*count));
    if nodes == 0 || nodes > NODES_MAX {
        let problem = format!("topology.zones has {nodes} nodes");
        return Err(refuse(problem, format!("name zones with 1 to {NODES_MAX} nodes in all: zones = {{ a = 3 }}")));
    }
    Ok(zones)
}

fn functions(written: Vec<Function>) -> Result<Vec<FunctionLoad>, ScenarioError> {
    let rate = written.iter().fold(0_u32, |sum, function| sum.saturating_add(function.rate));
    if written.is_empty() || rate > RATE_MAX {
        let problem = format!("{} functions are called {rate} times a second", written.len());
        return Err(refuse(problem, format!("name at least one [[function]], and at most {RATE_MAX} calls a second")));
    }
    let mut functions: Vec<FunctionLoad> = Vec::new();
    for function in written {
        let read = function_load(&function).map_err(|problem| {
            refuse(
                format!("function {:?}: {problem}", function.name),
                "docs/guide/simulator.md says what each key takes",
            )
        })?;
        if functions.iter().any(|known| known.name == read.name) {
            return Err(refuse(format!("there are two functions {}", read.name), "give each a name of its own"));
        }
        functions.push(read);
    }
    Ok(functions)
}

fn function_load(written: &Function) -> Result<FunctionLoad, String> {
    let name: FunctionName = written.name.parse().map_err(|error| format!("{error}"))?;
    let times = |times: Option<Times>, least, most| {
        times.map_or((Duration::from_millis(least), Duration::from_millis(most)), |times| (times.0, times.1))
    };
    let min = written.min.unwrap_or(Scaling::DEFAULT.min());
    let max = written.max.unwrap_or_else(|| Scaling::DEFAULT.max().max(min));
    let idle = written.max_idle.map_or(Scaling::DEFAULT.idle_max(), |idle| idle.0);
    Ok(FunctionLoad {
        name,
        memory: written.memory.map_or(Bytes::mebi(128), |memory| memory.0),
        concurrency: Concurrency::new(written.concurrency.unwrap_or(1)).ok_or("its concurrency is out of range")?,
        scaling: Scaling::new(min, max, idle).map_err(|error| error.to_string())?,
        start: times(written.start, 50, 200),
        call: times(written.call, 5, 20),
        timeout: written.timeout.map_or(Duration::from_secs(30), |timeout| timeout.0),
        rate: written.rate,
    })
}

fn faults(
    written: Vec<WrittenFault>,
    zones: &BTreeMap<String, u32>,
    nodes: u32,
    length: Duration,
) -> Result<Vec<Fault>, ScenarioError> {
    if written.len() > FAULTS_MAX {
        return Err(refuse(format!("there are {} faults", written.len()), format!("the most is {FAULTS_MAX}")));
    }
    let mut faults = Vec::new();
    for (number, fault) in (1..).zip(written) {
        let place = format!("fault {number} ({} {})", fault.kind.as_str(), fault.target);
        let missing = match &fault.target {
            Target::Zone(zone) if !zones.contains_key(zone) => Some(format!("there is no zone {zone:?}")),
            Target::Node(node) if *node > nodes => Some(format!("there are {nodes} nodes")),
            Target::Any(count) if *count > nodes => Some(format!("there are {nodes} nodes")),
            Target::Zone(_) | Target::Node(_) | Target::Any(_) | Target::Leader | Target::Minority | Target::All => {
                None
            }
        };
        if let Some(missing) = missing {
            return Err(refuse(format!("{place}: {missing}"), "target what topology.zones has"));
        }
        if fault.at.0 + fault.r#for.0 > length {
            let hint = "let it begin earlier or load.for be longer, so that what comes after it is seen";
            return Err(refuse(format!("{place}: it ends after the load"), hint));
        }
        if fault.delay.is_some() && fault.kind != Kind::Slow {
            return Err(refuse(format!("{place}: it has a delay"), "only `kind = \"slow\"` takes `delay`"));
        }
        faults.push(Fault {
            at: fault.at.0,
            length: fault.r#for.0,
            kind: fault.kind,
            target: fault.target,
            delay: fault.delay.map_or(DELAY_DEFAULT, |delay| delay.0),
        });
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "topology.zones = { a = 3 }\nload.for = \"10s\"\n[[function]]\nname = \"hello\"\nrate = 5\n";

    fn problem(text: &str) -> String {
        let error = parse(text).expect_err("it is no scenario");
        assert!(!error.hint.is_empty());
        error.problem
    }

    #[test]
    fn the_least_is_a_topology_a_load_and_a_function() {
        let scenario = parse(SMALL).expect("it is a scenario");
        assert_eq!((scenario.nodes(), scenario.functions.len(), scenario.faults.len()), (3, 1, 0));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let misspelt = problem(&SMALL.replace("rate", "rates"));
        assert!(misspelt.contains("line 5") && misspelt.contains("unknown field `rates`"), "{misspelt}");
        let timeless = problem(&SMALL.replace("\"10s\"", "\"soon\""));
        assert!(timeless.contains("\"soon\" is no time like 20ms, 5s, 10m or 1h"), "{timeless}");
        let fault = |rest: &str| problem(&format!("{SMALL}[[fault]]\nat = \"1s\"\nfor = \"1s\"\n{rest}"));
        let unknown = fault("kind = \"explode\"\ntarget = \"all\"");
        assert!(unknown.contains("unknown variant `explode`, expected one of `kill`"), "{unknown}");
        assert!(fault("kind = \"kill\"\ntarget = \"me\"").contains("none of leader, node-N, zone:NAME"));
        assert_eq!(fault("kind = \"kill\"\ntarget = \"node-4\""), "fault 1 (kill node-4): there are 3 nodes");
        assert_eq!(fault("kind = \"kill\"\ntarget = \"zone:b\""), "fault 1 (kill zone:b): there is no zone \"b\"");
        assert_eq!(fault("kind = \"kill\"\ntarget = \"all\"\ndelay = \"1s\""), "fault 1 (kill all): it has a delay");
        let late = format!("{SMALL}[[fault]]\nat = \"9s\"\nfor = \"2s\"\nkind = \"kill\"\ntarget = \"all\"");
        assert_eq!(problem(&late), "fault 1 (kill all): it ends after the load");
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused() {
        assert!(problem(&SMALL.replace("a = 3", "a = 101")).contains("101 nodes"));
        assert!(problem(&SMALL.replace("a = 3", "a = 0")).contains("0 nodes"));
        assert!(problem(&SMALL.replace("rate = 5", "rate = 10001")).contains("10001 times"));
        assert!(problem(&SMALL.replace("10s", "25h")).contains("load.for"));
        assert!(problem(&format!("{SMALL}min = 5\nmax = 2\n")).contains("min 5 is above max 2"));
        assert!(problem(&format!("{SMALL}[[function]]\nname = \"hello\"\nrate = 1\n")).contains("two functions"));
    }
}
