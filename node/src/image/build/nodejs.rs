//! Dependencies of Node.js: `package.json` and its lock by npm.

use std::fs;
use std::io;
use std::path::Path;

use super::TASK_ROOT;
use super::dependencies::Recipe;
use super::tool::{INPUTS, ToolSettings, hand_over, home, machine};

/// Files that pin what `package.json` asks for, of which npm takes the first that is there.
const LOCKS: [&str; 2] = ["npm-shrinkwrap.json", "package-lock.json"];

/// Resolves into a folder and writes that as a tar to standard output; npm speaks on standard error.
///
/// `tar` is npm's own: what is resolved by an npm can be packed by it.
const RESOLVE: &str = r#"
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const inputs = process.argv[1];
const work = "/tmp/out";
fs.mkdirSync(path.join(work, "node_modules"), { recursive: true });
const files = ["package.json", "npm-shrinkwrap.json", "package-lock.json", ".npmrc"];
for (const name of files) {
  if (fs.existsSync(path.join(inputs, name))) fs.copyFileSync(path.join(inputs, name), path.join(work, name));
}
const isLocked = ["npm-shrinkwrap.json", "package-lock.json"].some((name) => fs.existsSync(path.join(work, name)));
const found = (process.env.PATH || "").split(":").map((folder) => path.join(folder, "npm")).find((file) => fs.existsSync(file));
if (!found) {
  console.error("the base has no npm on its PATH");
  process.exit(127);
}
const npm = fs.realpathSync(found);
const words = [isLocked ? "ci" : "install", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
const result = spawnSync(process.execPath, [npm, ...words], { cwd: work, stdio: ["ignore", 2, 2] });
if (result.status !== 0) process.exit(result.status || 1);
const tar = require(path.join(path.dirname(npm), "..", "node_modules", "tar"));
tar.create({ cwd: work }, ["node_modules"]).pipe(process.stdout);
"#;

/// Settings of the machine's npm that name places of the machine.
const NOT_TAKEN: [&str; 5] =
    ["npm_config_prefix", "npm_config_cache", "npm_config_userconfig", "npm_config_globalconfig", "npm_config_nodedir"];

/// Returns the files by which dependencies are named: what lies beside `package.json` belongs to it.
pub(super) fn lists(listed: &str) -> Vec<String> {
    let folder = listed.rsplit_once('/').map_or("", |(folder, _)| folder);
    let beside = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    ["package.json"].into_iter().chain(LOCKS).chain([".npmrc"]).map(beside).collect()
}

/// Prepares the inputs for a run of npm.
pub(super) fn recipe(settings: &ToolSettings, program: &str, inputs: &Path) -> io::Result<Recipe> {
    let mut env = machine("npm_config_", &NOT_TAKEN);
    if let Some(file) = home(".npmrc").filter(|file| file.is_file()) {
        // Where the machine's headers lie means nothing in a sandbox.
        let kept = fs::read_to_string(file)?;
        let kept: String =
            kept.lines().filter(|line| !line.starts_with("nodedir")).map(|line| format!("{line}\n")).collect();
        fs::write(inputs.join("npmrc"), kept)?;
        env.push(("npm_config_userconfig".to_owned(), format!("/{INPUTS}/npmrc")));
    }
    if !settings.npm_registry.is_empty() {
        env.push(("npm_config_registry".to_owned(), settings.npm_registry.clone()));
    }
    let trusted = settings.ca_file.as_ref().map(|file| file.to_string_lossy().into_owned());
    if let Some(file) = trusted.or_else(|| std::env::var("NODE_EXTRA_CA_CERTS").ok()) {
        env.push(("NODE_EXTRA_CA_CERTS".to_owned(), hand_over(&file, inputs)?));
    }
    let argv = [program, "-e", RESOLVE, &format!("/{INPUTS}")].map(str::to_owned).to_vec();
    Ok(Recipe { argv, env, target: TASK_ROOT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_looked_for_beside_the_package() {
        let names = ["package.json", "npm-shrinkwrap.json", "package-lock.json", ".npmrc"];
        assert_eq!(lists("package.json"), names);
        assert_eq!(lists("server/package-lock.json"), names.map(|name| format!("server/{name}")));
    }
}
