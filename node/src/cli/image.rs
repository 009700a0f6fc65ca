//! Images: listing, fetching, importing, capturing and sweeping them.

use std::io;
use std::path::{Path, PathBuf};

use hyper::Request;
use proto::json::{self, ImageEvent};
use serde_json::Value;

use super::apply::pack;
use super::args::{Image, Target};
use super::client::{Body, Client, document_body};
use super::failure::Failure;
use super::output;
use super::upload::{upload, write_file};
use crate::image::{Reference, ReferenceError};

/// How files of layouts end.
const ARCHIVES: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci"];

/// An OCI layout on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// A folder, or a tar of one.
    path: PathBuf,
    tag: Option<String>,
}

impl Layout {
    /// Returns the name its image gets unless it is told another.
    fn name(&self) -> String {
        let file = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &self.tag {
            Some(tag) => format!("{file}:{tag}"),
            None => file,
        }
    }
}

/// Returns the layout that a text names: `oci:PATH[:TAG]`, or a path that leads to one; none for anything else.
pub(super) fn layout(text: &str) -> Result<Option<Layout>, Failure> {
    let (rest, is_said) = match text.strip_prefix("oci:").or_else(|| text.strip_prefix("oci-archive:")) {
        Some(rest) => (rest, true),
        None => (text, text.starts_with("./") || text.starts_with("../")),
    };
    let whole = Layout { path: PathBuf::from(rest), tag: None };
    let parted = rest
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .map(|(path, tag)| Layout { path: PathBuf::from(path), tag: Some(tag.to_owned()) });
    if let Some(found) = [Some(whole), parted].into_iter().flatten().find(|layout| is_layout(&layout.path)) {
        return Ok(Some(found));
    }
    if !is_said {
        return Ok(None);
    }
    Err(Failure::exit(2, format!("there is no OCI layout at {rest}"))
        .hint("it is a folder with oci-layout and index.json in it, or a tar of one: PATH[:TAG]"))
}

fn is_layout(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.join("oci-layout").is_file() || path.is_file() && ARCHIVES.iter().any(|ending| name.ends_with(ending))
}

pub(super) async fn image(target: &Target, command: Image) -> Result<(), Failure> {
    let client = Client::find(target)?;
    match command {
        Image::Ls { output } => {
            let images: Vec<Value> = client.get("/v1/images").await?;
            output::list(output, &images, &["digest", "names", "size_bytes", "used_by"])
        }
        Image::Pull { reference, name } => {
            let image = match layout(&reference)? {
                Some(layout) => import(&client, &layout, Some(name.unwrap_or_else(|| layout.name()))).await?,
                None => pull(&client, reference, name).await?,
            };
            output::line(&image)
        }
        Image::Capture { what, name } => {
            let body = document_body(&json::CaptureRequest { what, name })?;
            output::line(&follow(&client, Request::post("/v1/images/capture"), body).await?)
        }
        Image::Gc => {
            let report: json::GcReport = client.put("POST", "/v1/images/gc", &serde_json::json!({})).await?;
            output::json(&report)
        }
    }
}

async fn pull(client: &Client, reference: String, name: Option<String>) -> Result<String, Failure> {
    if name.is_some() {
        return Err(
            Failure::exit(2, "an image of a registry has its reference for a name").hint("--name is for OCI layouts")
        );
    }
    // Told here, so that a slip costs no way to the node.
    reference.parse::<Reference>().map_err(|error: ReferenceError| {
        Failure::exit(2, format!("{error}; an OCI layout is oci:FOLDER[:TAG] or a path")).hint(error.hint)
    })?;
    follow(client, Request::post("/v1/images/pull"), document_body(&json::PullRequest { reference })?).await
}

/// Uploads a layout and returns the digest of its image.
pub(super) async fn import(client: &Client, layout: &Layout, name: Option<String>) -> Result<String, Failure> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(layout.tag.iter().map(|tag| ("tag", tag)));
    query.extend_pairs(name.iter().map(|name| ("name", name)));
    let request =
        Request::post(format!("/v1/images/import?{}", query.finish())).header("content-type", "application/x-tar");
    let path = layout.path.clone();
    let write = move |out| if path.is_dir() { pack(Some(&path), &[], out) } else { write_file(&path, out) };
    upload(&layout.path.display().to_string(), write, async |body| follow(client, request, body).await).await
}

/// Says how far something is that ends in an image, and returns the digest of that.
async fn follow(client: &Client, request: http::request::Builder, body: Body) -> Result<String, Failure> {
    let mut image = None;
    let mut steps = Steps::new();
    let asked = client.lines(request, body, |event: ImageEvent| {
        match event {
            ImageEvent::Progress { step, done, total } => steps.tell(&step, done, total),
            ImageEvent::Output { text } => output::say(&text),
            ImageEvent::Done { image: digest, reused, .. } => {
                steps.end();
                if reused {
                    output::say("unchanged");
                }
                image = Some(digest);
                return Ok(false);
            }
            ImageEvent::Error(error) => return Err(error.into()),
        }
        Ok(true)
    });
    asked.await?;
    image.ok_or_else(|| Failure::new("the node ended its answer without an image"))
}

/// Steps as people see them: a bar on a terminal, a line for each elsewhere.
struct Steps {
    bar: indicatif::ProgressBar,
    last: String,
}

impl Steps {
    fn new() -> Self {
        Self { bar: indicatif::ProgressBar::hidden(), last: String::new() }
    }

    fn tell(&mut self, step: &str, done: u64, total: Option<u64>) {
        if step != self.last {
            self.end();
            self.last = step.to_owned();
            if let Some(total) = total.filter(|_| io::IsTerminal::is_terminal(&io::stderr())) {
                let style = indicatif::ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}");
                self.bar = indicatif::ProgressBar::new(total).with_message(step.to_owned());
                if let Ok(style) = style {
                    self.bar.set_style(style);
                }
            } else {
                output::say(step);
            }
        }
        self.bar.set_position(done);
    }

    fn end(&mut self) {
        self.bar.finish_and_clear();
        self.bar = indicatif::ProgressBar::hidden();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_told_from_an_image_of_a_registry() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let path = folder.path().join("app:1");
        std::fs::create_dir(&path).expect("it can be made");
        std::fs::write(path.join("oci-layout"), "{}").expect("it can be written");
        std::fs::write(folder.path().join("app.tar"), "").expect("it can be written");
        let base = folder.path().display();
        let found = |text: String| layout(&text).map(|layout| layout.map(|layout| (layout.name(), layout.tag)));
        let named = |name: &str, tag: Option<&str>| Some((name.to_owned(), tag.map(str::to_owned)));
        assert_eq!(found(format!("oci:{base}/app:1")).expect("it is there"), named("app:1", None));
        assert_eq!(found(format!("{base}/app:1:v2")).expect("it is there"), named("app:1:v2", Some("v2")));
        assert_eq!(found(format!("{base}/app.tar")).expect("it is there"), named("app.tar", None));
        assert_eq!(found("127.0.0.1:5000/app:1".to_owned()).expect("it is no path"), None);
        assert_eq!(found("python3".to_owned()).expect("it is no path"), None);
        assert_eq!(found("/usr/bin/env".to_owned()).expect("it is a captured executable's name"), None);
        for missing in ["oci:nowhere", "./nowhere:1"] {
            assert!(found(missing.to_owned()).is_err(), "{missing}");
        }
    }
}
