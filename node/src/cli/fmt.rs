//! `hearth fmt`: a manifest in its usual form.
//!
//! Only white space changes: around `=`, at the ends of lines, and the empty lines between tables. What the manifest says is
//! compared before and after, so a text that this would change is left alone.

use super::args::Fmt;
use super::failure::Failure;
use super::output;
use crate::manifest;

pub(super) fn fmt(arguments: &Fmt) -> Result<(), Failure> {
    let path = manifest::find(&arguments.path).map_err(super::apply::unusable)?;
    if path.extension().is_some_and(|extension| extension != "toml") {
        return Err(Failure::exit(2, format!("{} is no TOML", path.display())).hint("only hearth.toml is formatted"));
    }
    super::apply::load(&arguments.path)?;
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::of(&error))?;
    let usual = usual(&text)
        .ok_or_else(|| Failure::new(format!("{} cannot be formatted without changing what it says", path.display())))?;
    if usual == text {
        return Ok(());
    }
    if arguments.check {
        return Err(Failure::new(format!("{} is not in its usual form", path.display()))
            .hint("`hearth fmt` without --check brings it there"));
    }
    crate::data_dir::replace_file(&path, usual.as_bytes(), 0o644).map_err(|error| Failure::of(&error))?;
    output::say(&format!("formatted {}", path.display()));
    Ok(())
}

/// Returns a TOML text in its usual form, or nothing if it would then say something else.
fn usual(text: &str) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    // Inside of a text of several lines every character counts.
    let mut open: Option<&str> = None;
    for line in text.lines() {
        if let Some(quotes) = open {
            lines.push(line.to_owned());
            if line.matches(quotes).count() % 2 == 1 {
                open = None;
            }
            continue;
        }
        let line = line.trim_end();
        let trimmed = line.trim_start();
        let is_table =
            trimmed.starts_with('[') && lines.last().is_none_or(|before| !before.trim_end().ends_with([',', '[']));
        if is_table && lines.iter().any(|before| !before.is_empty()) {
            // A comment right above a table belongs to it.
            let comments = lines.iter().rev().take_while(|before| before.starts_with('#')).count();
            let at = lines.len() - comments;
            if at > 0 && !lines[at - 1].is_empty() {
                lines.insert(at, String::new());
            }
        }
        if trimmed.is_empty() {
            if lines.last().is_some_and(|before| !before.is_empty()) {
                lines.push(String::new());
            }
            continue;
        }
        lines.push(spaced(if is_table { trimmed } else { line }));
        open = ["\"\"\"", "'''"].into_iter().find(|quotes| line.matches(quotes).count() % 2 == 1);
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let usual = lines.join("\n") + "\n";
    let says = |text: &str| toml::from_str::<toml::Table>(text).ok();
    (says(text)? == says(&usual)?).then_some(usual)
}

/// Returns a line with one space on each side of the `=` behind its key.
fn spaced(line: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match line.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && key.trim().chars().all(bare) => {
            format!("{} = {}", key.trim(), value.trim_start())
        }
        Some(_) | None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn only_white_space_changes() {
        let text = "app=\"shop\"   \n\n\n# The cart.\n[function.cart]\nruntime   =\"http\"\r\n  command=[\n  \"a=b\",\n]\nenv = { A=\"1\" }\n[[function.cart.trigger]]\npath = \"/a\"\n\n\n";
        expect![[r#"
            app = "shop"

            # The cart.
            [function.cart]
            runtime = "http"
            command = [
              "a=b",
            ]
            env = { A="1" }

            [[function.cart.trigger]]
            path = "/a"
        "#]]
        .assert_eq(&usual(text).unwrap());
    }

    #[test]
    fn a_text_of_several_lines_stays_as_it_is() {
        let text = "app = \"a\"\nx = \"\"\"\nb=c   \n\n\n\"\"\"\n";
        assert_eq!(usual(text).unwrap(), text);
    }

    #[test]
    fn what_is_usual_stays() {
        let text = include_str!("../../../examples/hello/hearth.toml");
        let once = usual(text).unwrap();
        assert_eq!(usual(&once).unwrap(), once);
    }
}
