//! Which function a request is for: by name, or by host, path and method.
//!
//! ```text
//! /function/NAME[/…]        the function of that name, whatever triggers there are
//! everything else           its host before any host, an exact path before the longest prefix,
//!                           and of those the first that takes the method
//! ```
//!
//! A pattern that matches the path but not the method does not end the search: `GET /a` and `/*` may belong to two
//! functions, and `POST /a` is for the second. Only if no pattern takes the method is the answer that it is not allowed.
//!
//! The table is made once per change of the state and then only read; a look-up costs one search per segment of the
//! path, however many functions there are.

mod elsewhere;
mod near;
mod paths;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::elsewhere::Elsewhere;
use self::paths::{Paths, Search};
use crate::model::{AppName, FunctionName, Method, RevisionId, RevisionNumber, Runtime, Trigger};
use crate::planted::planted;
use crate::state::{Function, RevisionStatus, State};

/// The path below which functions are reached by name.
pub const BY_NAME: &str = "/function/";

/// Every route of the cluster.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    targets: Vec<Target>,
    /// Invariant: each value is an index of `targets`.
    names: BTreeMap<String, usize>,
    hosts: BTreeMap<String, Paths>,
    any_host: Paths,
}

/// A function as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub function: FunctionName,
    /// The app it belongs to.
    pub app: AppName,
    /// The revision that takes its traffic.
    pub live: Live,
    /// The revision that is being proved; reached only by who asks for its number.
    pub candidate: Option<Served>,
}

/// A revision that can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The revision.
    pub id: RevisionId,
    /// The contract its instances keep.
    pub runtime: Runtime,
    /// How long one of its invocations may take.
    pub timeout: Duration,
}

/// Which revision of a function takes traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Live {
    /// This one.
    Revision(Served),
    /// None yet: the first one is being proved.
    Starting,
    /// None, because the last one does not start; the text says why.
    Failed(String),
}

/// What a request is for; borrows from the table (`'t`) and from the path (`'p`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'t, 'p> {
    /// A function.
    Found(Found<'t, 'p>),
    /// The path has owners, but none that takes this method.
    MethodNotAllowed {
        /// The methods that are taken; never empty.
        allowed: MethodSet,
    },
    /// There is no function of this name.
    NoFunction {
        /// The name that was asked for.
        name: &'p str,
    },
    /// Nothing is routed at this host and path.
    NotFound,
}

/// A function that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'t, 'p> {
    /// The function.
    pub target: &'t Target,
    /// How it was found.
    pub by: By<'t, 'p>,
}

/// How a function was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By<'t, 'p> {
    /// By its name; `rest` is what follows the name: empty, or it starts with a slash.
    Name {
        /// The part of the path below the function.
        rest: &'p str,
    },
    /// By a trigger, with the pattern as the manifest has it.
    Trigger {
        /// The pattern.
        pattern: &'t str,
    },
}

/// A set of methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodSet(u8);

impl MethodSet {
    fn bit(method: Method) -> u8 {
        1 << method as u8
    }

    /// Adds a method.
    pub fn insert(&mut self, method: Method) {
        self.0 |= Self::bit(method);
    }

    /// Returns the methods in the order of [`Method::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Method> {
        Method::ALL.into_iter().filter(move |method| self.0 & Self::bit(*method) != 0)
    }
}

impl RouteTable {
    /// Makes the table of everything that is deployed.
    pub fn new(state: &State) -> Self {
        let mut table = Self::default();
        for (name, function) in &state.functions {
            let index = table.targets.len();
            table.targets.push(Target {
                function: name.clone(),
                app: function.app.clone(),
                live: live(name, function),
                candidate: function.candidate.and_then(|number| served(name, function, number)),
            });
            table.names.insert(name.as_str().to_owned(), index);
            for Trigger::Http(trigger) in &function.triggers {
                let paths = match &trigger.host {
                    Some(host) => table.hosts.entry(host.clone()).or_default(),
                    None => &mut table.any_host,
                };
                paths.insert(&trigger.path, &trigger.methods, index);
            }
        }
        table
    }

    /// Returns what a request is for.
    ///
    /// `host` is lower case and without port; `path` is as it was sent, without its query. `method` is none for one that
    /// no trigger can name: triggers for every method take it.
    pub fn find<'t, 'p>(&'t self, host: &str, method: Option<Method>, path: &'p str) -> Route<'t, 'p> {
        if let Some(named) = path.strip_prefix(BY_NAME) {
            let (name, rest) = named.split_at(named.find('/').unwrap_or(named.len()));
            return match self.function(name) {
                Some(target) => Route::Found(Found { target, by: By::Name { rest } }),
                None => Route::NoFunction { name },
            };
        }
        let mut search = Search::new(method, path);
        let candidates = [self.hosts.get(host), Some(&self.any_host)];
        for paths in candidates.into_iter().flatten() {
            if let Some((index, pattern)) = paths.find(&mut search) {
                return Route::Found(Found { target: &self.targets[index], by: By::Trigger { pattern } });
            }
        }
        if search.allowed == MethodSet::default() {
            Route::NotFound
        } else {
            Route::MethodNotAllowed { allowed: search.allowed }
        }
    }

    /// Returns a function by name.
    pub fn function(&self, name: &str) -> Option<&Target> {
        self.names.get(name).map(|index| &self.targets[*index])
    }

    /// Returns the function whose name is nearest to one that does not exist, if any is near.
    pub fn nearest(&self, name: &str) -> Option<&FunctionName> {
        near::nearest(name, self.targets.iter().map(|target| &target.function))
    }
}

impl Target {
    /// Returns a revision by number, if it can be called.
    pub fn revision(&self, number: RevisionNumber) -> Option<&Served> {
        let live = match &self.live {
            Live::Revision(served) => Some(served),
            Live::Starting | Live::Failed(_) => None,
        };
        [live, self.candidate.as_ref()].into_iter().flatten().find(|served| served.id.number == number)
    }
}

fn served(name: &FunctionName, function: &Function, number: RevisionNumber) -> Option<Served> {
    let spec = &function.revisions.get(&number)?.spec;
    let id = RevisionId { function: name.clone(), number };
    Some(Served { id, runtime: spec.runtime, timeout: spec.timeout })
}

fn live(name: &FunctionName, function: &Function) -> Live {
    let taking = if planted!(CandidateRouted) { function.candidate.or(function.live) } else { function.live };
    if let Some(served) = taking.and_then(|number| served(name, function, number)) {
        return Live::Revision(served);
    }
    match function.revisions.values().next_back().map(|revision| &revision.status) {
        Some(RevisionStatus::Failed(reason)) if function.candidate.is_none() => Live::Failed(reason.clone()),
        Some(RevisionStatus::Failed(_) | RevisionStatus::Pending | RevisionStatus::Proved) | None => Live::Starting,
    }
}

#[cfg(test)]
mod tests;
