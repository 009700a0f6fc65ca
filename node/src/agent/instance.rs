//! One instance's life: image, sandbox, channel, ready, running, gone.
//!
//! ```text
//!   start ── rootfs ── launch ── connect ── ready ──▶ Ready ── … ── exit or Stop or Kill ──▶ Ended
//!                │         │         │        │
//!                └─────────┴─────────┴────────┴────▶ StartFailed, nothing left behind
//! ```

use std::sync::Arc;
use std::time::Duration;

use control_plane::autoscale::idle_limit;
use control_plane::model::{Digest, Ending, InstanceFailure, InstanceId, Purpose, RevisionId, RevisionSpec, Runtime};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Means;
use super::request::{self, ANSWER_MAX, HTTP_PORT, Label};
use crate::contract::{
    Capture, Channel, EventChannel, Framed, Http, Identity, InitFailure, OutputLimits, RuntimeApi, log_queue,
};
use crate::error_chain;
use crate::gateway::StartPhases;
use crate::image::Rootfs;
use crate::sandbox::{Exit, Sandbox, Signal};
use crate::telemetry::logs::Origin;

/// The least time an instance gets to become ready, whatever its function's timeout.
const INIT_MIN: Duration = Duration::from_secs(10);

/// How long a process may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What an instance's task needs.
pub(super) struct Task {
    pub(super) means: Means,
    pub(super) instance: InstanceId,
    pub(super) revision: RevisionId,
    pub(super) purpose: Purpose,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) events: mpsc::Sender<Event>,
}

/// What an instance's task is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// End, politely at first.
    Stop,
    /// End at once: an invocation ran out of time.
    Kill,
}

/// What an instance's task tells.
#[derive(Debug)]
pub(super) enum Event {
    /// Its process exists.
    Launched { instance: InstanceId, sandbox: Arc<Sandbox> },
    /// It can take invocations.
    Ready { instance: InstanceId, channel: Arc<Channel>, keep: Option<Duration>, phases: StartPhases },
    /// It never will; nothing of it is left.
    StartFailed { instance: InstanceId, failure: InstanceFailure },
    /// Its process has ended by itself; what is left is being removed.
    Died { instance: InstanceId, failure: InstanceFailure },
    /// It has ended; nothing of it is left.
    Ended { instance: InstanceId, ending: Ending, failure: Option<InstanceFailure> },
}

/// Starts an instance and stays with it until it is gone.
pub(super) async fn start(mut task: Task, spec: Option<RevisionSpec>) {
    let Some(spec) = spec else {
        let failure = InstanceFailure::Sandbox("its revision is gone".to_owned());
        return task.tell(Event::StartFailed { instance: task.instance, failure }).await;
    };
    let began = Instant::now();
    let sandbox = match task.launch(&spec).await {
        Ok(sandbox) => sandbox,
        Err(reason) => {
            let failure = InstanceFailure::Sandbox(reason);
            return task.tell(Event::StartFailed { instance: task.instance, failure }).await;
        }
    };
    task.live(&spec, sandbox, began.elapsed()).await;
}

/// Takes over an instance that outlived the daemon before this one.
pub(super) async fn adopt(mut task: Task, spec: Option<RevisionSpec>, sandbox: Sandbox) {
    match spec {
        Some(spec) => task.live(&spec, sandbox, Duration::ZERO).await,
        None => {
            sandbox.destroy().await;
            let failure = InstanceFailure::Sandbox("its revision is gone".to_owned());
            task.tell(Event::StartFailed { instance: task.instance, failure }).await;
        }
    }
}

impl Task {
    async fn tell(&self, event: Event) {
        // The receiver is gone only when the node stops.
        let _ = self.events.send(event).await;
    }

    async fn launch(&mut self, spec: &RevisionSpec) -> Result<Sandbox, String> {
        let rootfs = self.root(&spec.image).await?;
        let label = Label { instance: self.instance, revision: self.revision.clone(), purpose: self.purpose };
        let request = request::launch(&label, spec, rootfs);
        self.means.sandboxes.launch(request).await.map_err(|error| error_chain::text(&error))
    }

