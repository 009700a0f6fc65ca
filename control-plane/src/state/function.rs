//! What the commands about apps, functions and revisions do.

use std::collections::{BTreeMap, BTreeSet};

use super::{App, AppliedFunction, Change, Deleted, Function, Rejection, Reply, Revision, RevisionStatus, State};
use crate::model::{
    AppName, FunctionName, FunctionSpec, HttpTrigger, Method, RevisionId, RevisionNumber, ScalingChange, Timestamp,
    Trigger,
};
use crate::planted::planted;

/// The most functions there may be in all.
pub const FUNCTIONS_MAX: usize = 10_000;

/// How many revisions of a function are remembered besides the live one and the candidate.
pub const REVISIONS_KEPT: usize = 10;

/// How many deleted functions are remembered; of those before, nothing runs any more.
pub const DELETED_MAX: usize = 10_000;

impl State {
    pub(super) fn deploy_app(
        &mut self,
        at: Timestamp,
        app: AppName,
        functions: Vec<FunctionSpec>,
        check_index: Option<u64>,
    ) -> Result<Reply, Rejection> {
        self.check_deployment(&app, &functions, check_index)?;
        let index = self.index + 1;
        let mut applied = Vec::new();
        let listed: BTreeSet<FunctionName> = functions.iter().map(|spec| spec.name.clone()).collect();
        for name in self.functions_of(&app).filter(|name| !listed.contains(name)).collect::<Vec<_>>() {
            self.remove_function(&name, index);
            applied.push(AppliedFunction { name, revision: None, change: Change::Deleted });
        }
        for spec in functions {
            let name = spec.name.clone();
            let (revision, change) = match self.functions.get_mut(&name) {
                None => {
                    let before = self.deleted.remove(&name).map_or(0, |deleted| deleted.newest.0);
                    let before = if planted!(CountedAnew) { 0 } else { before };
                    let number = RevisionNumber(before.saturating_add(1));
                    let function = Function::first(at, index, app.clone(), number, spec);
                    self.functions.insert(name.clone(), function);
                    (number, Change::Created)
                }
                Some(function) => function.deploy(at, index, spec),
            };
            applied.push(AppliedFunction { name, revision: Some(revision), change });
        }
        let is_known = self.apps.contains_key(&app);
        if !is_known || applied.iter().any(|function| function.change != Change::Unchanged) {
            self.index = index;
            self.apps.insert(app.clone(), App { index, deployed_at: at });
        }
        let index = self.apps.get(&app).map_or(self.index, |app| app.index);
        Ok(Reply::Deployed { index, functions: applied })
    }

    /// Refuses a deployment before anything of it is done.
    fn check_deployment(
        &self,
        app: &AppName,
        functions: &[FunctionSpec],
        check_index: Option<u64>,
    ) -> Result<(), Rejection> {
        let actual = self.apps.get(app).map_or(0, |app| app.index);
        if let Some(expected) = check_index
            && expected != actual
        {
            return Err(Rejection::IndexChanged { app: app.clone(), expected, actual });
        }
        let mut listed = BTreeSet::new();
        for spec in functions {
            if !listed.insert(spec.name.clone()) {
                return Err(Rejection::DuplicateFunction(spec.name.clone()));
            }
            if let Some(function) = self.functions.get(&spec.name)
                && function.app != *app
            {
                return Err(Rejection::ForeignFunction { function: spec.name.clone(), owner: function.app.clone() });
            }
        }
        let others = self.functions.iter().filter(|(_, function)| function.app != *app);
        if others.clone().count() + functions.len() > FUNCTIONS_MAX {
            return Err(Rejection::Limit { what: "functions".to_owned(), limit: FUNCTIONS_MAX });
        }
        let others = others.map(|(name, function)| (name, function.triggers.as_slice()));
        check_routes(others.chain(functions.iter().map(|spec| (&spec.name, spec.triggers.as_slice()))))
    }

