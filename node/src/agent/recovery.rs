//! Takes over what outlived the daemon before this one.

use control_plane::model::{InstanceId, Purpose, RevisionId, Runtime};
use control_plane::supervisor::{Input, Survivor};

use super::Driver;
use super::instance;
use super::request::Label;
use crate::sandbox::Sandbox;

impl Driver {
    /// Connects to every adopted sandbox that still serves and ends the others; tells the supervisor which are left.
    ///
    /// A `provided` instance sits in a long poll that broke with the old daemon, and a sandbox whose label or revision is
    /// unknown belongs to nobody: both are ended.
    pub(super) async fn recover(&mut self, adopted: Vec<Sandbox>) {
        let mut recovered = Vec::new();
        for sandbox in adopted {
            match self.claim(&sandbox) {
                Some((instance, revision, purpose)) => {
                    let spec = self.means.raft.read(|state| {
                        let function = state.functions.get(&revision.function)?;
                        Some(function.revisions.get(&revision.number)?.spec.clone())
                    });
                    let resources = spec.as_ref().map(|spec| spec.resources).unwrap_or_default();
                    recovered.push(Survivor { instance, revision: revision.clone(), resources });
                    let task = self.track(instance, revision, purpose);
                    tokio::spawn(instance::adopt(task, spec, sandbox));
                }
                None => {
                    tracing::info!(sandbox = %sandbox.id(), "a left-over sandbox is ended");
                    sandbox.destroy().await;
                }
            }
        }
        tracing::info!(instances = recovered.len(), "took over running instances");
        self.feed(Input::Recovered { instances: recovered });
    }

    fn claim(&self, sandbox: &Sandbox) -> Option<(InstanceId, RevisionId, Purpose)> {
        let label = Label::parse(sandbox.label())?;
        // What another node has started, whose data lay here before, is nothing of this one.
        if label.instance.origin != 0 && label.instance.origin != self.means.node.0 {
            return None;
        }
        let runtime = self.means.raft.read(|state| {
            let function = state.functions.get(&label.revision.function)?;
            Some(function.revisions.get(&label.revision.number)?.spec.runtime)
        })?;
        match runtime {
            Runtime::Provided => None,
            Runtime::Python3 | Runtime::Nodejs | Runtime::Http | Runtime::Image => {
                Some((label.instance, label.revision, label.purpose))
            }
        }
    }
}
