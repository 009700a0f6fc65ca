//! `hearth bench memory`: what the daemon holds, what a sandbox costs that nobody uses yet, what an idle instance holds.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::http::{Connection, get};
use super::process_memory::ProcessMemory;
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::subject::{Logging, Subject};
use super::yard::Yard;
use super::{Bench, BenchError, find, folder_in, io_at};
use crate::sandbox::roster::blanks;

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 3;

/// How long a daemon is left alone before one looks at it.
const SETTLE: Duration = Duration::from_secs(2);

/// How many blank sandboxes are compared with none.
const BLANKS: usize = 64;

const MEBIBYTE: f64 = 1_048_576.0;

const MANIFEST: &str = "app = \"bench\"\n";

const FUNCTIONS: [(&str, &str, &str, &str, &str); 2] = [
    (
        "python",
        "python3",
        "python3",
        "app.py",
        "import json\nimport http\n\n\ndef handler(event, context):\n    return {}\n",
    ),
    ("nodejs", "nodejs", "node", "app.mjs", "export const handler = async () => ({});\n"),
];

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let mut daemon = Daemon::default();
    let mut blank = Blank::default();
    for round in 0..rounds {
        bench.say(&format!("{round} of {rounds} rounds"));
        bench.go_on()?;
        daemon.look(bench)?;
        bench.go_on()?;
        blank.look(bench).await?;
    }
    let mut sections = daemon.sections();
    sections.push(blank.section());
    Ok(bench.report("memory", rounds, sections))
}

/// Looks at one thing: what its processes hold.
#[derive(Default)]
struct Looks {
    rss: Samples,
    pss: Samples,
    private: Samples,
    counted: Samples,
}

impl Looks {
    fn add(&mut self, memory: ProcessMemory, counted_bytes: Option<u64>) {
        for (samples, bytes) in
            [(&mut self.rss, memory.rss), (&mut self.pss, memory.pss), (&mut self.private, memory.private)]
        {
            samples.push(mebibytes(bytes));
        }
        counted_bytes.into_iter().for_each(|bytes| self.counted.push(mebibytes(bytes)));
    }

    fn row(&self, name: &str, of: impl Fn(&Self) -> &Samples) -> Row {
        let mut row = Row::new(name, Role::Ours, of(self));
        let parts = [("rss", &self.rss), ("pss", &self.pss), ("private", &self.private), ("cgroup", &self.counted)];
        row.parts =
            parts.into_iter().filter_map(|(name, samples)| Some((name.to_owned(), samples.median()?))).collect();
        row
    }
}

fn mebibytes(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes, which no machine has.
    #[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^53")]
    let bytes = bytes as f64;
    bytes / MEBIBYTE
}

/// A daemon through its first deployment, and its instances.
#[derive(Default)]
struct Daemon {
    fresh: Looks,
    deployed: Looks,
    at_zero: Looks,
    spawners: Looks,
    instances: BTreeMap<&'static str, Looks>,
}

impl Daemon {
    fn look(&mut self, bench: &Bench<'_>) -> Result<(), BenchError> {
        let what = io_at("the app of the benchmark cannot be written");
        let subject = Subject::start(bench, Logging::Default)?;
        sleep(SETTLE);
        self.fresh.add(ProcessMemory::of(subject.pid()), None);
        let app = folder_in(std::env::temp_dir()).map_err(&what)?;
        let mut manifest = MANIFEST.to_owned();
        let functions: Vec<_> = FUNCTIONS.iter().filter(|(_, _, program, ..)| find(program).is_some()).collect();
        for (name, runtime, _, file, text) in &functions {
            manifest.push_str(&format!(
                "[function.{name}]\nruntime = \"{runtime}\"\nsource = \"./{name}\"\nhandler = \"app.handler\"\nscale = {{ max-idle = \"6s\" }}\n"
            ));
            fs::create_dir(app.path().join(name)).map_err(&what)?;
            fs::write(app.path().join(name).join(file), text).map_err(&what)?;
        }
        fs::write(app.path().join("hearth.toml"), manifest).map_err(&what)?;
        subject.apply(app.path())?;
        let call_all = || {
            functions.iter().try_for_each(|(name, ..)| {
                let request = get(&format!("/function/{name}"), "");
                let called = Connection::tcp(subject.gateway()).and_then(|mut to| to.exchange(&request));
                called.map_err(io_at("a function cannot be called"))
            })
        };
        call_all()?;
        sleep(SETTLE);
        self.deployed.add(ProcessMemory::of(subject.pid()), None);
        // The first instances came before there was a zygote; the next come as instances do from then on.
        subject.wait_for_zero()?;
        sleep(SETTLE);
        call_all()?;
        sleep(SETTLE);
        self.spawners.add(ProcessMemory::of_all(&spawners_of(subject.pid())), None);
        for resident in subject.residents() {
            let function =
                functions.iter().find(|(name, ..)| resident.label.contains(&format!("\"function\":\"{name}\"")));
            if let Some((name, ..)) = function {
                let looks = self.instances.entry(name).or_default();
                looks.add(ProcessMemory::of_all(&resident.processes), Some(resident.memory_bytes));
            }
        }
        subject.wait_for_zero()?;
        sleep(SETTLE);
        self.at_zero.add(ProcessMemory::of(subject.pid()), None);
        Ok(())
    }

