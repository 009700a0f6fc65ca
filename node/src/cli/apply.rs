//! From a manifest to a deployment: validate, plan, build, deploy, wait.

use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use hyper::Request;
use proto::json::{self, DeployEvent, ImageEvent};

use super::args::{Apply, Format, Plan, Target};
use super::client::{Client, document_body};
use super::failure::Failure;
use super::upload::upload;
use super::{image, output};
use crate::manifest::{Function, Manifest, ManifestError};
use crate::pieces::Pieces;

/// Reads a manifest or tells what is wrong with it.
pub(super) fn load(path: &Path) -> Result<Manifest, Failure> {
    Manifest::load(path).map_err(unusable)
}

/// Tells why there is no manifest.
pub(super) fn unusable(error: ManifestError) -> Failure {
    match error {
        ManifestError::Invalid(problems) => Failure::exit(2, problems.to_string()),
        ManifestError::Missing { .. } => Failure::exit(2, error.to_string()).hint("`hearth init` writes one"),
        ManifestError::Unreadable { .. } | ManifestError::TooLong { .. } => {
            Failure::exit(2, crate::error_chain::text(&error))
        }
    }
}

pub(super) fn validate(path: &Path) -> Result<(), Failure> {
    let manifest = load(path)?;
    output::say(&format!("{} is valid: {} functions", manifest.app, manifest.functions.len()));
    Ok(())
}

pub(super) async fn plan(target: &Target, arguments: Plan) -> Result<(), Failure> {
    let manifest = load(&arguments.path)?;
    let client = Client::find(target)?;
    let functions = built(&client, &manifest).await?;
    let plan = ask_plan(&client, &manifest, functions).await?;
    if arguments.output == Format::Json {
        output::json(&plan)?;
    } else if arguments.output == Format::Table {
        for function in &plan.functions {
            output::line(&format!("{:?} {}", function.change, function.name).to_lowercase())?;
            for field in &function.fields {
                let (before, after) = (field.before.as_deref().unwrap_or("-"), field.after.as_deref().unwrap_or("-"));
                output::line(&format!("  {}: {before} → {after}", field.path))?;
            }
        }
    } else {
        output::list(arguments.output, &plan.functions, &["name", "change"])?;
    }
    let has_changes = plan.functions.iter().any(|function| function.change != json::Change::Unchanged);
    if arguments.exit_code && has_changes { Err(Failure::exit(10, "")) } else { Ok(()) }
}

pub(super) async fn apply(target: &Target, arguments: Apply) -> Result<(), Failure> {
    let manifest = load(&arguments.path)?;
    let client = Client::find(target)?;
    let planned = arguments.plan.as_deref().map(read_plan).transpose()?;
    if let Some(planned) = &planned
        && planned.app != manifest.app.as_str()
    {
        return Err(Failure::exit(
            2,
            format!("the plan is for app {}, the manifest for {}", planned.app, manifest.app),
        ));
    }
    let functions = built(&client, &manifest).await?;
    let mut check_index = arguments.check_index;
    if let Some(planned) = planned {
        // The index holds off what others deploy meanwhile, the comparison what was edited meanwhile.
        check_index = Some(planned.index);
        let plan = ask_plan(&client, &manifest, functions.clone()).await?;
        if plan != planned {
            return Err(Failure::coded(
                json::ErrorCode::Conflict,
                "this is not what was planned: nothing was deployed",
            )
            .hint("`hearth plan` shows what it would change by now"));
        }
    }
    let request = json::DeployRequest { functions, check_index };
    let applied = deploy(&client, &manifest.app.to_string(), &request, arguments.detach).await?;
    output::list(arguments.output, &applied, &["name", "revision", "change"])
}

/// Asks what deploying these functions would change.
async fn ask_plan(
    client: &Client,
    manifest: &Manifest,
    functions: Vec<json::FunctionSpec>,
) -> Result<json::Plan, Failure> {
    client.put("POST", &format!("/v1/apps/{}/plan", manifest.app), &json::PlanRequest { functions }).await
}

fn read_plan(path: &Path) -> Result<json::Plan, Failure> {
    let told = |error: &dyn std::fmt::Display| {
        Failure::exit(2, format!("{}: {error}", path.display())).hint("`hearth plan -o json` writes a plan")
    };
    let text = std::fs::read(path).map_err(|error| told(&error))?;
    serde_json::from_slice(&text).map_err(|error| told(&error))
}

/// Builds every function, or tells of each that cannot be built.
async fn built(client: &Client, manifest: &Manifest) -> Result<Vec<json::FunctionSpec>, Failure> {
    let mut functions = Vec::new();
    let mut failures = Vec::new();
    for (function, result) in build_all(client, manifest).await {
        match result {
            Ok(image) => functions.push(function.spec(Some(image))),
            Err(failure) => failures.push((function.name.to_string(), failure)),
        }
    }
    match Failure::of_several("nothing was deployed", failures) {
        Some(failure) => Err(failure),
        None => Ok(functions),
    }
}

