//! Commands that change something, and calls.

use std::io::Read;

use hyper::Request;
use proto::json::{self, ErrorCode};
use serde_json::Value;

use super::args::{Delete, Init, InitRuntime, Invoke, Scale, Target};
use super::client::{Client, collect, empty, refusal, whole};
use super::failure::Failure;
use super::output;

const INIT_PYTHON: [(&str, &str); 2] = [
    (
        "hearth.toml",
        "# What this app deploys; `hearth schema` describes everything a manifest can say.\napp = \"hello\"\n\n[function.hello]\nruntime = \"python3\"        # or nodejs, provided, http, image\nsource = \".\"\nhandler = \"app.handler\"    # the function `handler` of app.py\nmemory = \"128Mi\"\n\n[[function.hello.trigger]]  # beside /function/hello, which always works\ntype = \"http\"\npath = \"/hello\"\n",
    ),
    (
        "app.py",
        "def handler(event, context):\n    \"\"\"Gets an API Gateway 2.0 event; what it returns becomes the answer.\"\"\"\n    return {\"message\": \"Hello\", \"request\": context.aws_request_id}\n",
    ),
];

const INIT_NODEJS: [(&str, &str); 2] = [
    (
        "hearth.toml",
        "# What this app deploys; `hearth schema` describes everything a manifest can say.\napp = \"hello\"\n\n[function.hello]\nruntime = \"nodejs\"         # or python3, provided, http, image\nsource = \".\"\nhandler = \"app.handler\"    # the export `handler` of app.mjs\nmemory = \"128Mi\"\n\n[[function.hello.trigger]]  # beside /function/hello, which always works\ntype = \"http\"\npath = \"/hello\"\n",
    ),
    (
        "app.mjs",
        "// Gets an API Gateway 2.0 event; what it returns becomes the answer.\nexport async function handler(event, context) {\n  return { message: \"Hello\", request: context.awsRequestId };\n}\n",
    ),
];

pub(super) fn init(arguments: &Init) -> Result<(), Failure> {
    let files = match arguments.runtime {
        InitRuntime::Python3 => INIT_PYTHON,
        InitRuntime::Nodejs => INIT_NODEJS,
    };
    std::fs::create_dir_all(&arguments.dir).map_err(|error| Failure::of(&error))?;
    if let Some((name, _)) = files.iter().find(|(name, _)| arguments.dir.join(name).exists()) {
        return Err(
            Failure::coded(ErrorCode::Conflict, format!("{name} is there already")).hint("choose another folder")
        );
    }
    for (name, text) in files {
        std::fs::write(arguments.dir.join(name), text).map_err(|error| Failure::of(&error))?;
        output::say(&format!("wrote {}", arguments.dir.join(name).display()));
    }
    output::say(&format!("hint: run it with `hearth dev {}`", arguments.dir.display()));
    Ok(())
}

pub(super) async fn invoke(target: &Target, arguments: Invoke) -> Result<(), Failure> {
    let payload = match arguments.data.as_str() {
        "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map_err(|error| Failure::of(&error))?;
            bytes
        }
        data => match data.strip_prefix('@') {
            Some(path) => std::fs::read(path).map_err(|error| Failure::exit(2, format!("{path}: {error}")))?,
            None => data.as_bytes().to_vec(),
        },
    };
    serde_json::from_slice::<Value>(&payload).map_err(|error| {
        Failure::exit(2, format!("the event is no JSON: {error}")).hint("quote it: -d '{\"a\": 1}'")
    })?;
    let client = Client::find(target)?;
    let version = arguments.version.map(|version| format!("?revision={version}")).unwrap_or_default();
    let path = format!("/v1/functions/{}/invoke{version}", arguments.function);
    let response = client.send(Request::post(path), whole(payload.into())).await?;
    let status = response.status();
    let kind = response.headers().get(json::ERROR_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let bytes = collect(response).await?;
    if status.is_success() {
        return output::bytes(&[&bytes[..], b"\n"].concat());
    }
    if kind.as_deref() == Some("function") {
        output::bytes(&[&bytes[..], b"\n"].concat())?;
        return Err(raised(&arguments.function, &bytes));
    }
    Err(refusal(status, &bytes))
}

/// Returns the failure of a function that raised, as its own words tell it.
fn raised(function: &str, report: &[u8]) -> Failure {
    let report: Value = serde_json::from_slice(report).unwrap_or_default();
    let told = match (report["errorType"].as_str(), report["errorMessage"].as_str()) {
        (Some(kind), Some(message)) => format!("{function} raised {kind}: {message}"),
        (Some(kind), None) => format!("{function} raised {kind}"),
        (None, Some(message)) => format!("{function} raised an error: {message}"),
        (None, None) => format!("{function} raised an error"),
    };
    Failure::coded(ErrorCode::FunctionFailed, told).hint(format!("`hearth logs {function}` shows what it wrote"))
}

pub(super) async fn rollback(target: &Target, function: &str, to: Option<u32>) -> Result<(), Failure> {
    let client = Client::find(target)?;
    let path = format!("/v1/functions/{function}/rollback");
    let live: json::RevisionRef = client.put("POST", &path, &json::RollbackRequest { to }).await?;
    output::say(&format!("{}@{} is live", live.function, live.revision));
    Ok(())
}

pub(super) async fn scale(target: &Target, arguments: Scale) -> Result<(), Failure> {
    let client = Client::find(target)?;
    let path = format!("/v1/functions/{}/scale", arguments.function);
    let request = json::ScaleRequest { min: arguments.min, max: arguments.max, idle_max_ms: None };
    let _: Value = client.put("PUT", &path, &request).await?;
    output::say(&format!("{} is scaled", arguments.function));
    Ok(())
}

pub(super) async fn delete(target: &Target, arguments: Delete) -> Result<(), Failure> {
    let client = Client::find(target)?;
    let mut paths: Vec<String> = arguments.functions.iter().map(|name| format!("/v1/functions/{name}")).collect();
    paths.extend(arguments.app.iter().map(|name| format!("/v1/apps/{name}")));
    if arguments.all {
        let apps: Vec<json::App> = client.get("/v1/apps").await?;
        paths.extend(apps.iter().map(|app| format!("/v1/apps/{}", app.name)));
    }
    for path in paths {
        client.ask(Request::delete(&path), empty()).await?;
        output::say(&format!("deleted {}", path.rsplit('/').next().unwrap_or_default()));
    }
    Ok(())
}
