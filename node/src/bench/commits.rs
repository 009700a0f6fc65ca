//! `hearth bench commits`: writes that three voters have agreed on and kept, beside etcd.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use super::contest::{Work, contest};
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::{Bench, BenchError, folder_in, io_at};

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 5;

/// How many clients write at once, and how many times as many writes as etcd's are to come of it.
const CLIENTS: [(usize, f64); 3] = [(1, 1.0), (64, 2.0), (1024, 1.5)];

/// How many bytes the floor writes before it syncs.
const FLOOR_BYTES: usize = 128;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let mut sections = vec![floor(bench, rounds)?];
    for (count, goal) in CLIENTS {
        let title = format!("writes a second that three voters have synced, {count} clients");
        let section = contest(bench, rounds, title, Work::Write, count).await?;
        let times = section.ratio("etcd").map(|ratio| 1.0 / ratio);
        sections.push(section.goal("times etcd's writes", times, Side::AtLeast, goal));
    }
    Ok(bench.report("commits", rounds, sections))
}

/// What the disk needs to keep one small write.
fn floor(bench: &Bench<'_>, rounds: usize) -> Result<Section, BenchError> {
    let what = io_at("the disk cannot be measured");
    bench.go_on()?;
    bench.say("the disk by itself");
    let folder = folder_in(std::env::temp_dir()).map_err(&what)?;
    let mut file = OpenOptions::new().create_new(true).append(true).open(folder.path().join("log")).map_err(&what)?;
    let mut samples = Samples::default();
    for _ in 0..rounds * 200 {
        let began = Instant::now();
        file.write_all(&[7; FLOOR_BYTES]).and_then(|()| file.sync_data()).map_err(&what)?;
        samples.time(began.elapsed());
    }
    let rows = vec![Row::new("write and fdatasync", Role::Floor, &samples)];
    Ok(Section::new("one small write on one disk, by itself", "ms", rows))
}
