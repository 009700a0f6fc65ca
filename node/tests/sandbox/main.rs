//! Real sandboxes on the real kernel: what runs in them, what they can reach, and what is left of them. Needs root.
//!
//! Where a shell cannot try something, this very program is what runs in the sandbox; see `probe/`.
#![expect(clippy::print_stdout, reason = "a test runner and a probe speak on standard output")]

/// Names tests by what they are called.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), || crate::host::in_runtime($name()))),*] };
}

mod calls;
mod descriptors;
mod egress;
mod files;
mod floods;
mod host;
mod host_network;
mod layers;
mod life;
mod machine;
mod probe;
mod siblings;
mod tables;

use libtest_mimic::{Arguments, Trial};

/// A test and its name, which is a sentence.
type Test = (&'static str, fn());

/// How many tests run at once: a process has one daemon's sandboxes, as each reaps children that nobody else waits for.
const THREADS: usize = 1;

fn main() {
    if probe::main_if_probe() {
        return;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(THREADS);
    let is_root = nix::unistd::geteuid().is_root();
    let tests = [
        calls::TESTS,
        descriptors::TESTS,
        egress::TESTS,
        files::TESTS,
        floods::TESTS,
        host_network::TESTS,
        layers::TESTS,
        life::TESTS,
        siblings::TESTS,
    ]
    .concat();
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
    host::remove_probe();
    if is_root {
        println!("{count} tests need root: {} of them ran", conclusion.num_passed + conclusion.num_failed);
    } else {
        println!("{count} tests need root to make containers, and did not run");
    }
    conclusion.exit();
}
