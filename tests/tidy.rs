//! House rules that a compiler does not know, held over every file of the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most lines of code a file may have before its tests; the list of exceptions is empty and stays so.
const CODE_LINES_MAX: usize = 500;

/// Folders that hold code of ours.
const ROOMS: [&str; 5] = ["proto", "control-plane", "sim", "node", "tests"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "misc"];

/// Rooms in which `unsafe` may stand: kernel and C library are spoken to there, in the last by a program that attacks them.
const UNSAFE_ROOMS: [&str; 4] = ["node/src/sandbox", "node/src/net", "node/src/heap.rs", "node/tests/sandbox/probe"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

/// Returns every file below `folder` whose name ends in `ending`, as a path from the repository's root, sorted.
fn files(folder: &str, ending: &str) -> Vec<String> {
    fn visit(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in
            fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("the entry can be read"))
        {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | "node_modules") && !name.starts_with('.') {
                    visit(&path, ending, found);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    visit(&root.join(folder), ending, &mut found);
    let mut found: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(&root).expect("it was found below the root").to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

fn rust_files() -> Vec<String> {
    ROOMS.iter().flat_map(|room| files(room, ".rs")).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the part of a file before its unit tests.
fn before_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

/// Fails with every offence on a line of its own.
fn refuse(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let silent: Vec<String> = rust_files()
        .into_iter()
        .filter(|path| !read(path).lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > 12))
        .collect();
    refuse("these files do not open with a //! sentence", &silent);
}

#[test]
fn no_file_grows_beyond_what_one_reads_at_a_sitting() {
    let long: Vec<String> = rust_files()
        .into_iter()
        .map(|path| (before_tests(&read(&path)).lines().count(), path))
        .filter(|(lines, _)| *lines > CODE_LINES_MAX)
        .map(|(lines, path)| format!("{path} has {lines} lines before its tests"))
        .collect();
    refuse("split these files by noun", &long);
}

#[test]
fn every_room_says_what_it_holds() {
    let vague: Vec<String> = rust_files()
        .into_iter()
        .filter(|path| {
            Path::new(path).iter().any(|part| {
                let part = part.to_string_lossy();
                EMPTY_NAMES.contains(&part.trim_end_matches(".rs"))
            })
        })
        .collect();
    refuse("these names say nothing", &vague);
}

#[test]
fn unsafe_stands_only_where_the_kernel_is_spoken_to() {
    let stray: Vec<String> = rust_files()
        .into_iter()
        .filter(|path| !UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) && path != "tests/tidy.rs")
        .filter(|path| {
            read(path).lines().map(str::trim).any(|line| {
                !line.starts_with("//")
                    && (line.contains("unsafe {")
                        || line.contains("unsafe fn")
                        || line.contains("unsafe impl")
                        || line.contains("unsafe_code"))
            })
        })
        .collect();
    refuse("these files hold unsafe code", &stray);
}

#[test]
fn nothing_unfinished_is_left_behind() {
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"];
    let mut offences = Vec::new();
    for path in rust_files().into_iter().filter(|path| path != "tests/tidy.rs") {
        for (number, line) in read(&path).lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                offences.push(format!("{path}:{} has {mark}", number + 1));
            }
        }
    }
    refuse("finish these or take them out", &offences);
}

/// A pause between two looks at a condition is no sleep, nor is the pace of a load; each says so on its line.
fn is_excused(line: &str) -> bool {
    ["// between two looks", "// the pace of the load"].iter().any(|excuse| line.contains(excuse))
        || line.trim_start().starts_with("//")
}

#[test]
fn tests_wait_for_conditions_and_do_not_sleep() {
    let mut offences = Vec::new();
    for path in rust_files().into_iter().filter(|path| path != "tests/tidy.rs") {
        let text = read(&path);
        let tests = if path.contains("/tests/") || path.starts_with("tests/") {
            text.as_str()
        } else {
            &text[before_tests(&text).len()..]
        };
        let skipped = text.lines().count() - tests.lines().count();
        for (number, line) in tests.lines().enumerate() {
            if line.contains("sleep(") && !is_excused(line) {
                offences.push(format!("{path}:{} {}", skipped + number + 1, line.trim()));
            }
        }
    }
    refuse("these tests sleep", &offences);
}

#[test]
fn the_control_plane_cannot_act() {
    let forbidden = ["tokio", "mio", "socket2", "hyper", "tonic", "sled", "libcontainer", "nix", "rustix"];
    for package in ["control-plane", "sim"] {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--locked",
                "--edges",
                "normal",
                "--prefix",
                "none",
                "--format",
                "{p}",
                "--package",
                package,
            ])
            .current_dir(root())
            .output()
            .expect("cargo is there, it built this test");
        assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout).into_owned();
        let found: Vec<String> = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| forbidden.contains(name))
            .map(|name| format!("{package} depends on {name}"))
            .collect();
        refuse("the control plane decides, the node acts", &found);
    }
}

#[test]
fn faults_are_planted_only_where_they_are_looked_for() {
    // Cargo unites features over everything it builds at once: what one member switched on, `node` would get too.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--workspace", "--edges", "normal,build,dev", "--prefix", "none"])
        .args(["--format", "{p} [{f}]"])
        .current_dir(root())
        .output()
        .expect("cargo is there, it built this test");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_planted =
        |line: &&str| line.contains('[') && line.rsplit('[').next().is_some_and(|on| on.contains("planted"));
    let planted: Vec<String> = tree.lines().filter(is_planted).map(ToOwned::to_owned).collect();
    refuse("these are built with planted faults", &planted);
    assert!(
        tree.lines().any(|line| line.starts_with("control-plane ") && line.contains("raft")),
        "features are listed"
    );
    // The second lock: a build of `node` with them does not compile.
    assert!(
        read("node/src/lib.rs").contains("assert!(!control_plane::HAS_PLANTED_FAULTS"),
        "node refuses to be built with them"
    );
    let shown: Vec<String> = ROOMS
        .iter()
        .filter(|room| !matches!(**room, "control-plane" | "sim"))
        .map(|room| format!("{room}/Cargo.toml"))
        .filter(|manifest| read(manifest).contains("planted"))
        .collect();
    refuse("these manifests know of planted faults", &shown);
}

#[test]
fn documents_name_files_that_exist() {
    let mut offences = Vec::new();
    let documents = files("docs", ".md")
        .into_iter()
        .chain(["README.md".to_owned()])
        .filter(|path| !path.starts_with("docs/design/"));
    for document in documents {
        for word in read(&document).split('`').skip(1).step_by(2) {
            let is_path = ROOMS.iter().chain(&["docs", "examples"]).any(|room| word.starts_with(&format!("{room}/")));
            let plain = !word.contains(['*', '<', '…', ' ', '{', ':']);
            if is_path && plain && !root().join(word).exists() {
                offences.push(format!("{document} names {word}"));
            }
        }
    }
    refuse("these files do not exist", &offences);
}

#[test]
fn the_repository_speaks_of_no_machine() {
    let marks = ["/ro".to_owned() + "ot/.", "/ho".to_owned() + "me/", "/wo".to_owned() + "rk/"];
    let mut offences = Vec::new();
    for path in rust_files().into_iter().chain(files("docs", ".md")).chain(files("examples", "")) {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                offences.push(format!("{path}:{} {}", number + 1, line.trim()));
            }
        }
    }
    refuse("these lines hold paths of one machine", &offences);
}
