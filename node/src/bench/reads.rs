//! `hearth bench reads`: reads that see all that was acknowledged before them, beside etcd.
//!
//! A leader must make sure that it still leads before it answers. One client for both sends the same messages to either leader; the
//! answer is a value of 64 bytes.

use super::contest::{Work, contest};
use super::report::{Report, Side};
use super::{Bench, BenchError};

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 5;

/// How many clients read at once, and how many times as many reads as etcd's are to come of it.
const CLIENTS: [(usize, f64); 2] = [(1, 1.1), (64, 2.0)];

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let mut sections = Vec::new();
    for (count, goal) in CLIENTS {
        let title = format!("linearizable reads a second of three voters, {count} clients");
        let section = contest(bench, rounds, title, Work::Read, count).await?;
        let times = section.ratio("etcd").map(|ratio| 1.0 / ratio);
        sections.push(section.goal("times etcd's reads", times, Side::AtLeast, goal));
    }
    Ok(bench.report("reads", rounds, sections))
}
