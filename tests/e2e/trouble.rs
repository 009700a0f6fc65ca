//! What keeps a node or a command from working, and what is said about it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tests::{Daemon, binary, eventually, free_port, hearth};

use crate::Test;
use crate::operator::{SOON, expect, json, printed, small_app};

pub(crate) const TESTS: &[Test] = &[
    ("what_keeps_a_node_from_starting_is_told", what_keeps_a_node_from_starting_is_told),
    ("a_node_whose_log_nobody_reads_works_on", a_node_whose_log_nobody_reads_works_on),
    ("development_says_what_is_wrong_and_leaves_nothing", development_says_what_is_wrong_and_leaves_nothing),
    ("commands_without_a_node_say_what_they_need", commands_without_a_node_say_what_they_need),
];

fn what_keeps_a_node_from_starting_is_told() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let data = folder.path().join("data").to_string_lossy().into_owned();
    let agent = |more: &[&str]| {
        let arguments = [&["agent", "--data-dir", &data, "--gateway-port", "0", "--api-port", "0"], more].concat();
        hearth(&arguments)
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound listener has an address").port().to_string();
    let in_use = |flag: &str, other: &str| hearth(&["agent", "--data-dir", &data, flag, &port, other, "0"]);
    expect(&agent(&["--peers-port", &port]), &["peers port"], 1, &[&port, "hint:", "--peers-port"]);
    expect(&in_use("--gateway-port", "--api-port"), &["gateway port"], 1, &[&port, "hint:", "--gateway-port"]);
    expect(&in_use("--api-port", "--gateway-port"), &["API port"], 1, &[&port, "hint:", "--api-port"]);
    expect(&agent(&["--bind", "192.0.2.1"]), &["bind"], 1, &["192.0.2.1", "hint: --bind"]);
    expect(&agent(&["--log-format", "xml"]), &["format"], 2, &["xml", "hint:"]);
    expect(&agent(&["--log", "a=b=c"]), &["filter"], 2, &["a=b=c", "hint:"]);
    expect(&agent(&["--label", "zone"]), &["label"], 2, &["key=value", "hint:"]);
    let config = folder.path().join("agent.toml");
    fs::write(&config, "[ports]\ngatway = 1\n").expect("the file can be written");
    let config = config.to_string_lossy().into_owned();
    expect(&agent(&["--config", &config]), &["config"], 2, &["agent.toml:2:1", "^", "did you mean gateway?"]);

    // A data directory that a node wrote, in all the ways it can be unusable.
    let mut daemon = Daemon::agent();
    assert_eq!(daemon.stop(), Some(0));
    let made = daemon.data_dir();
    let start = || hearth(&["agent", "--data-dir", &made.to_string_lossy(), "--gateway-port", "0", "--api-port", "0"]);
    let broken = |file: &str, content: &[u8], words: &[&str]| {
        let path = made.join(file);
        let sound = fs::read(&path).ok();
        fs::write(&path, content).expect("the file can be written");
        expect(&start(), &[file], 1, words);
        match sound {
            Some(sound) => fs::write(&path, sound).expect("the file can be written"),
            None => fs::remove_file(&path).expect("the file can be deleted"),
        }
    };
    broken("FORMAT", b"hearth data directory, format 9\n", &["has format 9", "hint: run the version"]);
    broken("FORMAT", b"junk", &["FORMAT is damaged", "hint:"]);
    broken("token", b"junk", &["token is damaged", "hint: delete it"]);
    broken("raft/snapshots/0000000000000005.snap", b"junk", &["every snapshot", "is damaged", "hint: what is damaged"]);
    let mut log = fs::File::options().read(true).write(true).open(made.join("raft/0000000000000001.wal"));
    let log = log.as_mut().expect("the log can be opened");
    let mut byte = [0];
    let mut flip = || {
        // In the first of many batches: no power cut tears what was synced long before the last.
        log.seek(SeekFrom::Start(40)).and_then(|_| log.read_exact(&mut byte)).expect("the log has more than that");
        log.seek(SeekFrom::Start(40)).and_then(|_| log.write_all(&[byte[0] ^ 1])).expect("the log can be written");
    };
    flip();
    expect(&start(), &["log"], 1, &["wal is damaged at offset", "hint: what is damaged"]);
    flip();
    fs::set_permissions(made.join("token"), fs::Permissions::from_mode(0o644)).expect("the mode can be set");
    expect(&start(), &["mode"], 1, &["mode 644", "hint: chmod 600"]);
    fs::set_permissions(made.join("token"), fs::Permissions::from_mode(0o600)).expect("the mode can be set");
    // Nothing that failed above has changed anything.
    daemon.start();
    let second = start();
    expect(&second, &["locked"], 1, &[&daemon.pid().to_string(), "hint:"]);

    let copy = folder.path().join("hearth");
    fs::copy(binary(), &copy).expect("the binary can be copied");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).args(arguments);
        command.output().expect("setpriv is there")
    };
    expect(
        &as_nobody(&["agent", "--data-dir", &data]),
        &["not root"],
        5,
        &["containers need root", "hint: run it with sudo"],
    );
    let doctor = as_nobody(&["doctor", "-o", "jsonl"]);
    expect(&doctor, &["doctor"], 1, &["no node can run here: root"]);
    assert_eq!(json(printed(&doctor).lines().next().expect("root comes first"))["status"], "fail");
    drop(daemon);
    for folder in [made.to_string_lossy().into_owned(), data] {
        assert!(is_forgotten(&folder), "a run directory of {folder} is left");
    }
}

