//! Places what the controller asks for: all of it planned together, in one entry of the log.

use std::time::Duration;

use super::{Controller, Effect};
use crate::model::{Purpose, Timestamp};
use crate::placement::{Ask, Planner};
use crate::state::{Command, PLACE_MAX, Place, Reply, State};

/// How long it is not told again that an instance fits nowhere.
const TELL_AGAIN: Duration = Duration::from_secs(60);

impl Controller {
    /// Plans the asks over what is agreed and proposes the first of what fits.
    ///
    /// One batch is under way at a time: the next is planned over a state that has it, so that no two want the same room.
    pub(super) fn place_asked(&mut self, now: Timestamp, state: &State, mut asks: Vec<Ask>, effects: &mut Vec<Effect>) {
        // What did not fit into this very state does not fit now either.
        self.no_room.retain(|_, index| *index == state.index);
        self.told_no_room.retain(|_, until| now < *until);
        asks.retain(|ask| !self.no_room.contains_key(ask) && !self.under_way.rests(now, ask));
        if asks.is_empty() || self.under_way.has_batch(now) {
            return;
        }
        let nodes = Planner::of(state).plan(&asks);
        let mut places = Vec::new();
        for (ask, node) in asks.into_iter().zip(nodes) {
            let verification = self.verifications.get_mut(&ask.revision).filter(|_| ask.purpose == Purpose::Verify);
            match node {
                Ok(node) => {
                    if let Some(verification) = verification {
                        verification.no_fit = None;
                    }
                    places.push(Place { revision: ask.revision, node, purpose: ask.purpose });
                }
                Err(no_fit) => {
                    if let Some(verification) = verification {
                        verification.no_fit = Some(no_fit.to_string());
                    }
                    if !self.told_no_room.contains_key(&ask) {
                        self.told_no_room.insert(ask.clone(), now + TELL_AGAIN);
                        let (revision, reason) = (ask.revision.clone(), no_fit.to_string());
                        effects.push(Effect::NotPlaced { revision, reason });
                    }
                    self.no_room.insert(ask, state.index);
                }
            }
        }
        places.truncate(PLACE_MAX);
        if !places.is_empty() {
            self.propose(now, Command::PlaceMany { places }, effects);
        }
    }

    /// A placement that was refused would be refused again at once: its kind rests until its time is over.
    pub(super) fn take_refused(&mut self, now: Timestamp, command: &Command, reply: &Reply) {
        if let (Command::PlaceMany { places }, Reply::PlacedMany { placed }) = (command, reply) {
            for (place, _) in places.iter().zip(placed).filter(|(_, outcome)| outcome.is_err()) {
                self.under_way.rest(now, place);
            }
        }
    }
}
