//! The benchmarks run on this machine and say what they promise to say; how fast it is, no test asks.

use std::process::{Command, Stdio};

use serde_json::Value;
use tests::binary;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_cold_benchmark_has_every_figure_beside_its_floor", a_cold_benchmark_has_every_figure_beside_its_floor),
    ("benchmarks_of_a_cluster_have_every_figure", benchmarks_of_a_cluster_have_every_figure),
];

/// Runs a benchmark and returns its report; it must leave nothing behind.
fn report(bench: &str, rounds: u64) -> Value {
    let child = Command::new(binary())
        .args(["bench", bench, "--rounds", &rounds.to_string(), "-o", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hearth can be executed");
    let mark = format!("/hearth-bench-{}-", child.id());
    let output = child.wait_with_output().expect("the benchmark ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{bench}: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("data is JSON, and nothing else is on stdout");
    assert_eq!((report["bench"].as_str(), report["rounds"].as_u64()), (Some(bench), Some(rounds)));
    let left: Vec<String> = ["/run", &std::env::temp_dir().to_string_lossy()]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).expect("the folder can be read").flatten())
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .filter(|path| path.contains(&mark))
        .collect();
    assert!(left.is_empty(), "{bench} left behind: {left:?}");
    report
}

fn a_cold_benchmark_has_every_figure_beside_its_floor() {
    let report = report("cold", 2);
    assert!(report["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{report}");
    let sections = report["sections"].as_array().expect("there are sections");
    assert_eq!(sections.len(), 4, "sandbox, static, python3, nodejs: {report}");
    for section in sections {
        let rows = section["rows"].as_array().expect("there are rows");
        for row in rows {
            let measured = row["samples"].as_u64() == Some(2)
                && row["p50"].as_f64().is_some_and(|p50| p50 > 0.0)
                && row["p99"].as_f64() >= row["p50"].as_f64();
            let is_missing_peer = row["p50"].is_null() && row["note"].as_str().is_some_and(|n| n.contains("installed"));
            assert!(measured || is_missing_peer, "neither measured nor said why not: {row}");
        }
        let has = |role: &str| rows.iter().any(|row| row["role"] == role && row["samples"] == 2);
        assert!(has("ours") && has("floor"), "{section}");
    }
    let phases = &sections[1]["rows"][0]["parts"];
    for phase in ["queue", "place", "sandbox", "init", "run"] {
        assert!(phases[phase].is_number(), "{phase} is missing: {phases}");
    }
}

fn benchmarks_of_a_cluster_have_every_figure() {
    // Without `place`: what it demands takes a build without optimization longer than it waits.
    for (bench, sections) in [("hop", 2), ("reads", 2), ("death", 4)] {
        let report = report(bench, 1);
        let found = report["sections"].as_array().expect("there are sections");
        assert_eq!(found.len(), sections, "{report}");
        let mut answered = 0;
        for section in found {
            let ours = &section["rows"][0];
            let is_measured = ours["samples"].as_u64() > Some(0) && ours["p50"].is_number();
            assert!(ours["role"] == "ours" && is_measured, "{bench}: {section}");
            if let Some(calls) = ours["parts"]["calls"].as_f64() {
                let failed = ours["parts"]["failed calls"].as_f64().expect("it is told beside the calls");
                assert!(calls > 0.0 && failed < calls / 2.0, "{bench}: most calls are answered: {section}");
                answered += 1;
            }
        }
        assert_eq!(answered, if bench == "death" { 2 } else { 0 }, "{bench}: {report}");
        let goals: usize = found.iter().filter_map(|section| Some(section["goals"].as_array()?.len())).sum();
        // What is to be some times a peer's says nothing where the peer is not installed.
        let lacks_peer = bench == "reads" && found[0]["rows"][1]["p50"].is_null();
        assert!(goals > 0 || lacks_peer, "{bench} has no goal: {report}");
    }
}