/// Returns whether no run directory tells of a data directory.
fn is_forgotten(data: &str) -> bool {
    let runs = fs::read_dir("/run/hearth").into_iter().flatten().flatten();
    !runs.into_iter().any(|run| fs::read_to_string(run.path().join("agent.json")).is_ok_and(|text| text.contains(data)))
}

fn a_node_whose_log_nobody_reads_works_on() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let data = folder.path().to_string_lossy().into_owned();
    let mut command = Command::new(binary());
    command.args(["agent", "--data-dir", &data, "--gateway-port", "0", "--api-port", "0", "--peers-port", "0"]);
    command.args(["--log-format", "json"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("hearth can be executed");
    let log = BufReader::new(child.stderr.take().expect("it is piped"));
    let line =
        log.lines().map_while(Result::ok).find(|line| line.contains("serving")).expect("it says where it serves");
    assert!(json(&line)["gateway"].is_string(), "{line}");
    // Nobody reads from here on; it still answers, writes its last words and ends well.
    expect(&hearth(&["get", "nodes", "--data-dir", &data]), &["get nodes"], 0, &[]);
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
    let status = eventually("it ends", SOON, || child.try_wait().expect("the child can be waited for"));
    assert_eq!(status.code(), Some(0));
    assert!(is_forgotten(&data), "its run directory is left");
}

fn development_says_what_is_wrong_and_leaves_nothing() {
    let empty = tempfile::tempdir().expect("a directory can be made");
    let path = empty.path().to_string_lossy().into_owned();
    expect(&hearth(&["dev", &path]), &["dev"], 2, &["there is no hearth.toml", "hint: `hearth init`"]);

    // A machine without Node.js: its function is told with a hint, the other serves.
    let app = small_app("one");
    let manifest = fs::read_to_string(app.path().join("hearth.toml")).expect("the manifest can be read");
    let two =
        format!("{manifest}\n[function.other]\nruntime = \"nodejs\"\nsource = \"./js\"\nhandler = \"app.handler\"\n");
    fs::create_dir(app.path().join("js")).expect("a directory can be made");
    fs::write(app.path().join("js/app.mjs"), "export const handler = () => 1;\n").expect("the handler can be written");
    fs::write(app.path().join("hearth.toml"), &two).expect("the manifest can be written");
    let programs = tempfile::tempdir().expect("a directory can be made");
    let python =
        Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("python3 is there");
    std::os::unix::fs::symlink(printed(&python).trim(), programs.path().join("python3")).expect("a link can be made");

    let (data, log) = (empty.path().join("data"), empty.path().join("log"));
    let port = free_port();
    let develop = |path: &Path| {
        let file = fs::File::options().create(true).append(true).open(&log).expect("the log can be opened");
        let mut command = Command::new(binary());
        command.arg("dev").arg(app.path()).arg("--data-dir").arg(&data);
        command.args(["--gateway-port", &port.to_string(), "--api-port", "0"]).env("PATH", path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("hearth can be executed")
    };
    let log_has = |word: &str| {
        let name = format!("the log says {word:?}");
        eventually(&name, Duration::from_secs(60), || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains(word)).then_some(())
        });
    };
    let interrupt = |child: &Child| {
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
        assert!(sent.success());
    };
    let ends = |mut child: Child| {
        eventually("it ends", SOON, || child.try_wait().expect("the child can be waited for")).code()
    };

    // Interrupted in the middle of its first build.
    let child = develop(programs.path());
    log_has("capturing python3");
    interrupt(&child);
    assert_eq!(ends(child), Some(0));
    for folder in ["uploads", "images/work", "images/blobs/unfinished"] {
        let left = fs::read_dir(data.join(folder)).expect("the folder is there").count();
        assert_eq!(left, 0, "{folder} holds something");
    }
    assert!(is_forgotten(&data.to_string_lossy()), "the run directory is left");

    fs::remove_file(&log).expect("the log can be deleted");
    let child = develop(programs.path());
    log_has("watching for changes");
    let told = fs::read_to_string(&log).expect("the log can be read");
    assert!(told.contains("other: error: this machine has no nodejs") && told.contains("hint:"), "{told}");
    let url = format!("http://127.0.0.1:{port}/function/small");
    let get = || ureq::get(&url).call().map(|mut reply| reply.body_mut().read_to_string()).expect("it answers");
    assert_eq!(get().expect("a text"), "one");
    fs::write(app.path().join("hearth.toml"), "app = \"small").expect("the manifest can be written");
    log_has("hearth.toml:1:13");
    assert_eq!(get().expect("a text"), "one");

    // A call in flight holds up the first Ctrl-C, not the second.
    fs::write(
        app.path().join("src/app.py"),
        "import threading\ndef handler(event, context):\n    print('rests', flush=True)\n    threading.Event().wait(25)\n",
    )
    .expect("the handler can be written");
    fs::write(app.path().join("hearth.toml"), &manifest).expect("the manifest can be written");
    log_has("small@2 serves");
    let call = thread::spawn({
        let url = url.clone();
        move || ureq::get(&url).call().is_ok()
    });
    let logs = || hearth(&["logs", "small", "--data-dir", &data.to_string_lossy()]);
    eventually("the call is in flight", SOON, || printed(&logs()).contains("rests").then_some(()));
    interrupt(&child);
    log_has("stopping; Ctrl-C again");
    interrupt(&child);
    assert_eq!(ends(child), Some(0));
    assert!(!call.join().expect("the caller does not panic"), "the call was cut off");
    assert!(is_forgotten(&data.to_string_lossy()), "the run directory is left");
}

