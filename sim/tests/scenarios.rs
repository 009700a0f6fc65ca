//! Plays every story and compares what happens with what it says; `UPDATE_EXPECT=1` writes down what happens instead.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns every story, sorted.
fn stories() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder of stories is there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    found.sort();
    found
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads and writes its expectations")]
fn every_story_happens_as_it_says() {
    let is_update = std::env::var("UPDATE_EXPECT").is_ok_and(|value| value == "1");
    let stories = stories();
    assert!(!stories.is_empty(), "there are stories");
    let mut differences = Vec::new();
    for path in &stories {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let expected = fs::read_to_string(path).expect("a story is text");
        let told = match sim::story::tell(&expected) {
            Ok(told) => told,
            Err(error) => {
                differences.push(format!("{name}.txt, {error}"));
                continue;
            }
        };
        for violation in &told.violations {
            differences.push(format!("{name}: {violation}"));
        }
        if told.text != expected {
            if is_update {
                fs::write(path, &told.text).expect("the story can be written");
            } else {
                let diff = similar::TextDiff::from_lines(&expected, &told.text);
                let shown = diff.unified_diff().context_radius(2).header("it says", "it happens").to_string();
                differences.push(format!("{name}.txt\n{shown}"));
            }
        }
        eprintln!("{name}: {} virtual seconds", told.span.as_secs());
    }
    assert!(
        differences.is_empty(),
        "stories went otherwise; if that is right: UPDATE_EXPECT=1 cargo story\n{}",
        differences.join("\n")
    );
}
