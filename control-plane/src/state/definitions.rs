//! What users have defined, apart from the machines that run it: what a backup keeps, and what it brings into a cluster.

use std::collections::BTreeMap;

use super::function::check_routes;
use super::{App, DELETED_MAX, Deleted, FUNCTIONS_MAX, Function, Rejection, Reply, State, violations};
use crate::model::{AppName, FunctionName};

/// The highest index that is taken over: there are as many left as anybody could use up.
const INDEX_MAX: u64 = u64::MAX / 2;

/// Everything that users have defined. Nodes, placements, sessions and join tokens belong to one cluster and are no part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definitions {
    /// The [`State::index`] at which they were this.
    pub index: u64,
    /// What each manifest deployed.
    pub apps: BTreeMap<AppName, App>,
    /// Every function by name.
    pub functions: BTreeMap<FunctionName, Function>,
    /// The functions that were deleted last.
    pub deleted: BTreeMap<FunctionName, Deleted>,
}

impl State {
    /// Returns what users have defined.
    pub fn definitions(&self) -> Definitions {
        Definitions {
            index: self.index,
            apps: self.apps.clone(),
            functions: self.functions.clone(),
            deleted: self.deleted.clone(),
        }
    }

    /// Returns whether nothing was ever deployed.
    pub fn is_fresh(&self) -> bool {
        self.apps.is_empty() && self.functions.is_empty() && self.deleted.is_empty()
    }

    /// Takes definitions over as they are, with the indexes that they have: what was planned against them still holds.
    ///
    /// Where something was ever deployed, an instance of it may still run and pass for one of a restored revision with the same
    /// number. So only a cluster takes them where nothing was.
    pub(super) fn restore(&mut self, definitions: Definitions) -> Result<Reply, Rejection> {
        if !self.is_fresh() {
            return Err(Rejection::NotFresh);
        }
        let Definitions { index, apps, functions, deleted } = definitions.checked()?;
        (self.apps, self.functions, self.deleted) = (apps, functions, deleted);
        self.index = self.index.max(index);
        Ok(self.done())
    }
}

impl Definitions {
    /// Refuses what contradicts itself or is beyond a limit.
    fn checked(self) -> Result<Self, Rejection> {
        if self.index > INDEX_MAX {
            return Err(Rejection::Unsound(format!("index {} is beyond {INDEX_MAX}", self.index)));
        }
        for (what, count, limit) in
            [("functions", self.functions.len(), FUNCTIONS_MAX), ("deleted functions", self.deleted.len(), DELETED_MAX)]
        {
            if count > limit {
                return Err(Rejection::Limit { what: what.to_owned(), limit });
            }
        }
        check_routes(self.functions.iter().map(|(name, function)| (name, function.triggers.as_slice())))?;
        let Self { index, apps, functions, deleted } = self;
        let alone = State { index, apps, functions, deleted, ..State::default() };
        if let Some(violation) = violations(&alone).into_iter().next() {
            return Err(Rejection::Unsound(violation));
        }
        let State { index, apps, functions, deleted, .. } = alone;
        Ok(Self { index, apps, functions, deleted })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{
        Concurrency, Constraints, Digest, FeatureLevel, FunctionSpec, Network, NodeId, NodeSpec, Resources, RevisionId,
        RevisionNumber, RevisionSpec, Runtime, Scaling, Timestamp,
    };
    use crate::state::Command;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A state with a node and a function that had two revisions, of which the first is live.
    fn used() -> State {
        let mut state = registered();
        for image in [1, 2] {
            let revision = RevisionSpec {
                runtime: Runtime::Http,
                image: Digest::from_bytes([image; 32]),
                command: Vec::new(),
                handler: None,
                environment: BTreeMap::new(),
                resources: Resources::default(),
                timeout: Duration::from_secs(1),
                concurrency: Concurrency::ONE,
                network: Network::None,
                placement: Constraints::default(),
                user: None,
            };
            let scaling = Scaling::new(0, 1, Duration::from_secs(1)).expect("the limits are kept");
            let spec = FunctionSpec { name: name("f"), revision, scaling, triggers: Vec::new() };
            let app = "app".parse().expect("a name");
            state
                .apply(at(2), Command::DeployApp { app, functions: vec![spec], check_index: None })
                .expect("it is fine");
            let live = RevisionId { function: name("f"), number: RevisionNumber(1) };
            state.apply(at(3), Command::Promote { revision: live }).expect("it may be live");
        }
        state
    }

    fn registered() -> State {
        let mut state = State::default();
        let spec = NodeSpec {
            name: "a".to_owned(),
            capacity: Resources::default(),
            labels: BTreeMap::new(),
            features: FeatureLevel::NEWEST,
        };
        state.apply(at(1), Command::RegisterNode { node: NodeId(1), spec }).expect("it registers");
        state
    }

    fn name(text: &str) -> FunctionName {
        text.parse().expect("a name")
    }

    #[test]
    fn what_is_restored_is_what_was_defined_and_the_index_goes_on() {
        let old = used();
        let mut new = registered();
        new.apply(at(9), Command::Restore(Box::new(old.definitions()))).expect("nothing was deployed");
        assert_eq!((&new.apps, &new.functions, &new.deleted), (&old.apps, &old.functions, &old.deleted));
        assert_eq!(new.index, old.index + 1);
        assert_eq!(new.nodes, registered().nodes);
    }

    #[test]
    fn nothing_is_restored_where_something_was_deployed_even_if_it_is_gone() {
        let mut state = used();
        let restore = |state: &mut State| state.apply(at(9), Command::Restore(Box::new(used().definitions())));
        assert_eq!(restore(&mut state), Err(Rejection::NotFresh));
        state.apply(at(4), Command::DeleteApp { app: "app".parse().expect("a name") }).expect("it is there");
        let before = state.clone();
        assert_eq!(restore(&mut state), Err(Rejection::NotFresh), "an instance of it may still run");
        assert_eq!(state, before);
    }

    #[test]
    fn definitions_that_no_commands_lead_to_are_refused() {
        let good = used().definitions();
        let mut no_app = good.clone();
        no_app.apps.clear();
        let mut pending = good.clone();
        pending.functions.get_mut(&name("f")).expect("it is there").live = Some(RevisionNumber(2));
        let early = Definitions { index: 1, ..good.clone() };
        let endless = Definitions { index: u64::MAX, ..good };
        for bad in [no_app, pending, early, endless] {
            let mut state = registered();
            let refused = state.apply(at(9), Command::Restore(Box::new(bad)));
            assert!(matches!(refused, Err(Rejection::Unsound(_))), "{refused:?}");
            assert_eq!(state, registered());
        }
    }
}
