//! Manifests and what is said about them.

use std::collections::BTreeSet;
use std::fs;

use control_plane::model::{Runtime, Spread, Trigger};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
app = "shop"

[function.resize]
runtime = "python3"
source = "./resize"
handler = "app.handler"
dependencies = "requirements.txt"
base = "slim"
memory = "128Mi"
cpu = "250m"
disk = "64Mi"
pids = 64
timeout = "3s"
concurrency = 4
env = { LOG = "info" }
network = "egress"
user = 33

[function.resize.scale]
min = 1
max = 5
max-idle = "10m"

[[function.resize.trigger]]
type = "http"
host = "shop.example.com"
path = "/resize/*"
methods = ["PUT", "POST"]

[function.cart]
runtime = "http"
source = "./cart"
command = ["python3", "cart.py"]
"#;

fn parse(text: &str) -> Result<Manifest, Problems> {
    Manifest::parse("hearth.toml", text, Format::Toml)
}

/// Shows what is said about a manifest with `line` in an otherwise sound function.
fn told(line: &str) -> String {
    let text = format!(
        "app = \"a\"\n[function.f]\nruntime = \"python3\"\nsource = \".\"\nhandler = \"app.handler\"\n{line}\n"
    );
    match parse(&text) {
        Ok(_) => "fine".to_owned(),
        Err(problems) => problems.to_string(),
    }
}

fn check(text: &str, format: Format, expected: Expect) {
    let name = match format {
        Format::Toml => "hearth.toml",
        Format::Yaml => "hearth.yaml",
        Format::Json => "hearth.json",
    };
    let shown = match Manifest::parse(name, text, format) {
        Ok(manifest) => format!("{manifest:#?}"),
        Err(problems) => problems.to_string(),
    };
    expected.assert_eq(&shown);
}

#[test]
fn every_key_of_the_documentation_is_read() {
    let manifest = parse(WHOLE).unwrap();
    let [resize, cart] = manifest.functions.as_slice() else { panic!("two functions: {manifest:?}") };
    let spec = serde_json::to_value(resize.spec(None)).unwrap();
    expect![[r#"{"name":"resize","revision":{"command":[],"concurrency":4,"environment":{"LOG":"info"},"handler":"app.handler","image":null,"network":"egress","placement":{"require":{},"spread":"none"},"resources":{"cpu_milli":250,"disk_bytes":67108864,"memory_bytes":134217728,"pids":64},"runtime":"python3","timeout_ms":3000,"user":33},"scaling":{"idle_max_ms":600000,"max":5,"min":1},"triggers":[{"host":"shop.example.com","methods":["POST","PUT"],"path":"/resize/*","type":"http"}]}"#]]
    .assert_eq(&spec.to_string());
    assert_eq!((resize.base.as_deref(), resize.dependencies.as_deref()), (Some("slim"), Some("requirements.txt")));
    assert_eq!(
        (cart.runtime, cart.command.as_slice()),
        (Runtime::Http, ["python3", "cart.py"].map(String::from).as_slice())
    );
    assert_eq!(cart.resources.to_string(), "cpu 500m, memory 256Mi, disk 512Mi, pids 1024");
    assert!(matches!(&resize.triggers[0], Trigger::Http(http) if http.path.matches("/resize/7")));
}

#[test]
fn the_three_formats_say_the_same() {
    let yaml = "app: shop\nfunction:\n  cart:\n    runtime: http\n    source: ./cart\n    command: [python3, cart.py]\n    scale: {min: 1}\n    trigger:\n      - type: http\n        path: /cart\n";
    let json = r#"{"app": "shop", "function": {"cart": {"runtime": "http", "source": "./cart",
        "command": ["python3", "cart.py"], "scale": {"min": 1}, "trigger": [{"type": "http", "path": "/cart"}]}}}"#;
    let toml = "app = \"shop\"\nfunction.cart = { runtime = \"http\", source = \"./cart\", command = [\"python3\", \"cart.py\"], scale.min = 1, trigger = [{ type = \"http\", path = \"/cart\" }] }";
    let expected = parse(toml).unwrap();
    assert_eq!(Manifest::parse("y", yaml, Format::Yaml).unwrap(), expected);
    assert_eq!(Manifest::parse("j", json, Format::Json).unwrap(), expected);
}

