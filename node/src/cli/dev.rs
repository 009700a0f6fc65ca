//! `hearth dev`: one node in the foreground, an app on it, and a watch over its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::model::Trigger;
use notify::{RecursiveMode, Watcher};
use proto::json;
use tokio::sync::mpsc;

use super::apply::{build_all, deploy, load};
use super::args::{Dev, Target};
use super::client::Client;
use super::failure::Failure;
use super::output;
use super::run::{Settings, Signals, configure, start, trace};
use crate::daemon::{Daemon, Leave};
use crate::manifest::Manifest;

/// How long files rest before they are deployed: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(60);

pub(super) async fn dev(target: &Target, arguments: Dev) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    // A manifest that is wrong from the first is told before anything starts.
    load(&arguments.dir)?;
    let folder = arguments.dir.canonicalize().map_err(|error| Failure::of(&error))?;
    let mut target = target.clone();
    if target.data_dir.is_none() {
        target.data_dir = Some(data_dir(&folder));
    }
    let mut listen = arguments.listen;
    listen.bind.get_or_insert_with(|| "127.0.0.1".to_owned());
    let settings = Settings {
        defaults: vec![("log.filter", "warn,openraft=error,hearth::event=off"), ("ports.peers", "0")],
        ..Settings::default()
    };
    let config = configure(&target, &listen, settings)?;
    trace(&config)?;
    let daemon = start(config).await?;
    let client = Client::local(daemon.socket());
    let (changes_tx, mut changes) = mpsc::channel(1);
    let watcher = watch(&folder, changes_tx)?;
    let mut last = BTreeMap::new();
    let serve = async {
        redeploy(&client, &daemon, &folder, &mut last).await;
        output::say("watching for changes; Ctrl-C ends it");
        while changes.recv().await.is_some() {
            while tokio::time::timeout(SETTLE, changes.recv()).await.is_ok_and(|change| change.is_some()) {}
            redeploy(&client, &daemon, &folder, &mut last).await;
        }
    };
    // A build in the middle is given up with its request; the node takes away what it had made.
    let outcome = tokio::select! {
        () = signals.asked() => Ok(()),
        error = daemon.failed() => Err(Failure::of(&error).hint(error.hint())),
        () = serve => Ok(()),
    };
    drop(watcher);
    output::say("stopping; Ctrl-C again cuts off the calls in flight");
    daemon.stop(Leave::Nothing, signals.asked()).await;
    outcome
}

/// Returns the data directory of an app in development: its own, so that it is warm the next time.
fn data_dir(folder: &Path) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut hash = crc32fast::Hasher::new();
    hash.update(folder.as_os_str().as_encoded_bytes());
    Path::new(crate::data_dir::DATA_DIR_DEFAULT).join("dev").join(format!("{name}-{:08x}", hash.finalize()))
}

/// Tells of changes below a folder; several in a row count as one.
fn watch(folder: &Path, changes: mpsc::Sender<()>) -> Result<notify::RecommendedWatcher, Failure> {
    let is_noise = |path: &PathBuf| {
        path.iter().any(|part| matches!(part.to_str(), Some(".git" | "__pycache__" | "target" | "node_modules")))
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event
            && !event.kind.is_access()
            && !event.paths.iter().all(is_noise)
        {
            // A change that finds one waiting is told with it.
            let _ = changes.try_send(());
        }
    })
    .map_err(|error| Failure::of(&error))?;
    watcher.watch(folder, RecursiveMode::Recursive).map_err(|error| Failure::of(&error))?;
    Ok(watcher)
}

/// Deploys what the folder holds and says what became of it; what does not build keeps its last image.
async fn redeploy(client: &Client, daemon: &Daemon, folder: &Path, last: &mut BTreeMap<String, json::FunctionSpec>) {
    let result = async {
        let manifest = load(folder)?;
        let mut functions = Vec::new();
        for (function, built) in build_all(client, &manifest).await {
            let name = function.name.to_string();
            match built {
                Ok(image) => {
                    let spec = function.spec(Some(image));
                    last.insert(name, spec.clone());
                    functions.push(spec);
                }
                Err(failure) => {
                    output::say(&format!("{name}: {failure}"));
                    functions.extend(last.get(&name).cloned());
                }
            }
        }
        if functions.is_empty() {
            return Err(Failure::new("no function could be built"));
        }
        let request = json::DeployRequest { functions, check_index: None };
        deploy(client, manifest.app.as_str(), &request, false).await?;
        urls(&manifest, daemon, last);
        Ok(())
    };
    if let Err(failure) = result.await {
        output::say(&failure.to_string());
    }
}

/// Prints where each function answers.
fn urls(manifest: &Manifest, daemon: &Daemon, built: &BTreeMap<String, json::FunctionSpec>) {
    let base = format!("http://{}", daemon.gateway_address());
    for function in manifest.functions.iter().filter(|function| built.contains_key(function.name.as_str())) {
        let routes = function.triggers.iter().map(|Trigger::Http(http)| http.path.as_str().to_owned());
        let by_name = format!("/function/{}", function.name);
        let paths: Vec<String> = routes.chain([by_name]).map(|path| format!("{base}{path}")).collect();
        output::say(&format!("{}  {}", function.name, paths.join("  ")));
    }
}
