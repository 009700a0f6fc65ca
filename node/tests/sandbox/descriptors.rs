//! What a sandbox gets from outside by descriptor and by name: descriptors 0 to 2, and no way to anything else.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use node::sandbox::LaunchRequest;
use node::sandbox::roster::blanks;
use tokio::time::timeout;

use crate::Test;
use crate::host::{Host, open_folder};

pub(crate) const TESTS: &[Test] = tests![
    no_descriptor_leads_out_of_a_sandbox,
    a_blank_sandbox_holds_nothing_of_its_neighbours,
    sockets_and_folders_of_the_host_are_out_of_reach,
];

/// How long a sandbox may take to be blank.
const PATIENCE: Duration = Duration::from_secs(30);

/// The highest descriptor that is tried: more than the spawner of these tests ever has open.
const DESCRIPTOR_MAX: u32 = 40;

async fn no_descriptor_leads_out_of_a_sandbox() {
    let host = Host::start();
    // Others run and wait meanwhile: what a spawner holds of them must not be there either.
    let neighbours = [host.launch("sleep 60").await, host.launch("sleep 60").await];
    let layer = open_folder();
    for number in 3..DESCRIPTOR_MAX {
        let link = layer.path().join(format!("fd{number}"));
        symlink(format!("/proc/self/fd/{number}"), link).expect("a link can be made");
    }
    let enter = |cwd: String| -> LaunchRequest {
        let mut request = host.request("busybox pwd; ls /proc/self/fd");
        request.layers.push(layer.path().to_path_buf());
        request.process.cwd = cwd;
        request
    };
    for number in 3..DESCRIPTOR_MAX {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/fd{number}"), format!("/proc/1/fd/{number}/../..")] {
            let (text, exit) = host.run_one(enter(cwd.clone())).await;
            assert_eq!((text.as_str(), exit.code), ("", Some(127)), "{cwd} was entered");
        }
    }
    // The fourth is the folder that is being read.
    let (text, _) = host.run_one(enter("/".to_owned())).await;
    assert_eq!(text, "/\n0\n1\n2\n3\n");
    for neighbour in neighbours {
        neighbour.destroy().await;
    }
    host.end().await;
}

async fn a_blank_sandbox_holds_nothing_of_its_neighbours() {
    let host = Host::start();
    let neighbours = [host.launch("sleep 60").await, host.launch("sleep 60").await];
    let open = || {
        let blanks = blanks(&host.config.run_dir, &host.config.cgroup_parent);
        let (pids, _) = blanks.first()?;
        let listed = std::fs::read_dir(format!("/proc/{}/fd", pids.first()?)).ok()?;
        Some(listed.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect::<Vec<_>>())
    };
    // Standard input, output and error, what it waits at, and the channel.
    let waiting = async {
        while open().is_none_or(|open| open.len() != 5) {
            tokio::task::yield_now().await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("it holds {:?}", open());
    }
    for neighbour in neighbours {
        neighbour.destroy().await;
    }
    host.end().await;
}

async fn sockets_and_folders_of_the_host_are_out_of_reach() {
    let host = Host::start();
    let name = format!("hearth-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("the name is short");
    let _listener = UnixListener::bind_addr(&address).expect("nobody else has this name");
    // As the API of a daemon listens: on a path of the host, open to everybody for this test's sake.
    let folder = open_folder();
    let path = folder.path().join("api.sock");
    let _api = UnixListener::bind(&path).expect("a socket can be made");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("the mode can be set");

    let mut request = host.probing("true");
    request.channel = true;
    let neighbour = host.start_one(host.request("sleep 60")).await;
    let channel = neighbour.channel_path();
    let run_dir = host.run_dir.path().to_string_lossy().into_owned();
    request.process.argv[2] = format!(
        "$PROBE connect abstract {name}; $PROBE connect unix {}; $PROBE connect unix {}; ls {run_dir} {} 2>&1 | wc -l; \
         ls -d /proc/1/root{run_dir} /proc/self/cwd{run_dir} 2>&1 | busybox grep -c 'No such'; ls /run /var/task | wc -l",
        path.display(),
        channel.display(),
        folder.path().display(),
    );
    let (text, _) = host.run_one(request).await;
    // Two folders that are not there make a line of complaint each; /run and /var/task are empty but for their headings.
    assert_eq!(text, "ECONNREFUSED\nENOENT\nENOENT\n2\n2\n3\n");
    // Seen from where it can be seen, each of them was there.
    assert!(std::os::unix::net::UnixStream::connect_addr(&address).is_ok());
    assert!(path.exists() && channel.exists() && host.run_dir.path().exists());
    neighbour.destroy().await;
    host.end().await;
}
