//! Simulated sandboxes: they start, fail, serve, crash, ignore SIGTERM, and outlive the daemon that made them.

use control_plane::model::{Digest, Ending, FunctionName, InstanceFailure, InstanceId, RevisionId, Runtime, Timestamp};
use control_plane::supervisor::{Input, Survivor};

use crate::journal::Who;
use crate::mark::Mark;
use crate::member::Outgoing;
use crate::nature::{Init, Nature, STOP_GRACE};
use crate::node::{Event, Node};
use crate::rng::Span;

/// How long taking over a running instance takes.
const TAKE_OVER: Span = Span::new(1, 20);

/// How long what is left of a dead sandbox takes to be removed.
const REMOVAL: Span = Span::new(0, 40);

/// The least time an instance gets to become ready, as the agent has it.
const INIT_MIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A simulated sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) revision: RevisionId,
    /// What it runs, whatever its revision means by now.
    pub(crate) image: Digest,
    pub(crate) stage: Stage,
    pub(crate) told: Told,
    /// Counts the daemons that had it.
    pub(crate) life: u32,
    pub(crate) ready_since: Option<Timestamp>,
    adopted: bool,
}

/// How far a sandbox is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Starting,
    Ready,
    /// Its process has ended, or is about to.
    Dying(Ending),
}

/// The last word it was told by the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    Drain,
    Stop,
}

impl Sandbox {
    /// Returns whether it starts or serves and nobody wants otherwise.
    pub(crate) fn is_kept(&self) -> bool {
        self.told == Told::Nothing && !matches!(self.stage, Stage::Dying(_))
    }
}

impl Node {
    pub(crate) fn start_sandbox(&mut self, instance: InstanceId, revision: RevisionId) {
        self.count("starts");
        // What the leader placed may be started again under its id after a restart of the agent; nothing else may.
        if self.sandboxes.contains_key(&instance) || (!self.started.insert(instance) && instance.origin != 0) {
            self.blame(format!("{instance} is started twice"));
        }
        let why = if instance.origin == 0 { "as placed" } else { "inside the grant" };
        self.tell(Who::Instance(instance), || format!("starts {revision} {why}"));
        self.send(Outgoing::Started(instance));
        self.check_backoff(&revision);
        // The agent looks the revision up; it may be gone by now, and then there is nothing to run.
        let spec = self.state.revision(&revision).map(|known| known.spec.clone());
        let (image, timeout) = spec.map_or((crate::nature::image(0), INIT_MIN), |spec| (spec.image, spec.timeout));
        let sandbox = Sandbox {
            revision,
            image,
            stage: Stage::Starting,
            told: Told::Nothing,
            life: self.life,
            ready_since: None,
            adopted: false,
        };
        self.sandboxes.insert(instance, sandbox);
        if instance.origin != 0 {
            self.check_grant();
            self.check_maximum(instance);
            if self.is_log_stalled() {
                self.mark(Mark::ColdStartWhileLogStalls);
            }
        }
        let nature = self.nature(image);
        let wait = match nature.init {
            Init::Hangs => timeout.max(INIT_MIN),
            Init::Ready | Init::Raises | Init::Exits if self.rng.chance(self.swarm.start_slow_permille) => {
                self.draw(self.swarm.start_slow)
            }
            Init::Ready | Init::Raises | Init::Exits => self.draw(nature.start),
        };
        self.after(wait, Event::Started(instance, self.life));
    }

    fn nature(&self, image: Digest) -> Nature {
        self.natures.get(&image).cloned().unwrap_or_else(Nature::plain)
    }

    pub(crate) fn sandbox_started(&mut self, instance: InstanceId, life: u32) {
        let is_jammed = self.now < self.jammed_until || self.rng.chance(self.swarm.start_failed_permille);
        let Some(sandbox) = self.sandboxes.get(&instance) else { return };
        if sandbox.life != life || sandbox.stage != Stage::Starting {
            return;
        }
        let (revision, image, adopted) = (sandbox.revision.clone(), sandbox.image, sandbox.adopted);
        let failure = match self.nature(image).init {
            _ if adopted => None,
            _ if is_jammed => Some(InstanceFailure::Sandbox("the machine cannot make it".to_owned())),
            Init::Ready => None,
            Init::Raises => Some(InstanceFailure::Init("it raised".to_owned())),
            Init::Exits => Some(InstanceFailure::Exited(Some(1))),
            Init::Hangs => Some(InstanceFailure::InitTimeout),
        };
        if let Some(failure) = failure {
            return self.start_failed(instance, failure);
        }
        self.failing.remove(&revision);
        self.proved.insert((revision.clone(), image));
        self.send(Outgoing::Proved(revision, image));
        if adopted && self.state.placements.contains_key(&instance) {
            self.mark(Mark::AdoptedAfterRestart);
        }
        if let Some(sandbox) = self.sandboxes.get_mut(&instance) {
            (sandbox.stage, sandbox.ready_since) = (Stage::Ready, Some(self.now));
        }
        self.tell(Who::Instance(instance), || (if adopted { "is taken over" } else { "is ready" }).to_owned());
        self.feed_supervisor(Input::Started { instance });
    }

