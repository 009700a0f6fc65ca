//! nginx as a reverse proxy, set up to be fast: the peer of the gateway.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::http::{Connection, get};
use super::program::{Address, install, server};
use super::subject::{Logging, free_address};
use super::{BenchError, find, folder_in, io_at, until};

/// A proxy and the server behind it; dropping it ends both.
#[derive(Debug)]
pub(super) struct Nginx {
    proxy: Child,
    upstream: Child,
    pub(super) address: SocketAddr,
    pub(super) socket: PathBuf,
    // Last: what runs uses it.
    _folder: TempDir,
}

impl Nginx {
    /// Starts both, if nginx is installed.
    pub(super) fn start(logging: Logging) -> Result<Option<Self>, BenchError> {
        let Some(program) = find("nginx") else { return Ok(None) };
        let what = io_at("nginx cannot be started");
        let folder = folder_in("/run").map_err(&what)?;
        let (socket, binary) = (folder.path().join("upstream"), folder.path().join("server"));
        let bytes = server(Address::Socket(&socket)).map_err(&what)?;
        install(&bytes, &binary).map_err(&what)?;
        let address = free_address().map_err(&what)?;
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, text(folder.path(), address, &socket, logging)).map_err(&what)?;
        let mut upstream = Command::new(&binary).stdin(Stdio::null()).process_group(0).spawn().map_err(&what)?;
        let proxy = Command::new(program)
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let proxy = match proxy {
            Ok(proxy) => proxy,
            Err(error) => {
                end(&mut upstream);
                return Err(what(error));
            }
        };
        let nginx = Self { proxy, upstream, address, socket, _folder: folder };
        until("nginx answers", || {
            Connection::tcp(address)
                .and_then(|mut connection| connection.send(&get("/", "")))
                .is_ok_and(|answer| answer.status == 200)
        })?;
        Ok(Some(nginx))
    }
}

impl Nginx {
    /// Returns the processes of the proxy.
    pub(super) fn pids(&self) -> Vec<u32> {
        let master = self.proxy.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        let workers = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        workers.chain([master]).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        end(&mut self.proxy);
        end(&mut self.upstream);
    }
}

/// Ends a process politely: a killed master of nginx leaves its workers behind.
fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if until("a server ends", || !matches!(child.try_wait(), Ok(None))).is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Returns a configuration with a worker for each processor and connections that are kept on both sides.
fn text(folder: &Path, address: SocketAddr, socket: &Path, logging: Logging) -> String {
    let (folder, socket) = (folder.display(), socket.display());
    let access = match logging {
        Logging::Default => format!("access_log {folder}/access.log"),
        Logging::Quiet => "access_log off".to_owned(),
    };
    format!(
        "daemon off;
user root root;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    {access};
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    upstream function {{
        server unix:{socket};
        keepalive 128;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://function;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}