    /// Returns the root of the image, which may have to come from a peer; an order to end is not made to wait for that.
    async fn root(&mut self, image: &Digest) -> Result<Rootfs, String> {
        tokio::select! {
            biased;
            root = self.means.images.rootfs_or_fetch(image, &*self.means.peers) => {
                root.map_err(|error| error_chain::text(&error))
            }
            Some(_) = self.orders.recv() => Err("it was stopped before its image came".to_owned()),
        }
    }

    /// Connects, waits until the instance is ready, and stays until its process has ended.
    async fn live(&mut self, spec: &RevisionSpec, sandbox: Sandbox, launched_in: Duration) {
        let sandbox = Arc::new(sandbox);
        self.tell(Event::Launched { instance: self.instance, sandbox: Arc::clone(&sandbox) }).await;
        let (sink, source) = log_queue();
        let origin = Origin {
            function: self.revision.function.clone(),
            revision: self.revision.number,
            instance: self.instance,
        };
        let logs = self.means.logs.clone();
        // Ends when the sink is closed, which is the last thing that happens to an instance.
        tokio::spawn(async move { logs.drain(origin, source).await });
        let (stdout, stderr) = match sandbox.take_output() {
            Some(output) => (Some(output.stdout), Some(output.stderr)),
            None => (None, None),
        };
        let capture = Capture::new(stdout, stderr, sink, OutputLimits::default(), wall_clock_us);
        let reader = tokio::spawn({
            let capture = Arc::clone(&capture);
            async move { capture.run().await }
        });
        let began = Instant::now();
        let outcome = self.bring_up(spec, &sandbox, &capture).await;
        let event = match outcome {
            Ok(channel) => {
                let phases = StartPhases { place: Duration::ZERO, sandbox: launched_in, init: began.elapsed() };
                let (ending, failure) = self.serve(spec, &sandbox, &channel, phases).await;
                Event::Ended { instance: self.instance, ending, failure }
            }
            Err(failure) => Event::StartFailed { instance: self.instance, failure },
        };
        sandbox.destroy().await;
        reader.abort();
        capture.finish();
        self.tell(event).await;
    }

    /// Waits until the instance is ready, has ended, is ordered to end, or its time is over.
    async fn bring_up(
        &mut self,
        spec: &RevisionSpec,
        sandbox: &Arc<Sandbox>,
        capture: &Arc<Capture>,
    ) -> Result<Arc<Channel>, InstanceFailure> {
        let deadline = Instant::now() + spec.timeout.max(INIT_MIN);
        let identity = request::identity(self.instance, &self.revision, spec);
        let connecting = connect(spec.runtime, sandbox, capture, identity, deadline);
        tokio::select! {
            connected = connecting => match connected {
                Ok(channel) => Ok(Arc::new(channel)),
                // Why it ended says more than that it did.
                Err(InitFailure::InstanceDied) => Err(failure_of(&sandbox.wait().await)),
                Err(InitFailure::TimedOut) => Err(InstanceFailure::InitTimeout),
                Err(failure @ (InitFailure::Function(_) | InitFailure::Broken(_))) => {
                    Err(InstanceFailure::Init(error_chain::text(&failure)))
                }
            },
            exit = sandbox.wait() => Err(failure_of(&exit)),
            // No order can come any more once the daemon leaves: then the instance stays for the next one.
            Some(_) = self.orders.recv() => Err(InstanceFailure::Sandbox("it was stopped before it was ready".to_owned())),
        }
    }

