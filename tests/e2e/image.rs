//! Images of others: a real registry, real tools that write images, and what is run of them.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tests::{Daemon, eventually};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("an_image_of_a_registry_is_pulled_deployed_and_called", an_image_is_pulled_deployed_and_called),
    ("a_layout_is_imported_and_run_and_its_deleted_files_are_gone", a_layout_is_imported_and_run),
    ("code_lies_over_an_image_of_a_registry", code_lies_over_an_image),
    ("a_captured_python_travels_through_a_registry", a_captured_python_travels),
    ("an_image_that_polls_the_runtime_api_answers", an_image_that_polls_answers),
    ("what_cannot_be_pulled_is_told_with_what_helps", what_cannot_be_pulled_is_told),
];

/// A registry of Debian's, with a folder of its own; dropping it ends it.
struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    address: String,
}

impl Registry {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let root = folder.path().join("registry");
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            root.display()
        );
        let path = folder.path().join("registry.yml");
        fs::write(&path, config).expect("it can be written");
        let log = File::create(folder.path().join("log")).expect("it can be made");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { child, folder, address };
        eventually("the registry listens", Duration::from_secs(20), || TcpStream::connect(&registry.address).ok());
        registry
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Returns how often anything was asked for that matches.
    fn asked(&self, what: &str) -> usize {
        self.log().lines().filter(|line| line.contains("\"GET ") && line.contains(what)).count()
    }

    /// Pushes an image of a layout and returns how it is named there.
    fn push(&self, layout: &Layout, name: &str, more: &[&str]) -> String {
        let reference = format!("{}/{name}", self.address);
        let target = format!("docker://{reference}");
        let source = layout.source();
        run("skopeo", &[&["copy", "--insecure-policy", "--dest-tls-verify=false"], more, &[&source, &target]].concat());
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An OCI layout as `umoci` writes it, with one image that is tagged `1`.
struct Layout {
    folder: tempfile::TempDir,
}

impl Layout {
    fn path(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    fn source(&self) -> String {
        format!("oci:{}:1", self.path().display())
    }

    /// Makes an image of busybox that runs a script of its shell.
    fn new(script: &str, config: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let layout = Self { folder };
        let root = layout.folder.path().join("root");
        fs::create_dir_all(root.join("bin")).expect("it can be made");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        for program in ["sh", "httpd", "ls", "id", "cat", "wget", "echo"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(program)).expect("a link can be made");
        }
        fs::create_dir(root.join("www")).expect("it can be made");
        fs::write(root.join("www/index.html"), "from an image\n").expect("it can be written");
        fs::write(root.join("www/secret"), "deleted later\n").expect("it can be written");
        let path = layout.path().display().to_string();
        let image = format!("{path}:1");
        run("umoci", &["init", "--layout", &path]);
        run("umoci", &["new", "--image", &image]);
        run("umoci", &["insert", "--image", &image, &root.display().to_string(), "/"]);
        let base =
            ["config", "--image", &image, "--config.entrypoint", "/bin/sh", "--config.cmd", "-c", "--config.cmd"];
        run("umoci", &[&base[..], &[script], config].concat());
        layout
    }

    /// Deletes a file in a layer of its own.
    fn without(self, file: &str) -> Self {
        let image = format!("{}:1", self.path().display());
        run("umoci", &["insert", "--image", &image, "--whiteout", file]);
        self
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("it can be made");
        fs::write(&path, text).expect("it can be written");
        path
    }
}

const SERVES: &str = "exec httpd -f -p 127.0.0.1:$PORT -h /www";

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn app(folder: &Path, function: &str) -> PathBuf {
    let app = folder.join("app");
    fs::create_dir_all(&app).expect("it can be made");
    fs::write(app.join("hearth.toml"), format!("app = \"images\"\n{function}")).expect("it can be written");
    app
}

fn images(daemon: &Daemon) -> Vec<serde_json::Value> {
    serde_json::from_str(&daemon.succeed(&["image", "ls", "-o", "json"])).expect("the CLI prints JSON")
}

fn an_image_is_pulled_deployed_and_called() {
    let (registry, daemon) = (Registry::start(), Daemon::agent());
    let layout = Layout::new(SERVES, &["--config.user", "65532"]);
    let reference = registry.push(&layout, "busy/box:1", &[]);
    let pulled = daemon.succeed(&["image", "pull", &reference]);
    let known =
        run("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{reference}")]);
    assert_eq!(pulled, known, "the image is known by the digest that the registry has for it");
    let blobs = registry.asked("/blobs/");
    assert!(blobs >= 2, "{}", registry.log());

    assert_eq!(daemon.succeed(&["image", "pull", &reference]), pulled);
    let pinned = format!("{reference}@{}", pulled.trim());
    assert_eq!(daemon.succeed(&["image", "pull", &pinned]), pulled);
    let app = app(layout.folder.path(), &format!("[function.box]\nruntime = \"image\"\nbase = \"{reference}\"\n"));
    daemon.apply(&app);
    assert_eq!(registry.asked("/blobs/"), blobs, "nothing was fetched twice");
    let reply = daemon.get("/function/box/index.html");
    assert_eq!((reply.status, reply.body.as_str()), (200, "from an image\n"), "{reply:?}");

    let used = |daemon: &Daemon| images(daemon)[0]["used_by"].clone();
    assert_eq!(used(&daemon), serde_json::json!(["box@1"]));
    daemon.succeed(&["image", "gc"]);
    assert_eq!(daemon.get("/function/box/").status, 200);
    assert_eq!(images(&daemon).len(), 1, "a revision needs it");
    let again = daemon.succeed(&["apply", &app.to_string_lossy(), "-o", "json"]);
    assert!(again.contains("unchanged"), "{again}");
}