fn commands_without_a_node_say_what_they_need() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let path = folder.path().join("app").to_string_lossy().into_owned();
    let told = hearth(&["get", "nodes", "--data-dir", &path]);
    expect(&told, &["get"], 7, &["no node answers", "hint: is it running? `hearth agent`"]);
    expect(&hearth(&["frobnicate"]), &["unknown"], 2, &["frobnicate"]);
    expect(&hearth(&["init", &path]), &["init"], 0, &["hint: run it with `hearth dev"]);
    expect(&hearth(&["init", &path]), &["init again"], 4, &["is there already", "hint:"]);
    expect(&hearth(&["validate", &path]), &["validate"], 0, &["1 functions"]);
    expect(&hearth(&["fmt", &path, "--check"]), &["fmt"], 0, &[]);
    let manifest = folder.path().join("app/hearth.toml");
    let text = fs::read_to_string(&manifest).expect("the manifest can be read");
    fs::write(&manifest, text.replace("app = ", "app=")).expect("the manifest can be written");
    expect(&hearth(&["fmt", &path, "--check"]), &["fmt"], 1, &["hint: `hearth fmt`"]);
    expect(&hearth(&["fmt", &path]), &["fmt"], 0, &["formatted"]);
    assert_eq!(fs::read_to_string(&manifest).expect("the manifest can be read"), text);

    // The same mistake in three formats is told with its place in each.
    let wrong = [
        ("hearth.toml", "app = \"a\"\n[function.f]\nruntim = \"python3\"\n", ":3:1"),
        ("hearth.yaml", "app: a\nfunction:\n  f:\n    runtim: python3\n", ":4:5"),
        ("hearth.json", "{\"app\": \"a\",\n \"function\": {\"f\": {\"runtim\": \"python3\"}}}\n", ":2:21"),
    ];
    for (name, text, place) in wrong {
        let file = folder.path().join(name);
        fs::write(&file, text).expect("the manifest can be written");
        let file = file.to_string_lossy().into_owned();
        let place = format!("{name}{place}: there is no key runtim");
        expect(&hearth(&["validate", &file]), &["validate"], 2, &[&place, "^", "did you mean runtime?"]);
    }
    assert_eq!(json(&printed(&hearth(&["schema"])))["title"], "hearth.toml");
    assert_eq!(json(&printed(&hearth(&["version", "-o", "json"])))["name"], "hearth");
    assert!(printed(&hearth(&["completion", "bash"])).contains("_hearth"));
    let checks = json(&printed(&hearth(&["doctor", "-o", "json"])));
    let names: Vec<&str> = checks.as_array().into_iter().flatten().filter_map(|check| check["name"].as_str()).collect();
    for name in
        ["root", "kernel", "cgroups", "namespaces", "overlayfs", "seccomp", "disk", "python3", "nodejs", "clock"]
    {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
}
