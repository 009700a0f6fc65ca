//! The way out of sandboxes that have one: a wire to the host, and a wall around it.
//!
//! ```text
//!   daemon ── opens it with the first function that asks: forwarding, table, names
//!     │  └ keeps both as they must be: peers come and go, interfaces too
//!     └ spawners lay a wire into each sandbox of the second pool, ahead of time
//! ```
//!
//! Nothing of the host is touched before a function asks for a way out, and everything is put back when the last daemon that
//! needs it ends. What outlives a daemon lives in the kernel: wires with their sandboxes, the table by its name.

mod host;
mod netlink;
mod nftables;
mod resolver;
mod rules;
mod subnet;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::subnet::{Subnet, SubnetError};
pub(crate) use self::wire::Wiring;

use self::host::{Forwarding, Route};
use self::netlink::Socket;
use self::rules::{Facts, Rules};

/// Asks the kernel whether it filters packets, without changing anything.
pub fn filters() -> io::Result<()> {
    Rules::new("", "")?.has_neighbour().map(drop)
}

/// How often it is looked whether the host is still as it must be.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How a way out is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// What no other daemon of the machine has: names are made of it.
    pub name: String,
    /// Where its files lie, on tmpfs.
    pub folder: PathBuf,
    /// The addresses of sandboxes.
    pub subnet: Subnet,
    /// Whom sandboxes ask for names; empty means whom the host asks.
    pub dns: Vec<Ipv4Addr>,
    /// Where nodes of the cluster speak to each other and to their operators.
    pub peers: watch::Receiver<BTreeSet<SocketAddrV4>>,
}