    /// Tells that the instance is ready and waits for its end.
    async fn serve(
        &mut self,
        spec: &RevisionSpec,
        sandbox: &Arc<Sandbox>,
        channel: &Arc<Channel>,
        phases: StartPhases,
    ) -> (Ending, Option<InstanceFailure>) {
        let scaling =
            self.means.raft.read(|state| state.functions.get(&self.revision.function).map(|function| function.scaling));
        let keep = scaling.and_then(|scaling| idle_limit(&scaling, self.purpose));
        self.tell(Event::Ready { instance: self.instance, channel: Arc::clone(channel), keep, phases }).await;
        tokio::select! {
            exit = sandbox.wait() => {
                let failure = failure_of(&exit);
                self.tell(Event::Died { instance: self.instance, failure: failure.clone() }).await;
                channel.instance_died();
                (Ending::Failed(failure.clone()), Some(failure))
            }
            // No order can come any more once the daemon leaves: then the instance stays for the next one.
            Some(order) = self.orders.recv() => {
                // Our own bootstraps have nothing to say goodbye to: the last answer is out before an instance is stopped.
                let may_care = !matches!(spec.runtime, Runtime::Python3 | Runtime::Nodejs);
                if may_care && matches!(order, Order::Stop) {
                    sandbox.signal(Signal::Terminate);
                    let _ = tokio::time::timeout(STOP_GRACE, sandbox.wait()).await;
                }
                channel.instance_died();
                (Ending::Stopped, None)
            }
        }
    }
}

/// Connects to an instance by its contract and waits until it can take invocations.
async fn connect(
    runtime: Runtime,
    sandbox: &Arc<Sandbox>,
    capture: &Arc<Capture>,
    identity: Identity,
    deadline: Instant,
) -> Result<Channel, InitFailure> {
    match runtime {
        Runtime::Python3 | Runtime::Nodejs => {
            let framed = Framed::connect(&sandbox.channel_path(), identity, Arc::clone(capture), ANSWER_MAX)
                .await
                .map_err(|_| InitFailure::InstanceDied)?;
            framed.ready(deadline).await?;
            Ok(Channel::Event(EventChannel::Framed(framed)))
        }
        Runtime::Provided => {
            let channel = runtime_api(sandbox, capture, identity)?;
            channel.ready(deadline).await?;
            Ok(Channel::Event(EventChannel::RuntimeApi(channel)))
        }
        Runtime::Http => {
            let http = http(sandbox, capture);
            http.ready(deadline).await?;
            Ok(Channel::Http(http))
        }
        // An image does one of the two: whichever speaks first tells which.
        Runtime::Image => {
            let http = http(sandbox, capture);
            let Ok(runtime_api) = runtime_api(sandbox, capture, identity) else {
                http.ready(deadline).await?;
                return Ok(Channel::Http(http));
            };
            tokio::select! {
                ready = http.ready(deadline) => ready.map(|_| Channel::Http(http)),
                ready = runtime_api.ready(deadline) => ready.map(|_| Channel::Event(EventChannel::RuntimeApi(runtime_api))),
            }
        }
    }
}

fn http(sandbox: &Arc<Sandbox>, capture: &Arc<Capture>) -> Http {
    let sandbox = Arc::clone(sandbox);
    let connect = move || {
        let sandbox = Arc::clone(&sandbox);
        async move { sandbox.connect_loopback(HTTP_PORT).await }
    };
    Http::new(connect, Arc::clone(capture))
}

/// An adopted sandbox has no listener any more: its long poll broke with the daemon that held it.
fn runtime_api(sandbox: &Arc<Sandbox>, capture: &Arc<Capture>, identity: Identity) -> Result<RuntimeApi, InitFailure> {
    let listener = sandbox.take_loopback_listener().ok_or(InitFailure::InstanceDied)?;
    Ok(RuntimeApi::serve(listener, identity, Arc::clone(capture), ANSWER_MAX))
}

/// Returns how a process that ended by itself failed.
fn failure_of(exit: &Exit) -> InstanceFailure {
    if exit.out_of_memory {
        return InstanceFailure::OutOfMemory;
    }
    InstanceFailure::Exited(exit.code.or_else(|| exit.signal.map(|signal| -signal)))
}

/// Reads the clock for lines of output.
fn wall_clock_us() -> u64 {
    crate::clock::Clock::system().now_us()
}