fn a_layout_is_imported_and_run() {
    let daemon = Daemon::agent();
    // Whom it runs as is in the answer: its own user, over a layer in which a file is deleted.
    let script = "ls / > /tmp/ls; id > /tmp/id; cd /tmp && exec httpd -f -p 127.0.0.1:$PORT -h /";
    let layout = Layout::new(script, &["--config.user", "4711:4712"]).without("/www/secret");
    for (name, text) in [("source", "source = \"../layout\""), ("base", "base = \"oci:../layout:1\"")] {
        let app = app(layout.folder.path(), &format!("[function.{name}]\nruntime = \"image\"\n{text}\n"));
        daemon.apply(&app);
        let reply = daemon.get(&format!("/function/{name}/tmp/id"));
        assert!(reply.status == 200 && reply.body.contains("uid=4711 gid=4712"), "{reply:?}");
        assert_eq!(daemon.get(&format!("/function/{name}/www/index.html")).status, 200);
        assert_eq!(daemon.get(&format!("/function/{name}/www/secret")).status, 404, "its last layer deletes it");
    }
    let archive = layout.folder.path().join("layout.tar");
    run("tar", &["-C", &layout.path().display().to_string(), "-cf", &archive.display().to_string(), "."]);
    let path = layout.path().display().to_string();
    let digest = daemon.succeed(&["image", "pull", &archive.display().to_string()]);
    for way in [path.clone(), format!("oci:{path}:1")] {
        assert_eq!(daemon.succeed(&["image", "pull", &way]), digest);
    }
    let names = images(&daemon)[0]["names"].clone();
    assert_eq!(names, serde_json::json!(["layout", "layout.tar", "layout:1"]));

    // A name of the store, a command instead of the image's own, a user instead of the image's own.
    let function = "[function.named]\nruntime = \"image\"\nbase = \"layout:1\"\nuser = 7\n\
                    command = [\"/bin/sh\", \"-c\", \"id > /tmp/id; exec httpd -f -p 127.0.0.1:$PORT -h /tmp\"]\n";
    daemon.apply(&app(layout.folder.path(), function));
    let reply = daemon.get("/function/named/id");
    assert!(reply.body.contains("uid=7 gid=7"), "{reply:?}");
}

fn code_lies_over_an_image() {
    let (registry, daemon) = (Registry::start(), Daemon::agent());
    let layout = Layout::new(SERVES, &[]);
    let reference = registry.push(&layout, "base:1", &["--format", "v2s2"]);
    // Docker's own media types, as most images still have.
    layout.file("app/www/page", "from the code\n");
    let function = format!(
        "[function.page]\nruntime = \"http\"\nbase = \"{reference}\"\nsource = \"./www\"\n\
         command = [\"/bin/busybox\", \"httpd\", \"-f\", \"-p\", \"127.0.0.1:8080\", \"-h\", \"/var/task\"]\n"
    );
    daemon.apply(&app(layout.folder.path(), &function));
    let reply = daemon.get("/function/page/page");
    assert_eq!((reply.status, reply.body.as_str()), (200, "from the code\n"), "{reply:?}");
    let all = images(&daemon);
    let used: Vec<_> = all.iter().filter(|image| image["used_by"] == serde_json::json!(["page@1"])).collect();
    assert_eq!((all.len(), used.len()), (2, 2), "the image and its base: {all:?}");
}