    fn sections(&self) -> Vec<Section> {
        let resident = |looks: &Looks, name: &str| looks.row(name, |looks| &looks.rss);
        let rows = vec![
            resident(&self.fresh, "just started"),
            resident(&self.deployed, "after a deployment with captured bases"),
            resident(&self.at_zero, "after its functions went to zero"),
            resident(&self.spawners, "its spawners and zygotes beside it"),
        ];
        let daemon = Section::new("resident memory of the daemon", "MiB", rows);
        let idle = daemon.median("just started");
        let zero = daemon.median("after its functions went to zero");
        let daemon = daemon.goal("just started", idle, Side::AtMost, 40.0).goal("at zero", zero, Side::AtMost, 40.0);
        let rows = FUNCTIONS.iter().map(|(name, runtime, program, ..)| match self.instances.get(name) {
            Some(looks) => looks.row(runtime, |looks| &looks.private),
            None => Row::missing(*runtime, Role::Ours, format!("{program} is not installed")),
        });
        vec![daemon, Section::new("private memory of an idle instance", "MiB", rows.collect())]
    }
}

/// Children of the daemon that are no sandboxes, with theirs.
fn spawners_of(daemon: u32) -> Vec<i32> {
    let children = |pid: &str| -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .map(|tasks| tasks.flatten().collect())
            .unwrap_or_else(|_| Vec::new());
        let lists = tasks.iter().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.trim().parse().ok()).collect::<Vec<i32>>()).collect()
    };
    // The inits of sandboxes are children of the daemon too, and have a spawner's command line; libcontainer names them.
    let is_spawner = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let is_init = name.starts_with("youki:");
        !is_init && line.split(|byte| *byte == 0).nth(1) == Some(crate::sandbox::spawner::SUBCOMMAND.as_bytes())
    };
    let spawners: Vec<i32> = children(&daemon.to_string()).into_iter().filter(is_spawner).collect();
    let zygotes: Vec<i32> = spawners.iter().flat_map(|spawner| children(&spawner.to_string())).collect();
    spawners.into_iter().chain(zygotes).collect()
}

/// A pool of blank sandboxes beside an empty one.
#[derive(Default)]
struct Blank {
    inits: Looks,
    spawner: Samples,
    kernel: Samples,
    whole: Samples,
}

impl Blank {
    async fn look(&mut self, bench: &Bench<'_>) -> Result<(), BenchError> {
        let share = |bytes: u64| mebibytes(bytes) / f64::from(u32::try_from(BLANKS).unwrap_or(u32::MAX));
        let pool = |size| async move {
            let yard = Yard::open(bench, Some(size))?;
            let full = yard.wait_full();
            sleep(SETTLE);
            let spawners = ProcessMemory::of_all(&spawners_of(std::process::id()));
            let found = blanks(&yard.run_dir(), &yard.cgroup_parent);
            let inits: Vec<i32> = found.iter().flat_map(|(pids, _)| pids.clone()).collect();
            let held = ProcessMemory::of_all(&inits);
            let counted: u64 = found.iter().map(|(_, bytes)| bytes).sum();
            let kernel = kernel_memory();
            yard.close().await;
            full?;
            Ok::<_, BenchError>((spawners.pss, held, counted, kernel))
        };
        let (spawners_before, _, _, kernel_before) = pool(0).await?;
        let (spawners_after, held, counted, kernel_after) = pool(BLANKS).await?;
        let one = |bytes: u64| bytes / u64::try_from(BLANKS).unwrap_or(u64::MAX);
        let each = ProcessMemory { rss: one(held.rss), pss: one(held.pss), private: one(held.private) };
        self.inits.add(each, Some(one(counted)));
        let spawner = share(spawners_after.saturating_sub(spawners_before));
        let kernel = share(kernel_after.saturating_sub(kernel_before));
        self.spawner.push(spawner);
        self.kernel.push(kernel);
        self.whole.push(mebibytes(each.pss) + spawner + kernel);
        Ok(())
    }

    fn section(&self) -> Section {
        let rows = vec![
            Row::new("all of it", Role::Ours, &self.whole),
            self.inits.row("its init", |looks| &looks.pss),
            Row::new("what the spawners hold more", Role::Ours, &self.spawner),
            Row::new("what the kernel holds more", Role::Ours, &self.kernel),
        ];
        let section = Section::new(format!("one blank sandbox, as a {BLANKS}th of {BLANKS} of them"), "MiB", rows);
        let whole = section.median("all of it");
        section.goal("all of it", whole, Side::AtMost, 1.0)
    }
}

/// Memory that the kernel uses for itself and cannot take back, in bytes: namespaces, mounts, cgroups, sockets are there.
fn kernel_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
    };
    ["SUnreclaim", "KernelStack", "PageTables", "Percpu"].map(field).iter().sum()
}
