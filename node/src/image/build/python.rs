//! Dependencies of Python: `requirements.txt` by pip.

use std::fs;
use std::io;
use std::path::Path;

use super::dependencies::Recipe;
use super::tool::{INPUTS, ToolSettings, hand_over, home, machine};

/// Where Python's dependencies lie in an image.
pub(super) const PACKAGES: &str = "opt/python";

/// The name of the list among the inputs.
pub(super) const LIST: &str = "requirements.txt";

/// Resolves into a folder and writes that as a tar to standard output; pip speaks on standard error.
const RESOLVE: &str = r#"
import subprocess, sys, tarfile
code = subprocess.call([sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir",
    "--target", "/tmp/out", "-r", sys.argv[1]], stdout=sys.stderr)
if code: sys.exit(code)
def plain(entry):
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return None if "__pycache__" in entry.name.split("/") else entry
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    tar.add("/tmp/out", arcname=".", filter=plain)
"#;

/// Settings of the machine's pip that say where to install: here the build says that.
const NOT_TAKEN: [&str; 8] = [
    "PIP_TARGET",
    "PIP_USER",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_LOG",
    "PIP_CACHE_DIR",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_CONFIG_FILE",
];

/// Where the machine's own pip reads its settings; below the home directory, the later one wins.
const MACHINE_FILE: &str = "/etc/pip.conf";
const HOME_FILES: [&str; 2] = [".pip/pip.conf", ".config/pip/pip.conf"];

/// Prepares the inputs for a run of pip.
pub(super) fn recipe(settings: &ToolSettings, program: &str, inputs: &Path) -> io::Result<Recipe> {
    let mut env = machine("PIP_", &NOT_TAKEN);
    for path in HOME_FILES.into_iter().filter_map(home).filter(|path| path.is_file()) {
        fs::copy(path, inputs.join("pip.conf"))?;
    }
    if inputs.join("pip.conf").exists() {
        env.push(("PIP_CONFIG_FILE".to_owned(), format!("/{INPUTS}/pip.conf")));
    } else if Path::new(MACHINE_FILE).is_file() {
        fs::copy(MACHINE_FILE, inputs.join("pip.conf"))?;
        env.push(("PIP_CONFIG_FILE".to_owned(), format!("/{INPUTS}/pip.conf")));
    }
    let mut set = |name: &str, value: String| {
        env.retain(|(known, _)| known != name);
        env.push((name.to_owned(), value));
    };
    if !settings.pip_index.is_empty() {
        set("PIP_INDEX_URL", settings.pip_index.clone());
    }
    if !settings.pip_find_links.is_empty() {
        set("PIP_FIND_LINKS", settings.pip_find_links.join(" "));
    }
    if settings.pip_offline {
        set("PIP_NO_INDEX", "1".to_owned());
    }
    if let Some(file) = &settings.ca_file {
        set("PIP_CERT", file.to_string_lossy().into_owned());
    }
    for (name, value) in &mut env {
        // Folders and files of the machine are not seen in a sandbox unless they are handed over.
        if matches!(name.as_str(), "PIP_FIND_LINKS" | "PIP_CERT") {
            let words: Vec<String> =
                value.split_whitespace().map(|word| hand_over(word, inputs)).collect::<io::Result<_>>()?;
            *value = words.join(" ");
        }
    }
    let argv = [program, "-c", RESOLVE, &format!("/{INPUTS}/{LIST}")].map(str::to_owned).to_vec();
    Ok(Recipe { argv, env, target: PACKAGES })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_folder_of_wheels_is_handed_over_and_an_address_is_passed_on() {
        let (wheels, inputs) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        fs::write(wheels.path().join("a-1-py3-none-any.whl"), b"wheel").expect("a file can be written");
        let settings = ToolSettings {
            pip_index: "http://index.local/simple".to_owned(),
            pip_find_links: vec![wheels.path().to_string_lossy().into_owned(), "http://links.local/".to_owned()],
            pip_offline: true,
            npm_registry: String::new(),
            ca_file: None,
            deadline: Duration::from_secs(1),
        };
        let recipe = recipe(&settings, "python3", inputs.path()).expect("the inputs can be written");
        let find = |name: &str| recipe.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(find("PIP_INDEX_URL"), Some("http://index.local/simple"));
        assert_eq!(find("PIP_NO_INDEX"), Some("1"));
        let links: Vec<&str> = find("PIP_FIND_LINKS").expect("links are set").split(' ').collect();
        let [folder, "http://links.local/"] = links[..] else { panic!("{links:?}") };
        let name = folder.strip_prefix(&format!("/{INPUTS}/")).expect("the folder lies among the inputs");
        assert_eq!(fs::read(inputs.path().join(name).join("a-1-py3-none-any.whl")).expect("it is there"), b"wheel");
        assert_eq!(recipe.argv[0], "python3");
    }
}
