//! Reaches into the network namespace of a sandbox: a socket belongs to the namespace in which it was made.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// How long a connection to a loopback port may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Connects to a port of a sandbox's loopback.
pub(super) async fn connect(pid: i32, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = within(pid, move || std::net::TcpStream::connect_timeout(&address, CONNECT_MAX)).await?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Listens on a port of a sandbox's loopback.
pub(super) async fn listen(pid: i32, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = within(pid, move || std::net::TcpListener::bind(address)).await?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Does something in the network namespace of a process, on a thread that ends with it: no other thread ever leaves home.
async fn within<T: Send + 'static>(pid: i32, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("loopback".to_owned()).spawn(move || {
        let result = std::fs::File::open(format!("/proc/{pid}/ns/net")).and_then(|namespace| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            work()
        });
        // Whoever asked may have gone.
        let _ = tx.send(result);
    })?;
    rx.await.map_err(io::Error::other)?
}