    /// Returns the names of an app's functions.
    pub fn functions_of<'a>(&'a self, app: &AppName) -> impl Iterator<Item = FunctionName> + use<'a> {
        let app = app.clone();
        self.functions.iter().filter(move |(_, function)| function.app == app).map(|(name, _)| name.clone())
    }

    pub(super) fn delete_app(&mut self, app: &AppName) -> Result<Reply, Rejection> {
        if self.apps.remove(app).is_none() {
            return Err(Rejection::NoApp(app.clone()));
        }
        let reply = self.done();
        for name in self.functions_of(app).collect::<Vec<_>>() {
            self.remove_function(&name, self.index);
        }
        Ok(reply)
    }

    pub(super) fn delete_function(&mut self, name: &FunctionName) -> Result<Reply, Rejection> {
        let app = self.functions.get(name).ok_or_else(|| Rejection::NoFunction(name.clone()))?.app.clone();
        let reply = self.done();
        self.remove_function(name, self.index);
        if self.functions.values().any(|other| other.app == app) {
            self.touch_app(&app);
        } else {
            self.apps.remove(&app);
        }
        Ok(reply)
    }

    /// Takes a function out and remembers how far it had counted.
    fn remove_function(&mut self, name: &FunctionName, index: u64) {
        let Some(function) = self.functions.remove(name) else { return };
        let newest = function.revisions.keys().next_back().copied().unwrap_or(RevisionNumber(0));
        self.deleted.insert(name.clone(), Deleted { newest, index });
        if self.deleted.len() > DELETED_MAX {
            let oldest = self.deleted.iter().min_by_key(|(_, deleted)| deleted.index).map(|(name, _)| name.clone());
            oldest.map(|name| self.deleted.remove(&name));
        }
    }

    pub(super) fn promote(&mut self, id: &RevisionId) -> Result<Reply, Rejection> {
        let function = self.function_mut(&id.function)?;
        let revision = function.revisions.get_mut(&id.number).ok_or_else(|| Rejection::NoRevision(id.clone()))?;
        match &revision.status {
            RevisionStatus::Failed(reason) => {
                return Err(Rejection::RevisionFailed { revision: id.clone(), reason: reason.clone() });
            }
            // A newer candidate has taken its place while its promotion was on its way: that one is not to be forgotten.
            RevisionStatus::Pending if function.candidate != Some(id.number) => {
                return Err(Rejection::NotProved(id.clone()));
            }
            RevisionStatus::Pending | RevisionStatus::Proved => {}
        }
        revision.status = RevisionStatus::Proved;
        function.live = Some(id.number);
        // An operator who goes back does not want the candidate to overtake that.
        function.candidate = None;
        function.forget_old_revisions();
        Ok(self.changed(&id.function))
    }

    pub(super) fn fail_revision(&mut self, id: &RevisionId, reason: String) -> Result<Reply, Rejection> {
        let index = self.index;
        let function = self.function_mut(&id.function)?;
        let revision = function.revisions.get_mut(&id.number).ok_or_else(|| Rejection::NoRevision(id.clone()))?;
        if function.live == Some(id.number) {
            // It served once: what fails now is the machine or the moment, and taking it away would help nobody.
            return Ok(Reply::Done { index });
        }
        revision.status = RevisionStatus::Failed(reason);
        if function.candidate == Some(id.number) {
            function.candidate = None;
        }
        Ok(self.changed(&id.function))
    }

    pub(super) fn scale(&mut self, name: &FunctionName, change: ScalingChange) -> Result<Reply, Rejection> {
        let index = self.index;
        let function = self.function_mut(name)?;
        let scaling = change.of(&function.scaling).map_err(|error| Rejection::BadScaling(error.to_string()))?;
        if function.scaling == scaling {
            return Ok(Reply::Done { index });
        }
        function.scaling = scaling;
        Ok(self.changed(name))
    }

    fn function_mut(&mut self, name: &FunctionName) -> Result<&mut Function, Rejection> {
        self.functions.get_mut(name).ok_or_else(|| Rejection::NoFunction(name.clone()))
    }

    /// Counts a change of a function, and of the app it belongs to.
    fn changed(&mut self, name: &FunctionName) -> Reply {
        let reply = self.done();
        let index = self.index;
        if let Some(function) = self.functions.get_mut(name) {
            function.index = index;
            let app = function.app.clone();
            self.touch_app(&app);
        }
        reply
    }

    fn touch_app(&mut self, app: &AppName) {
        let index = self.index;
        if let Some(app) = self.apps.get_mut(app) {
            app.index = index;
        }
    }
}