    fn start_failed(&mut self, instance: InstanceId, failure: InstanceFailure) {
        let Some(sandbox) = self.sandboxes.remove(&instance) else { return };
        self.count("failed starts");
        match &failure {
            InstanceFailure::InitTimeout => self.mark(Mark::InitTimeout),
            InstanceFailure::Init(_) => self.mark(Mark::InitRaised),
            InstanceFailure::Sandbox(_) | InstanceFailure::Exited(_) | InstanceFailure::OutOfMemory => {}
        }
        self.tell(Who::Instance(instance), || format!("does not start: {failure}"));
        if sandbox.told == Told::Stop {
            self.mark(Mark::StoppedWhileStarting);
        } else {
            let failing = self.failing.entry(sandbox.revision).or_insert((self.now, 0));
            *failing = (self.now, failing.1 + 1);
        }
        self.feed_supervisor(Input::StartFailed { instance, failure });
    }

    /// The supervisor wants it to end: the order reaches it before long.
    pub(crate) fn stop_sandbox(&mut self, instance: InstanceId) {
        self.check_stop(instance);
        let Some(sandbox) = self.sandboxes.get_mut(&instance) else { return };
        sandbox.told = Told::Stop;
        let life = sandbox.life;
        self.tell(Who::Instance(instance), || "is stopped".to_owned());
        let wait = self.draw(self.swarm.order);
        self.after(wait, Event::Ordered(instance, life));
    }

    /// An order to end, from the supervisor or from a call whose time is over, reaches a sandbox.
    pub(crate) fn sandbox_ordered(&mut self, instance: InstanceId, life: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&instance) else { return };
        if sandbox.life != life {
            return;
        }
        let (image, is_killed) = (sandbox.image, sandbox.told != Told::Stop);
        match sandbox.stage {
            Stage::Starting => {
                self.start_failed(instance, InstanceFailure::Sandbox("it was stopped before it was ready".to_owned()));
            }
            Stage::Ready => {
                sandbox.stage = Stage::Dying(Ending::Stopped);
                let stop = if is_killed { Span::exactly(0) } else { self.nature(image).stop };
                if stop == STOP_GRACE {
                    self.mark(Mark::SigtermIgnored);
                }
                let wait = self.draw(stop);
                self.after(wait, Event::Removed(instance, life));
            }
            Stage::Dying(_) => {}
        }
    }

    /// A process ends by itself: its calls end with it, what is left of it is removed a little later.
    pub(crate) fn sandbox_died(&mut self, instance: InstanceId, failure: InstanceFailure) {
        let Some(sandbox) = self.sandboxes.get_mut(&instance) else { return };
        if sandbox.stage != Stage::Ready {
            return;
        }
        sandbox.stage = Stage::Dying(Ending::Failed(failure.clone()));
        let life = sandbox.life;
        self.count("crashes");
        self.tell(Who::Instance(instance), || format!("ends by itself: {failure}"));
        self.instance_gone(instance, &failure.to_string());
        let wait = self.draw(REMOVAL);
        self.after(wait, Event::Removed(instance, life));
    }

    pub(crate) fn sandbox_removed(&mut self, instance: InstanceId, life: u32) {
        let Some(sandbox) = self.sandboxes.get(&instance) else { return };
        let Stage::Dying(ending) = sandbox.stage.clone() else { return };
        if sandbox.life != life {
            return;
        }
        self.sandboxes.remove(&instance);
        self.instance_gone(instance, "it was stopped");
        if ending == Ending::Stopped {
            self.count("stops");
            self.tell(Who::Instance(instance), || "is gone".to_owned());
        }
        self.feed_supervisor(Input::Ended { instance, ending });
    }

    /// Some ready instance, of this function or of any, crashes.
    pub(crate) fn crash(&mut self, function: Option<&FunctionName>) {
        let is_meant = |sandbox: &Sandbox| {
            sandbox.stage == Stage::Ready && function.is_none_or(|function| sandbox.revision.function == *function)
        };
        let ready: Vec<InstanceId> =
            self.sandboxes.iter().filter(|(_, sandbox)| is_meant(sandbox)).map(|(instance, _)| *instance).collect();
        if self.is_up && !ready.is_empty() {
            let instance = *self.rng.pick(&ready);
            self.sandbox_died(instance, InstanceFailure::Exited(Some(1)));
        }
    }

    /// The daemon is gone: what was ready goes on, what was not is lost; an order that was on its way may have arrived.
    pub(crate) fn orphan_sandboxes(&mut self) {
        for (instance, mut sandbox) in std::mem::take(&mut self.sandboxes) {
            let is_ordered = sandbox.told == Told::Stop && self.rng.chance(500);
            let is_provided = self.nature(sandbox.image).runtime == Runtime::Provided;
            if sandbox.stage == Stage::Ready && is_provided {
                // It sits in a long poll that broke with the daemon.
                self.mark(Mark::LostAtRestart);
            }
            if sandbox.stage == Stage::Ready && !is_ordered && !is_provided {
                (sandbox.stage, sandbox.told, sandbox.life) = (Stage::Starting, Told::Nothing, self.life);
                sandbox.adopted = true;
                self.sandboxes.insert(instance, sandbox);
            }
        }
    }

    /// A daemon begins: it finds what outlived the one before.
    pub(crate) fn recover(&mut self) -> Vec<Survivor> {
        let mut found = Vec::new();
        for (instance, sandbox) in std::mem::take(&mut self.sandboxes) {
            // A sandbox whose revision is unknown belongs to nobody.
            if let Some(known) = self.state.revision(&sandbox.revision) {
                let (revision, resources) = (sandbox.revision.clone(), known.spec.resources);
                found.push(Survivor { instance, revision, resources });
                let wait = self.rng.wait(TAKE_OVER);
                self.after(wait, Event::Started(instance, sandbox.life));
                self.sandboxes.insert(instance, sandbox);
            }
        }
        found
    }
}