#[test]
fn unknown_keys_are_shown_with_the_nearest_one() {
    check(
        "app = \"a\"\n[function.f]\nruntim = \"python3\"\n",
        Format::Toml,
        expect![[r#"
        hearth.toml:2:11: function f has no runtime
          |
        2 | [function.f]
          |           ^ add runtime = "…": one of python3, nodejs, provided, http, image

        hearth.toml:3:1: there is no key runtim in function f
          |
        3 | runtim = "python3"
          | ^^^^^^ did you mean runtime?"#]],
    );
}

#[test]
fn several_problems_are_told_at_once_and_in_order() {
    check(
        r#"app = "My App"
[function.resize]
runtime = "python3.12"
source = "./resize"
handler = "app"
memory = "256MB"
timeout = 30
cpu = 0.5
[function.resize.scale]
min = 30
max = 20
"#,
        Format::Toml,
        expect![[r#"
            hearth.toml:1:7: "My App" is no name: lower-case letters, digits and inner hyphens make one, and it starts with a letter
              |
            1 | app = "My App"
              |       ^^^^^^^^

            hearth.toml:3:11: there is no runtime "python3.12"
              |
            3 | runtime = "python3.12"
              |           ^^^^^^^^^^^^ did you mean "python3"?

            hearth.toml:5:11: "app" is no handler
              |
            5 | handler = "app"
              |           ^^^^^ it is MODULE.FUNCTION, for example "app.handler"

            hearth.toml:6:10: memory: "256MB" is no size: it is a whole number with Ki, Mi, Gi or nothing behind it, for example 256Mi
              |
            6 | memory = "256MB"
              |          ^^^^^^^ did you mean "256Mi"?

            hearth.toml:7:11: timeout is 30 of no unit
              |
            7 | timeout = 30
              |           ^^ write the unit too, for example "30s"

            hearth.toml:8:7: cpu is a number with a point
              |
            8 | cpu = 0.5
              |       ^^^ it is in thousandths of a core such as "500m", or whole cores such as 2

            hearth.toml:10:7: min 30 is above max 20
               |
            10 | min = 30
               |       ^^"#]],
    );
}

#[test]
fn wrong_values_say_what_is_right() {
    let lines = [
        "memory = \"1Ki\"",
        "memory = 256",
        "timeout = \"soon\"",
        "cpu = \"half\"",
        "concurrency = 0",
        "env = { PORT = \"80\" }",
        "env = { RETRIES = 3 }",
        "network = \"host\"",
        "command = [\"python3\"]",
        "[[function.f.trigger]]\ntype = \"http\"\npath = \"resize\"",
        "[[function.f.trigger]]\ntype = \"http\"\npath = \"/\"\nmethods = [\"post\"]",
        "[[function.f.trigger]]\ntype = \"http\"\nhost = \"https://a\"\npath = \"/\"",
    ];
    let told: Vec<String> = lines.map(told).to_vec();
    expect![[r#"
        hearth.toml:6:10: memory is 1Ki
          |
        6 | memory = "1Ki"
          |          ^^^^^ it is 8Mi to 1024Gi

        hearth.toml:6:10: memory is 256 of no unit
          |
        6 | memory = 256
          |          ^^^ write the unit too, for example "256Mi"

        hearth.toml:6:11: timeout: "soon" is no period: it is a whole number with ms, s, m, h or d behind it, for example 30s
          |
        6 | timeout = "soon"
          |           ^^^^^^

        hearth.toml:6:7: cpu is "half"
          |
        6 | cpu = "half"
          |       ^^^^^^ it is in thousandths of a core such as "500m", or whole cores such as 2

        hearth.toml:6:15: concurrency is 0
          |
        6 | concurrency = 0
          |               ^ it is a whole number from 1 to 1000

        hearth.toml:6:9: the variable PORT is set by the platform
          |
        6 | env = { PORT = "80" }
          |         ^^^^ take it out

        hearth.toml:6:19: the variable RETRIES is a number, it is a text
          |
        6 | env = { RETRIES = 3 }
          |                   ^ put it in quotes: "3"

        hearth.toml:6:11: there is no network "host"
          |
        6 | network = "host"
          |           ^^^^^^ it is "none" (only its own loopback) or "egress"

        hearth.toml:6:1: command has no meaning for runtime python3
          |
        6 | command = ["python3"]
          | ^^^^^^^ its handler is what runs

        hearth.toml:8:8: "resize" is no path: it starts with /, has no empty, . or .. segment, and may end in /*
          |
        8 | path = "resize"
          |        ^^^^^^^^

        hearth.toml:9:12: "post" is no HTTP method: it is one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS
          |
        9 | methods = ["post"]
          |            ^^^^^^ did you mean "POST"?

        hearth.toml:8:8: "https://a" is no host
          |
        8 | host = "https://a"
          |        ^^^^^^^^^^^ lower case, and without scheme, port and path"#]].assert_eq(&told.join("\n\n"));
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let lines = [
        "secrets = [\"s3-key\"]",
        "[function.f.rollout]\nsteps = [\"10%\"]",
        "[[function.f.trigger]]\ntype = \"schedule\"\nevery = \"1h\"",
    ];
    for line in lines {
        let told = told(line);
        assert!(told.contains("not supported yet"), "{told}");
    }
}

#[test]
fn where_instances_may_run_is_read_and_mistakes_are_told() {
    let table = "[function.f.placement]\nspread = \"zone\"\nrequire = { arch = \"x86_64\", disk = \"ssd\" }";
    let text = format!("app = \"a\"\n[function.f]\nruntime = \"provided\"\nsource = \".\"\n{table}");
    let manifest = parse(&text).expect("it is sound");
    let placement = &manifest.functions[0].placement;
    assert_eq!(placement.spread(), Spread::Zone);
    let labels: Vec<(&str, &str)> =
        placement.require().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("arch", "x86_64"), ("disk", "ssd")]);
    for (line, expected) in [
        ("spread = \"zones\"", "did you mean \"zone\"?"),
        ("spread = 1", "spread is 1"),
        ("require = { gpu = true }", "the label gpu is true"),
        ("require = { \"\" = \"a\" }", "a required label needs a name"),
        ("spreads = \"zone\"", "did you mean spread?"),
    ] {
        let told = told(&format!("[function.f.placement]\n{line}"));
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn each_runtime_has_its_required_keys() {
    for runtime in Runtime::ALL {
        let told = parse(&format!("app = \"a\"\n[function.f]\nruntime = \"{runtime}\"\n")).unwrap_err().to_string();
        let missing: Vec<&str> = told.lines().filter(|line| line.contains("has no")).collect();
        let wanted: &[&str] = match runtime {
            Runtime::Python3 | Runtime::Nodejs => &["handler", "source"],
            Runtime::Http => &["command", "source"],
            Runtime::Provided | Runtime::Image => &["source"],
        };
        let expected: Vec<String> =
            wanted.iter().map(|key| format!("hearth.toml:2:11: function f has no {key}")).collect();
        assert_eq!(missing, expected, "{runtime}");
    }
}

#[test]
fn yaml_and_json_show_their_places_too() {
    check(
        "app: a\nfunction:\n  f:\n    runtime: python3\n    source: .\n    handler: app.handler\n    memori: 1Gi\n    pids: many\n",
        Format::Yaml,
        expect![[r#"
            hearth.yaml:7:5: there is no key memori in function f
              |
            7 |     memori: 1Gi
              |     ^^^^^^ did you mean memory?

            hearth.yaml:8:11: pids is "many"
              |
            8 |     pids: many
              |           ^^^^ it is a whole number from 4 to 32768"#]],
    );
    check(
        "{\"app\": \"a\", \"function\": {\"f\": {\"runtime\": \"nodes\"}}}",
        Format::Json,
        expect![[r#"
        hearth.json:1:44: there is no runtime "nodes"
          |
        1 | {"app": "a", "function": {"f": {"runtime": "nodes"}}}
          |                                            ^^^^^^^ did you mean "nodejs"?"#]],
    );
    check(
        "{\"app\": \"a\",\n \"function\": }",
        Format::Json,
        expect![[r#"
        hearth.json:2:14: expected value
          |
        2 |  "function": }
          |              ^"#]],
    );
    check(
        "app: [a\n",
        Format::Yaml,
        expect![[r#"
        hearth.yaml:1:6: unclosed bracket '[' at line 1, column 6
          |
        1 | app: [a
          |      ^"#]],
    );
    check(
        "app = \"a\nfunction = 1\n",
        Format::Toml,
        expect![[r#"
        hearth.toml:1:9: invalid basic string, expected `"`
          |
        1 | app = "a
          |         ^"#]],
    );
}

#[test]
fn missing_files_are_shown_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"app = "a"
[function.gone]
runtime = "python3"
source = "./gone"
handler = "app.handler"
[function.py]
runtime = "python3"
source = "./py"
handler = "main.handler"
[function.node]
runtime = "nodejs"
source = "./py"
handler = "lib/app.default.handler"
dependencies = "package.json"
[function.static]
runtime = "provided"
source = "./py"
"#;
    fs::create_dir_all(folder.path().join("py/lib")).unwrap();
    fs::write(folder.path().join("py/app.py"), "").unwrap();
    fs::write(folder.path().join("hearth.toml"), text).unwrap();
    let told = Manifest::load(folder.path()).unwrap_err().to_string();
    expect![[r#"
        DIR/hearth.toml:4:10: there is no DIR/gone
          |
        4 | source = "./gone"
          |          ^^^^^^^^
        hint: the source is a path from the manifest's folder

        DIR/hearth.toml:9:11: there is no module main in DIR/py
          |
        9 | handler = "main.handler"
          |           ^^^^^^^^^^^^^^
        hint: main.handler is handler() in main.py

        DIR/hearth.toml:13:11: there is no module lib/app.default in DIR/py
           |
        13 | handler = "lib/app.default.handler"
           |           ^^^^^^^^^^^^^^^^^^^^^^^^^
        hint: lib/app.default.handler is handler() in lib/app.default.mjs or .js

        DIR/hearth.toml:14:16: there is no file package.json in DIR/py
           |
        14 | dependencies = "package.json"
           |                ^^^^^^^^^^^^^^
        hint: dependencies names a file inside the source

        DIR/hearth.toml:17:10: there is no executable DIR/py/bootstrap
           |
        17 | source = "./py"
           |          ^^^^^^
        hint: build it first: a provided function runs an executable that polls the Lambda Runtime API"#]]
    .assert_eq(&told.replace(&folder.path().display().to_string(), "DIR"));

    fs::create_dir(folder.path().join("gone")).unwrap();
    fs::write(folder.path().join("gone/app.py"), "").unwrap();
    fs::write(folder.path().join("py/main.py"), "").unwrap();
    fs::write(folder.path().join("py/lib/app.mjs"), "").unwrap();
    fs::write(folder.path().join("py/package.json"), "").unwrap();
    fs::write(folder.path().join("py/bootstrap"), "").unwrap();
    let told = Manifest::load(folder.path()).unwrap_err().to_string();
    assert!(told.contains("is not executable") && !told.contains("module"), "{told}");
    let executable = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(folder.path().join("py/bootstrap"), executable).unwrap();
    assert_eq!(Manifest::load(folder.path()).unwrap().functions.len(), 4);
}

#[test]
fn a_folder_without_a_manifest_is_told() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Manifest::load(folder.path()), Err(ManifestError::Missing { .. })));
    assert!(matches!(Manifest::load(&folder.path().join("x.toml")), Err(ManifestError::Unreadable { .. })));
}

#[test]
fn the_schema_knows_the_keys_of_the_parser() {
    let schema = schema();
    let keys = |path: &str| -> BTreeSet<String> {
        let properties = schema.pointer(path).and_then(serde_json::Value::as_object);
        properties.unwrap_or_else(|| panic!("{path} is a table")).keys().cloned().collect()
    };
    let set = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(keys("/$defs/function/properties"), set(&function::KEYS));
    assert_eq!(keys("/$defs/scale/properties"), set(&function::SCALE_KEYS));
    assert_eq!(keys("/$defs/placement/properties"), set(&placement::KEYS));
    assert_eq!(keys("/$defs/trigger/properties"), set(&trigger::KEYS));
    let runtimes: Vec<&str> = schema
        .pointer("/$defs/function/properties/runtime/enum")
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    assert_eq!(runtimes, Runtime::ALL.map(Runtime::as_str));
}

/// Pieces of manifests, so that random texts get past the syntax.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("app = \"a\"\n".to_owned()),
        Just("[function.f]\n".to_owned()),
        Just("[[function.f.trigger]]\n".to_owned()),
        (
            "(runtime|source|handler|command|memory|cpu|timeout|pids|scale|env|path|type|x)",
            "(1|-1|1\\.5|true|\\[\\]|\\[1\\]|\\{\\}|\"[a-z3/.]{0,4}\"|\"http\"|\"99999999999d\")"
        )
            .prop_map(|(key, value)| format!("{key} = {value}\n")),
        "[ -~é\\n]{0,20}",
    ]
}

proptest! {
    #[test]
    fn any_text_is_a_manifest_or_an_error(pieces in prop::collection::vec(piece(), 0..12)) {
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            if let Err(problems) = Manifest::parse("f", &pieces.concat(), format) {
                prop_assert!(problems.count() > 0 && !problems.to_string().is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_a_manifest_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        for name in FILE_NAMES {
            let path = folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            prop_assert!(Manifest::load(&path).is_err());
        }
    }
}