fn a_captured_python_travels() {
    let (registry, machine) = (Registry::start(), Daemon::agent());
    let digest = machine.succeed(&["image", "capture", "python3"]).trim().to_owned();
    let folder = tempfile::tempdir().expect("a directory can be made");
    // The store of a node is what a layout is made of: other tools read it as it lies there.
    let layout = folder.path().join("layout");
    fs::create_dir(&layout).expect("it can be made");
    let blobs = machine.data_dir().join("images/blobs");
    std::os::unix::fs::symlink(&blobs, layout.join("blobs")).expect("a link can be made");
    let size = fs::metadata(blobs.join(digest.replace(':', "/"))).expect("it is in the store").len();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "1"}}]});
    fs::write(layout.join("index.json"), index.to_string()).expect("it can be written");
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\": \"1.0.0\"}").expect("it can be written");
    let reference = format!("{}/python:3", registry.address);
    let target = format!("docker://{reference}");
    let source = format!("oci:{}:1", layout.display());
    run("skopeo", &["copy", "--insecure-policy", "--dest-tls-verify=false", &source, &target]);

    let other = Daemon::agent();
    fs::create_dir_all(folder.path().join("app/py")).expect("it can be made");
    let handler = "import sys\ndef handler(event, context):\n    return {'major': sys.version_info[0]}\n";
    fs::write(folder.path().join("app/py/app.py"), handler).expect("it can be written");
    let function = format!(
        "[function.py]\nruntime = \"python3\"\nbase = \"{reference}\"\nsource = \"./py\"\nhandler = \"app.handler\"\n"
    );
    other.apply(&app(folder.path(), &function));
    let answer = other.succeed(&["invoke", "py"]);
    assert_eq!(answer.trim(), "{\"major\": 3}");
    let names: Vec<_> = images(&other).iter().map(|image| image["names"].clone()).collect();
    assert!(!names.contains(&serde_json::json!(["python3"])), "nothing was captured there: {names:?}");
}

fn an_image_that_polls_answers() {
    let daemon = Daemon::agent();
    let script = "api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime; \
        while true; do \
        id=$(wget -S -O /tmp/event $api/invocation/next 2>&1 | busybox sed -n 's/.*[Aa]ws-[Rr]equest-[Ii]d: //p' | busybox tr -d '\\r'); \
        wget -q -O /dev/null --post-data \"{\\\"polled\\\": $(cat /tmp/event)}\" $api/invocation/$id/response; \
        done";
    let layout = Layout::new(script, &["--config.env", "PATH=/bin"]);
    // zstd, as newer tools compress layers.
    let zstd = layout.folder.path().join("zstd");
    let target = format!("oci:{}:1", zstd.display());
    let format = ["--dest-compress", "--dest-compress-format", "zstd"];
    run("skopeo", &[&["copy", "--insecure-policy"], &format[..], &[&layout.source(), &target]].concat());
    let app = app(layout.folder.path(), "[function.poll]\nruntime = \"image\"\nsource = \"../zstd\"\n");
    daemon.apply(&app);
    let answer = daemon.succeed(&["invoke", "poll", "-d", "{\"a\": 1}"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("the answer is JSON");
    assert_eq!(answer, serde_json::json!({"polled": {"a": 1}}));
}

fn what_cannot_be_pulled_is_told() {
    let (registry, daemon) = (Registry::start(), Daemon::agent());
    let layout = Layout::new(SERVES, &[]);
    let reference = registry.push(&layout, "box:1", &[]);
    let refused = |arguments: &[&str], code: i32, parts: &[&str]| {
        let output = daemon.hearth(arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{part} is told: {said}");
        }
    };
    let missing = format!("{}/box:2", registry.address);
    refused(&["image", "pull", &missing], 3, &["manifest unknown", "hint: check the repository and the tag"]);
    let other = format!("{reference}@sha256:{}", "0".repeat(64));
    refused(&["image", "pull", &other], 3, &["manifest unknown"]);
    refused(&["image", "pull", "box:1"], 2, &["names no registry", "hint: write it out"]);
    refused(&["image", "pull", "oci:nowhere"], 2, &["no OCI layout"]);

    // A blob that is not what it was, as a broken disk of the registry would have it.
    let blobs = registry.folder.path().join("registry/docker/registry/v2/blobs/sha256");
    let find = ["-type", "f", "-name", "data", "-size", "+100k"];
    let largest = run("find", &[&[blobs.to_str().expect("it is text")], &find[..]].concat());
    let path = largest.lines().next().expect("the layer is there");
    let mut bytes = fs::read(path).expect("it can be read");
    bytes[100] ^= 1;
    fs::write(path, bytes).expect("it can be written");
    refused(&["image", "pull", &reference], 9, &["arrived as", "hint: nothing of it was kept"]);
    assert!(images(&daemon).is_empty());
    let store = daemon.data_dir().join("images");
    for folder in ["blobs/unfinished", "work", "layers"] {
        assert_eq!(fs::read_dir(store.join(folder)).expect("it is there").count(), 0, "{folder}");
    }
}