/// Why there is no way out of sandboxes here.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host has routes into the range of the sandboxes.
    #[error(
        "egress.subnet {subnet} overlaps the route to {base}/{prefix}{}; set egress.subnet to a range that is free",
        link.as_ref().map(|link| format!(" by {link}")).unwrap_or_default()
    )]
    Clash {
        /// The range.
        subnet: Subnet,
        /// Where the route leads.
        base: Ipv4Addr,
        /// How many bits of that count.
        prefix: u8,
        /// The interface of the route.
        link: Option<String>,
    },
    /// The kernel filters no packets, or not as it must.
    #[error(
        "nf_tables of this kernel cannot be used; it needs the modules nf_tables, nft_ct, nft_fib_inet, nft_reject_inet and nft_masq"
    )]
    Rules(#[source] io::Error),
    /// The kernel lets no packets through.
    #[error(
        "forwarding cannot be turned on below /proc/sys/net/ipv4/conf; turn it on with sysctl net.ipv4.ip_forward=1"
    )]
    Forwarding(#[source] io::Error),
    /// The kernel's interfaces and routes cannot be read.
    #[error("the host's interfaces and routes cannot be read")]
    Host(#[source] io::Error),
    /// The files of a sandbox about names cannot be written.
    #[error("the files about names cannot be written to {}", folder.display())]
    Names {
        /// Where to.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The way out of the sandboxes of a node; closed until somebody needs it.
#[derive(Clone, Debug)]
pub(crate) struct Egress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    wiring: Wiring,
    state: Mutex<Option<Open>>,
    opened: watch::Sender<Option<Wiring>>,
}

/// What runs while it is open.
#[derive(Debug)]
struct Open {
    stop: CancellationToken,
    keeping: JoinHandle<Keeper>,
}

impl Egress {
    pub(crate) fn new(config: Config) -> Self {
        let wiring = Wiring { links: format!("{}{}", host::LINK_PREFIX, short(&config.name)), subnet: config.subnet };
        Self(Arc::new(Shared { config, wiring, state: Mutex::new(None), opened: watch::Sender::new(None) }))
    }

    /// Returns the layer with what a sandbox with a way out knows of names.
    pub(crate) fn layer(&self) -> PathBuf {
        self.0.config.folder.join("layer")
    }

    /// Returns what wires are laid by, once there is a way out.
    pub(crate) fn wiring(&self) -> watch::Receiver<Option<Wiring>> {
        self.0.opened.subscribe()
    }

    /// Opens the way out, unless it is open.
    pub(crate) async fn open(&self) -> Result<(), OpenError> {
        if self.0.opened.borrow().is_some() {
            return Ok(());
        }
        let mut state = self.0.state.lock().await;
        if state.is_some() {
            return Ok(());
        }
        let this = self.clone();
        let keeper = blocking(move || this.prepare()).await?;
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(keep(keeper, self.0.config.peers.clone(), stop.clone()));
        *state = Some(Open { stop, keeping });
        self.0.opened.send_replace(Some(self.0.wiring.clone()));
        tracing::info!(subnet = %self.0.config.subnet, "sandboxes have a way out");
        Ok(())
    }

    fn prepare(&self) -> Result<Keeper, OpenError> {
        let config = &self.0.config;
        let mut socket = Socket::to_routes().map_err(OpenError::Host)?;
        if let Some(Route { base, prefix, link }) = host::clash(&mut socket, config.subnet).map_err(OpenError::Host)? {
            return Err(OpenError::Clash { subnet: config.subnet, base, prefix, link });
        }
        let own = host::addresses(&mut socket).map_err(OpenError::Host)?;
        let own = own.into_iter().map(|(address, _)| address).collect();
        resolver::write(&self.layer(), &config.dns, &own)
            .map_err(|source| OpenError::Names { folder: self.layer(), source })?;
        let mut keeper = self.keeper(socket).map_err(OpenError::Rules)?;
        // Should this fail half way, the table stays: sandboxes of an earlier daemon may run behind it.
        keeper.look(&config.peers.borrow().clone())?;
        Ok(keeper)
    }

    fn keeper(&self, socket: Socket) -> io::Result<Keeper> {
        let rules = Rules::new(&short(&self.0.config.name), &self.0.wiring.links)?;
        let forwarding = Forwarding::new(self.0.config.folder.join("forwarding"));
        Ok(Keeper { socket, rules, forwarding, complaint: None })
    }

    /// Ends the looks. Unless sandboxes remain that use it, the host is as it was before afterwards.
    pub(crate) async fn close(&self, is_used: bool) {
        let open = self.0.state.lock().await.take();
        self.0.opened.send_replace(None);
        let keeper = match open {
            Some(Open { stop, keeping }) => {
                stop.cancel();
                match keeping.await {
                    Ok(keeper) => Some(keeper),
                    Err(error) => return tracing::error!(%error, "what keeps the way out ended by a panic"),
                }
            }
            None => None,
        };
        if is_used {
            return;
        }
        let this = self.clone();
        blocking(move || this.sweep(keeper)).await;
    }

    /// Takes away what an earlier daemon left of its way out, if it had one.
    pub(crate) fn sweep_leftovers(&self) {
        self.sweep(None);
    }

    fn sweep(&self, keeper: Option<Keeper>) {
        // Whoever opened it wrote there first: without it there is nothing, and the kernel is not even asked.
        if !self.0.config.folder.exists() {
            return;
        }
        match keeper.map_or_else(|| Socket::to_routes().and_then(|socket| self.keeper(socket)), Ok) {
            Ok(mut keeper) => keeper.put_back(),
            Err(error) => tracing::warn!(%error, "what was left of a way out cannot be taken away"),
        }
        if let Err(error) = std::fs::remove_dir_all(&self.0.config.folder) {
            tracing::warn!(%error, "the files of the way out were left behind");
        }
    }
}

/// Does what waits for the kernel where it keeps nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Returns the digits by which names on the host tell nodes apart.
fn short(name: &str) -> String {
    let digits: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..host::NODE_DIGITS].to_owned()
}

/// Keeps table and forwarding as they must be.
#[derive(Debug)]
struct Keeper {
    socket: Socket,
    rules: Rules,
    forwarding: Forwarding,
    /// What went wrong at the last look: it is told once.
    complaint: Option<String>,
}

async fn keep(
    mut keeper: Keeper,
    mut peers: watch::Receiver<BTreeSet<SocketAddrV4>>,
    stop: CancellationToken,
) -> Keeper {
    loop {
        tokio::select! {
            () = stop.cancelled() => return keeper,
            Ok(()) = peers.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let known = peers.borrow_and_update().clone();
        keeper = blocking(move || {
            let complaint = keeper.look(&known).err().map(|error| crate::error_chain::text(&error));
            if let Some(complaint) = complaint.as_ref().filter(|_| complaint != keeper.complaint) {
                tracing::error!(error = complaint, "the way out of sandboxes is not as it must be");
            }
            keeper.complaint = complaint;
            keeper
        })
        .await;
    }
}

impl Keeper {
    /// Brings everything in line with what the host is like.
    fn look(&mut self, peers: &BTreeSet<SocketAddrV4>) -> Result<(), OpenError> {
        let has_neighbour = self.rules.has_neighbour().map_err(OpenError::Rules)?;
        let is_router = host::is_router().map_err(OpenError::Forwarding)?;
        let mut facts = Facts { peers: peers.clone(), guarded: BTreeSet::new() };
        if !is_router {
            let guarded = self.forwarding.look(&mut self.socket, has_neighbour).map_err(OpenError::Forwarding)?;
            facts.guarded.clone_from(guarded);
        }
        // The wall stands before anything passes.
        self.rules.keep(&facts).map_err(OpenError::Rules)?;
        if is_router { Ok(()) } else { self.forwarding.turn_on().map_err(OpenError::Forwarding) }
    }

    /// Leaves the host as it was before.
    fn put_back(&mut self) {
        let has_neighbour = self.rules.has_neighbour().unwrap_or(false);
        let outcome = self.forwarding.restore(has_neighbour).and_then(|()| self.rules.remove());
        if let Err(error) = outcome {
            tracing::warn!(%error, "the host's network is not quite as it was before");
        }
    }
}