/// Builds every function; one that fails does not keep the others from being built.
pub(super) async fn build_all<'a>(
    client: &Client,
    manifest: &'a Manifest,
) -> Vec<(&'a Function, Result<String, Failure>)> {
    let mut built = Vec::new();
    for function in &manifest.functions {
        let result = build(client, &manifest.app.to_string(), function).await;
        built.push((function, result));
    }
    built
}

/// Uploads a source and waits for its image.
async fn build(client: &Client, app: &str, function: &Function) -> Result<String, Failure> {
    let mut request = function.build_request();
    // A base that lies on this machine goes to the node first, which then knows it by its digest.
    let is_path = |base: &&str| base.starts_with("oci:") || base.starts_with('/');
    if let Some(layout) = request.base.as_deref().filter(is_path).map(image::layout).transpose()?.flatten() {
        output::say(&format!("{}: uploading its base", function.name));
        request.base = Some(image::import(client, &layout, None).await?);
    }
    let header = serde_json::to_vec(&request).map_err(|error| Failure::of(&error))?;
    let header = base64::engine::general_purpose::STANDARD.encode(header);
    let source = function.source.clone();
    // What the node resolves by itself need not travel.
    let is_resolved = function.dependencies.as_deref().is_some_and(|list| list.ends_with(".json"));
    let skipped: &[&str] =
        if is_resolved { &[".git", "__pycache__", "node_modules"] } else { &[".git", "__pycache__"] };
    let write = move |out| pack(source.as_deref(), skipped, out);
    let path = format!("/v1/apps/{app}/functions/{}/build", function.name);
    let request = Request::post(path).header(json::BUILD_HEADER, header).header("content-type", "application/x-tar");
    let mut image = None;
    let take = |event: ImageEvent| {
        match event {
            ImageEvent::Progress { step, .. } => output::say(&format!("{}: {step}", function.name)),
            ImageEvent::Output { text } => output::say(&text),
            ImageEvent::Done { image: digest, reused, .. } => {
                let how = if reused { "unchanged" } else { "built" };
                output::say(&format!("{}: image {how}", function.name));
                image = Some(digest);
            }
            ImageEvent::Error(error) => return Err(error.into()),
        }
        Ok(true)
    };
    upload("the source", write, async |body| client.lines(request, body, take).await).await?;
    image.ok_or_else(|| Failure::new("the node ended the build without an image"))
}

/// Deploys and waits until everything serves.
pub(super) async fn deploy(
    client: &Client,
    app: &str,
    request: &json::DeployRequest,
    detach: bool,
) -> Result<Vec<json::AppliedFunction>, Failure> {
    let path = format!("/v1/apps/{app}?detach={}", u8::from(detach));
    let mut applied = Vec::new();
    let events = client.lines(Request::put(path), document_body(request)?, |event: DeployEvent| {
        match event {
            DeployEvent::Accepted { functions, .. } => applied = functions,
            DeployEvent::Serving(revision) => {
                output::say(&format!("{}@{} serves", revision.function, revision.revision));
            }
            DeployEvent::Failed { function, revision, reason } => {
                output::say(&format!("{function}@{revision} does not start: {reason}"));
            }
            DeployEvent::Done { .. } => return Ok(false),
            DeployEvent::Error(error) => return Err(error.into()),
        }
        Ok(true)
    });
    events.await?;
    Ok(applied)
}

/// Writes a source as a tar, without what has a skipped name; a single file becomes the only one in it.
pub(super) fn pack(source: Option<&Path>, skipped: &[&str], out: Pieces) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    tar.mode(tar::HeaderMode::Deterministic);
    tar.follow_symlinks(false);
    match source {
        None => {}
        Some(path) if path.is_dir() => {
            let mut walk = walkdir::WalkDir::new(path).min_depth(1).sort_by_file_name().into_iter();
            while let Some(entry) = walk.next() {
                let entry = entry.map_err(io::Error::other)?;
                if entry.file_name().to_str().is_some_and(|name| skipped.contains(&name)) {
                    if entry.file_type().is_dir() {
                        walk.skip_current_dir();
                    }
                    continue;
                }
                let inner = entry.path().strip_prefix(path).map_err(io::Error::other)?;
                tar.append_path_with_name(entry.path(), inner)?;
            }
        }
        Some(path) => tar.append_path_with_name(path, path.file_name().unwrap_or_default())?,
    }
    tar.into_inner()?.flush()
}
