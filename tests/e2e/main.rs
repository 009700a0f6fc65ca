//! End-to-end tests: real daemons, real containers, real clients, on the real kernel.
#![expect(clippy::print_stdout, reason = "a test runner speaks on standard output")]

mod backup;
mod bench;
mod cluster;
mod deploy;
mod errors;
mod examples;
mod image;
mod members;
mod moves;
mod network;
mod operator;
mod power;
mod restart;
mod scale;
mod trouble;
mod upgrade;
mod zygote;

use libtest_mimic::{Arguments, Trial};

/// A test and its name, which is a sentence.
type Test = (&'static str, fn());

/// How many daemons run at once: their functions share two cores with them.
const THREADS: usize = 2;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    let is_root = tests::is_root();
    let racks = [cluster::TESTS, members::TESTS, moves::TESTS, network::TESTS, power::TESTS, upgrade::TESTS].concat();
    let others = [
        backup::TESTS,
        bench::TESTS,
        deploy::TESTS,
        errors::TESTS,
        examples::TESTS,
        image::TESTS,
        operator::TESTS,
        restart::TESTS,
        scale::TESTS,
        trouble::TESTS,
        zygote::TESTS,
    ]
    .concat();
    let tests = spread(racks, others);
    let count = tests.len();
    let trials = tests
        .into_iter()
        .map(|(name, test): Test| {
            let trial = Trial::test(name, move || {
                test();
                Ok(())
            });
            trial.with_ignored_flag(!is_root)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if is_root {
        println!("{count} tests need root: {} of them ran", conclusion.num_passed + conclusion.num_failed);
    } else {
        println!("{count} tests need root to make containers, and did not run");
    }
    conclusion.exit();
}

/// Returns all tests in an order in which those of racks, which take turns, seldom wait for each other.
fn spread(racks: Vec<Test>, others: Vec<Test>) -> Vec<Test> {
    let between = others.len().div_ceil(racks.len());
    let mut others = others.into_iter();
    let mut spread = Vec::new();
    for rack in racks {
        spread.push(rack);
        spread.extend(others.by_ref().take(between));
    }
    spread
}
