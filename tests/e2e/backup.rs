//! Backups: out of one platform, into another.

use std::fs;

use tests::{Daemon, eventually, hearth};

use crate::Test;
use crate::operator::{SOON, expect, json, refused, said, small_app};

pub(crate) const TESTS: &[Test] = &[("a_backup_brings_everything_back_elsewhere", a_backup_brings_everything_back)];

fn a_backup_brings_everything_back() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (with_images, without, damaged) = (file("images.hearth"), file("bare.hearth"), file("damaged.hearth"));

    let old = Daemon::agent();
    let app = small_app("one");
    old.apply(app.path());
    old.succeed(&["scale", "small", "--max", "7"]);
    let told = old.hearth(&["snapshot", "save", &without]);
    expect(&told, &["save"], 0, &["hint: 1 images are not in it; `--images` takes them along"]);
    let saved = json(&old.succeed(&["snapshot", "save", &with_images, "--images", "-o", "json"]));
    assert_eq!((&saved["functions"], &saved["images"][0]["included"]), (&1.into(), &true.into()), "{saved}");
    let cluster = json(&old.succeed(&["cluster", "status", "-o", "json"]))["id"].clone();
    drop(old);

    // No node is needed to look at one.
    let inspected = hearth(&["snapshot", "inspect", &with_images, "-o", "json"]);
    expect(&inspected, &["inspect"], 0, &[]);
    let inspected = json(&String::from_utf8_lossy(&inspected.stdout));
    assert_eq!((&inspected, &inspected["cluster"]), (&saved, &cluster));
    let mut bytes = fs::read(&with_images).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, &bytes).expect("it can be written");
    let told = hearth(&["snapshot", "inspect", &damaged]);
    expect(&told, &["inspect"], 9, &["the backup is damaged", "hint: use another copy"]);

    let new = Daemon::agent();
    refused(&new, &["snapshot", "restore", &damaged], 9, &["the backup is damaged", "hint:"]);
    refused(&new, &["snapshot", "restore", &file("nowhere")], 2, &["nowhere"]);
    assert_eq!(new.succeed(&["get", "functions", "-o", "name"]), "");
    let restored = new.hearth(&["snapshot", "restore", &with_images, "-o", "json"]);
    expect(&restored, &["restore"], 0, &[]);
    assert_eq!(json(&String::from_utf8_lossy(&restored.stdout))["missing"], serde_json::json!([]));
    assert_eq!(new.get("/function/small").body, "one", "its image came along");
    let function = json(&new.succeed(&["describe", "function", "small", "-o", "json"]));
    assert_eq!((&function["live"], &function["scaling"]["max"]), (&1.into(), &7.into()), "{function}");
    assert_ne!(json(&new.succeed(&["cluster", "status", "-o", "json"]))["id"], cluster);
    assert!(new.succeed(&["get", "events"]).contains("1 functions were restored"));
    let words = ["something was deployed here before", "hint: a backup is restored where nothing was ever deployed"];
    refused(&new, &["snapshot", "restore", &with_images], 4, &words);
    drop(new);

    // Without its image a function is there, says what it lacks, and serves once it is deployed again.
    let bare = Daemon::agent();
    let told = bare.hearth(&["snapshot", "restore", &without]);
    expect(&told, &["restore"], 0, &["1 images are not on this node", "hint: `hearth apply` builds them again"]);
    let reply = bare.get("/function/small");
    assert!(reply.status >= 500, "{reply:?}");
    bare.apply(app.path());
    eventually("the function answers", SOON, || (bare.get("/function/small").body == "one").then_some(()));
    assert!(said(&told).contains("does not start"), "{}", said(&told));
}
