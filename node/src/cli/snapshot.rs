//! Backups: written by a node into a file here, looked at without a node, and brought back.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use hyper::Request;
use proto::json::{self, ErrorCode};
use serde_json::Value;

use super::args::Target;
use super::args_cluster::Snapshot;
use super::client::{Client, collect, empty, parse};
use super::failure::Failure;
use super::output;
use super::upload::{upload, write_file};
use crate::backup::{self, Backup};

pub(super) async fn snapshot(target: &Target, command: Snapshot) -> Result<(), Failure> {
    match command {
        Snapshot::Save { file, images, output } => {
            let saved = save(target, &file, images).await?;
            output::document(output, &told(&backup::summary(&saved))?)?;
            let left_out = saved.header.images.values().filter(|note| !note.is_included).count();
            if left_out > 0 {
                output::say(&match images {
                    true => format!("{left_out} images are not in it: no node has them"),
                    false => format!("hint: {left_out} images are not in it; `--images` takes them along"),
                });
            }
            Ok(())
        }
        Snapshot::Inspect { file, output } => output::document(output, &told(&backup::summary(&inspect(&file)?))?),
        Snapshot::Restore { file, output } => {
            let restored = restore(target, &file).await?;
            output::document(output, &told(&restored)?)?;
            if !restored.missing.is_empty() {
                let count = restored.missing.len();
                output::say(&format!(
                    "{count} images are not on this node: what runs them does not start unless a peer has them"
                ));
                output::say(
                    "hint: `hearth apply` builds them again from their sources; `hearth snapshot save --images` keeps them",
                );
            }
            Ok(())
        }
    }
}

fn told(document: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(document).map_err(|error| Failure::of(&error))
}

/// Writes a backup beside where it is to be, and puts it there once it is whole.
async fn save(target: &Target, path: &Path, images: bool) -> Result<Backup, Failure> {
    let failed = |error: io::Error| Failure::new(format!("{}: {error}", path.display()));
    let client = Client::find(target)?;
    let request = Request::get(format!("/v1/snapshot?images={}", u8::from(images)));
    let mut body = client.ask(request, empty()).await?.into_body();
    let unfinished = Unfinished::beside(path).map_err(failed)?;
    let mut file = &unfinished.file;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::coded(ErrorCode::Unavailable, format!("the backup broke off: {error}"))
                .hint("nothing was written; the node's log says why")
        })?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).map_err(failed)?;
        }
    }
    let saved = inspect(&unfinished.path)?;
    unfinished.keep(path).map_err(failed)?;
    Ok(saved)
}

/// Reads a backup and holds it against its checksum.
fn inspect(path: &Path) -> Result<Backup, Failure> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| Failure::exit(2, named(&error)))?;
    backup::read(BufReader::new(file), &mut |_, _| Ok(())).map_err(|error| {
        let failure = Failure::coded(error.code(), named(&crate::error_chain::text(&error)));
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

async fn restore(target: &Target, path: &Path) -> Result<json::Restored, Failure> {
    // So that a damaged one costs no way to the node.
    inspect(path)?;
    let client = Client::find(target)?;
    let request = Request::put("/v1/snapshot").header("content-type", "application/octet-stream");
    let ask = async |body| parse(&collect(client.ask(request, body).await?).await?);
    let sent = path.to_path_buf();
    upload(&path.display().to_string(), move |out| write_file(&sent, out), ask).await
}

/// A file that goes away unless it is kept.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    /// Makes a file beside another that only its owner reads: environments of functions may hold secrets.
    fn beside(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        // What an interrupted command left behind.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path })
    }

    /// Puts it in the place of another, durably.
    fn keep(self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After it was kept there is none.
        let _ = fs::remove_file(&self.path);
    }
}