impl Function {
    /// Makes a function with its first revision.
    fn first(at: Timestamp, index: u64, app: AppName, number: RevisionNumber, spec: FunctionSpec) -> Self {
        let revision = Revision { spec: spec.revision, created_at: at, status: RevisionStatus::Pending };
        Self {
            app,
            index,
            scaling: spec.scaling,
            triggers: spec.triggers,
            revisions: BTreeMap::from([(number, revision)]),
            live: None,
            candidate: Some(number),
        }
    }

    /// Brings a function to what a manifest asks for.
    fn deploy(&mut self, at: Timestamp, index: u64, spec: FunctionSpec) -> (RevisionNumber, Change) {
        let is_adjusted = self.scaling != spec.scaling || self.triggers != spec.triggers;
        self.scaling = spec.scaling;
        self.triggers = spec.triggers;
        let runs = |number: &Option<RevisionNumber>| {
            number.filter(|number| self.revisions.get(number).is_some_and(|revision| revision.spec == spec.revision))
        };
        let change = if let Some(number) = runs(&self.candidate) {
            (number, if is_adjusted { Change::Adjusted } else { Change::Unchanged })
        } else if let Some(number) = runs(&self.live) {
            let had_candidate = self.candidate.take().is_some();
            (number, if is_adjusted || had_candidate { Change::Adjusted } else { Change::Unchanged })
        } else {
            let number = RevisionNumber(self.revisions.keys().next_back().map_or(1, |last| last.0.saturating_add(1)));
            let revision = Revision { spec: spec.revision, created_at: at, status: RevisionStatus::Pending };
            self.revisions.insert(number, revision);
            self.candidate = Some(number);
            self.forget_old_revisions();
            (number, Change::Revised)
        };
        if change.1 != Change::Unchanged {
            self.index = index;
        }
        change
    }

    /// Drops the oldest revisions beyond what is kept; the live one, the candidate and the newest always stay.
    fn forget_old_revisions(&mut self) {
        let newest = self.revisions.keys().next_back().copied();
        let spare: Vec<RevisionNumber> = self
            .revisions
            .keys()
            .copied()
            .filter(|number| Some(*number) != self.live && Some(*number) != self.candidate && Some(*number) != newest)
            .collect();
        for number in spare.iter().take(spare.len().saturating_sub(REVISIONS_KEPT)) {
            self.revisions.remove(number);
        }
    }
}

/// Returns the first two functions that claim the same requests.
pub(super) fn check_routes<'a>(
    functions: impl Iterator<Item = (&'a FunctionName, &'a [Trigger])>,
) -> Result<(), Rejection> {
    let mut owners: BTreeMap<(Option<&str>, &str, Method), &FunctionName> = BTreeMap::new();
    for (name, triggers) in functions {
        for Trigger::Http(http) in triggers {
            for method in methods(http) {
                let claim = (http.host.as_deref(), http.path.as_str(), *method);
                if let Some(first) = owners.insert(claim, name)
                    && first != name
                {
                    let host = http.host.as_deref().unwrap_or_default();
                    return Err(Rejection::RouteTaken {
                        first: first.clone(),
                        second: name.clone(),
                        claim: format!("{method} {host}{}", http.path.as_str()),
                    });
                }
            }
        }
    }
    Ok(())
}

/// Returns the methods that a trigger takes.
fn methods(trigger: &HttpTrigger) -> &[Method] {
    if trigger.methods.is_empty() { &Method::ALL } else { &trigger.methods }
}
