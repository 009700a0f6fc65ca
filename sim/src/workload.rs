//! What callers, operators and bad luck do to a node, drawn from its seed.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::model::{
    AppName, Bytes, Concurrency, Digest, FunctionName, FunctionSpec, MilliCpu, Network, Resources, RevisionSpec,
    Runtime, Scaling, Timestamp,
};
use control_plane::state::Command;

use crate::node::{Event, Node};
use crate::rng::Rng;

/// Draws everything that will happen until `end`.
pub(crate) fn begin(node: &mut Node, seed: u64, end: Timestamp) {
    let mut rng = Rng::stream(seed, "workload");
    let count = 1 + rng.below(4);
    let names: Vec<FunctionName> = (0..count)
        .map(|number| {
            let kind = if rng.chance(300) { "shaky" } else { "steady" };
            format!("{kind}-{number}").parse().expect("the name is valid")
        })
        .collect();
    let busy = end.since(node.now);
    let some_time = |rng: &mut Rng, from: u64| {
        Timestamp::from_millis(end.as_millis() - u64::try_from(busy.as_millis()).unwrap_or(0))
            + Duration::from_millis(rng.between(from, 115_000))
    };
    let first = node.now + Duration::from_millis(5);
    let deployment = deploy(&mut rng, &names, 0);
    node.at(first, Event::Operate(deployment));
    for version in 1..=rng.below(6) {
        let version = u8::try_from(version).unwrap_or(0);
        let deployment = deploy(&mut rng, &names, version);
        let at = some_time(&mut rng, 1_000);
        node.at(at, Event::Operate(deployment));
    }
    if rng.chance(200) {
        let function = rng.pick(&names).clone();
        let at = some_time(&mut rng, 5_000);
        node.at(at, Event::Operate(Command::DeleteFunction { function }));
    }
    for name in &names {
        for _ in 0..rng.below(400) {
            let at = some_time(&mut rng, 0);
            node.at(at, Event::Arrive(name.clone()));
        }
        if rng.chance(500) {
            let at = some_time(&mut rng, 1_000);
            for _ in 0..rng.below(120) {
                node.at(at, Event::Arrive(name.clone()));
            }
        }
    }
    for (event, most) in [(Event::Crash, 12), (Event::Restart, 3), (Event::Depose, 3)] {
        for _ in 0..rng.below(most) {
            let at = some_time(&mut rng, 100);
            node.at(at, event.clone());
        }
    }
}

/// Calls every function once more.
pub(crate) fn one_more_call_each(node: &mut Node) {
    let done = node.counts.get("done").copied().unwrap_or(0);
    node.counts.insert("done before", done);
    let live: Vec<FunctionName> = node
        .state
        .functions
        .iter()
        .filter(|(_, function)| function.live.is_some())
        .map(|(name, _)| name.clone())
        .collect();
    for name in live {
        node.at(node.now, Event::Arrive(name));
    }
}

fn deploy(rng: &mut Rng, names: &[FunctionName], version: u8) -> Command {
    let app: AppName = "simulated".parse().expect("the name is valid");
    let functions = names
        .iter()
        .map(|name| FunctionSpec {
            name: name.clone(),
            revision: RevisionSpec {
                runtime: Runtime::Provided,
                image: Digest::from_bytes([if rng.chance(700) { version } else { 0 }; 32]),
                command: Vec::new(),
                handler: None,
                environment: BTreeMap::new(),
                resources: Resources {
                    cpu: MilliCpu(100),
                    memory: Bytes::mebi(rng.between(64, 128)),
                    disk: Bytes::mebi(64),
                    pids: 64,
                },
                timeout: Duration::from_secs(10),
                concurrency: Concurrency::new(u16::try_from(rng.between(1, 4)).unwrap_or(1))
                    .unwrap_or(Concurrency::ONE),
                network: Network::None,
                user: Some(1000),
            },
            scaling: Scaling::new(
                u32::try_from(rng.below(3)).unwrap_or(0),
                u32::try_from(rng.between(2, 30)).unwrap_or(2),
                Duration::from_secs(rng.between(1, 700)),
            )
            .unwrap_or(Scaling::DEFAULT),
            triggers: Vec::new(),
        })
        .collect();
    Command::DeployApp { app, functions, check_index: None }
}
