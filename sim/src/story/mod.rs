//! Stories: what should happen, as text that a person reads and a test plays.
//!
//! A story is a list of steps. Each is a few commands, a line `----`, and what happens because of them up to the next step:
//!
//! ```text
//! # A call without an instance waits for one that is started inside the grant.
//! call hello
//! run 1s
//! ----
//! 0.130 call 1 waits for hello@1
//! 0.130 instance-1-1-1 starts hello@1 inside the grant
//! ```
//!
//! Times are seconds since the beginning. The answers are compared with what happens, or written by it. Nothing in a story
//! is left to chance.
//!
//! A story is about one node, unless its first command makes a cluster.

mod cluster;
mod parse;
mod play;
mod tell;

use std::fmt::Write;
use std::time::Duration;

use self::parse::{Action, Deployment, Step};

/// Why a text is no story.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct StoryError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// What came of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The story with the answers it has, which may differ from those it had.
    pub text: String,
    /// What must not happen and did.
    pub violations: Vec<String>,
    /// How much virtual time it took.
    pub span: Duration,
}

/// Plays a story and writes down what happens.
pub fn tell(text: &str) -> Result<Told, StoryError> {
    let steps = parse::parse(text)?;
    let mut player = Player::new(&steps)?;
    let mut told = String::new();
    for step in &steps {
        for line in &step.lines {
            writeln!(told, "{line}").expect("a string takes any text");
        }
        if step.actions.is_empty() {
            continue;
        }
        for (line, action) in &step.actions {
            player.act(action).map_err(|problem| StoryError { line: *line, problem })?;
        }
        told.push_str("----\n");
        for answer in player.answers() {
            writeln!(told, "{answer}").expect("a string takes any text");
        }
    }
    let (violations, span) = player.end();
    Ok(Told { text: told, violations, span })
}

/// Whoever plays the story.
enum Player {
    Node(Box<play::Player>),
    Cluster(Box<cluster::Player>),
}

impl Player {
    fn new(steps: &[Step]) -> Result<Self, StoryError> {
        match steps.iter().flat_map(|step| &step.actions).next() {
            Some((line, Action::Cluster { nodes, memory })) => {
                let made = cluster::Player::new(*nodes, *memory);
                made.map(|made| Self::Cluster(Box::new(made))).map_err(|problem| StoryError { line: *line, problem })
            }
            _ => Ok(Self::Node(Box::new(play::Player::new()))),
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), String> {
        match self {
            Self::Node(player) => player.act(action),
            Self::Cluster(player) => player.act(action),
        }
    }

    fn answers(&mut self) -> Vec<String> {
        match self {
            Self::Node(player) => player.answers(),
            Self::Cluster(player) => player.answers(),
        }
    }

    fn end(self) -> (Vec<String>, Duration) {
        match self {
            Self::Node(player) => player.end(),
            Self::Cluster(player) => player.end(),
        }
    }
}
