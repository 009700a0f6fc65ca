//! Reads stories: words and `key=value` settings, one command a line; every error names its line.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::model::{Bytes, Concurrency, FunctionName, NodeId, RevisionNumber, Scaling};

use super::StoryError;
use crate::call::Kind;
use crate::nature::Init;

/// What divides commands from what comes of them.
const DIVIDER: &str = "----";

/// Some commands and what surrounds them.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Comments, blank lines and commands as they stand in the text.
    pub(crate) lines: Vec<String>,
    /// What the commands mean, each with its line.
    pub(crate) actions: Vec<(usize, Action)>,
}

/// What a command means.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Makes the node; before anything else.
    Node {
        memory: Bytes,
        queue_max: usize,
    },
    /// Makes a cluster instead; before anything else.
    Cluster {
        nodes: u32,
        memory: Bytes,
    },
    Deploy(Box<Deployment>),
    Call {
        function: FunctionName,
        times: u32,
        every: Duration,
        kind: Kind,
        /// Where they come in, in a cluster.
        at: Option<Target>,
    },
    /// Something happens to a node of a cluster.
    Happen {
        fault: Fault,
        to: Target,
    },
    Delete(FunctionName),
    Scale(FunctionName, Scaling),
    Rollback(FunctionName, RevisionNumber),
    Crash(FunctionName),
    Restart,
    Stall(Duration),
    Jam(Duration),
    Run(Duration),
    Show,
}

/// What happens to a node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    PowerLoss,
    Start,
    /// Nothing gets through to it or from it.
    Isolate,
    /// Everything gets through again.
    Mend,
    Drain,
    Undrain,
}

/// A node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Leader,
    Node(NodeId),
}

/// A deployment of one function.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    pub(crate) function: FunctionName,
    pub(crate) start: Duration,
    pub(crate) call: Duration,
    pub(crate) init: Init,
    pub(crate) memory: Bytes,
    pub(crate) concurrency: Concurrency,
    pub(crate) timeout: Duration,
    pub(crate) scaling: Scaling,
}

/// Reads a whole story.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>, StoryError> {
    let mut steps = vec![Step::default()];
    let mut is_answer = false;
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim_end();
        // Answers end with a blank line; they are written anew.
        if is_answer {
            if !text.is_empty() {
                continue;
            }
            is_answer = false;
            steps.push(Step::default());
        }
        let Some(step) = steps.last_mut() else { break };
        if text == DIVIDER {
            if step.actions.is_empty() {
                return Err(StoryError { line, problem: format!("there is no command before {DIVIDER}") });
            }
            is_answer = true;
            continue;
        }
        if !text.is_empty() && !text.starts_with('#') {
            let action = Words::read(text).and_then(Words::action).map_err(|problem| StoryError { line, problem })?;
            step.actions.push((line, action));
        }
        step.lines.push(text.to_owned());
    }
    // A story being written may end without the divider; its last answer is written too.
    Ok(steps)
}

/// One command, taken apart.
struct Words<'a> {
    verb: &'a str,
    plain: Vec<&'a str>,
    settings: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut read = Self { verb: words.next().unwrap_or(""), plain: Vec::new(), settings: BTreeMap::new() };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if read.settings.insert(key, value).is_some() => {
                    return Err(format!("{key} is set twice"));
                }
                Some(_) => {}
                None => read.plain.push(word),
            }
        }
        Ok(read)
    }

    fn action(mut self) -> Result<Action, String> {
        let action = match self.verb {
            "node" => Action::Node {
                memory: self.setting("memory", Bytes::mebi(1024), bytes)?,
                queue_max: self.setting("queue", 1000, number)?,
            },
            "cluster" => Action::Cluster {
                nodes: self.setting("nodes", 3, number)?,
                memory: self.setting("memory", Bytes::mebi(1024), bytes)?,
            },
            "kill" => self.happen(Fault::Kill)?,
            "power-loss" => self.happen(Fault::PowerLoss)?,
            "start" => self.happen(Fault::Start)?,
            "isolate" => self.happen(Fault::Isolate)?,
            "mend" => self.happen(Fault::Mend)?,
            "drain" => self.happen(Fault::Drain)?,
            "undrain" => self.happen(Fault::Undrain)?,
            "deploy" => Action::Deploy(Box::new(self.deployment()?)),
            "call" => Action::Call {
                function: self.word("a function")?,
                times: self.setting("times", 1, number)?,
                every: self.setting("every", Duration::ZERO, duration)?,
                kind: self.setting("kind", Kind::Plain, kind)?,
                at: self.setting("at", None, |text| target(text).map(Some))?,
            },
            "delete" => Action::Delete(self.word("a function")?),
            "scale" => Action::Scale(self.word("a function")?, self.scaling()?),
            "rollback" => {
                let function = self.word("a function")?;
                Action::Rollback(function, RevisionNumber(self.word("a revision")?))
            }
            "crash" => Action::Crash(self.word("a function")?),
            "restart" => Action::Restart,
            "stall" => Action::Stall(duration(self.next("a time")?)?),
            "jam" => Action::Jam(duration(self.next("a time")?)?),
            "run" => Action::Run(duration(self.next("a time")?)?),
            "show" => Action::Show,
            other => return Err(format!("there is no command {other:?}")),
        };
        if let Some(word) = self.plain.first().copied().or_else(|| self.settings.keys().next().copied()) {
            return Err(format!("{} takes no {word:?}", self.verb));
        }
        Ok(action)
    }

    fn happen(&mut self, fault: Fault) -> Result<Action, String> {
        Ok(Action::Happen { fault, to: target(self.next("a node")?)? })
    }

    fn deployment(&mut self) -> Result<Deployment, String> {
        Ok(Deployment {
            function: self.word("a function")?,
            start: self.setting("start", Duration::from_millis(50), duration)?,
            call: self.setting("call", Duration::from_millis(10), duration)?,
            init: self.setting("init", Init::Ready, init)?,
            memory: self.setting("memory", Bytes::mebi(128), bytes)?,
            concurrency: self.setting("concurrency", Concurrency::ONE, |text| {
                number(text).and_then(|count| Concurrency::new(count).ok_or("it is out of range".to_owned()))
            })?,
            timeout: self.setting("timeout", Duration::from_secs(10), duration)?,
            scaling: self.scaling()?,
        })
    }

    fn scaling(&mut self) -> Result<Scaling, String> {
        let min = self.setting("min", Scaling::DEFAULT.min(), number)?;
        let max = self.setting("max", Scaling::DEFAULT.max(), number)?;
        let idle = self.setting("idle", Scaling::DEFAULT.idle_max(), duration)?;
        Scaling::new(min, max, idle).map_err(|error| error.to_string())
    }

    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        if self.plain.is_empty() { Err(format!("{} needs {what}", self.verb)) } else { Ok(self.plain.remove(0)) }
    }

    fn word<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, what: &str) -> Result<T, String> {
        let word = self.next(what)?;
        word.parse().map_err(|error| format!("{word:?} is not {what}: {error}"))
    }

    fn setting<T>(&mut self, key: &str, default: T, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
        match self.settings.remove(key) {
            None => Ok(default),
            Some(value) => read(value).map_err(|problem| format!("{key}={value}: {problem}")),
        }
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    for (unit, millis) in units {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.parse::<u64>().ok()) {
            return Ok(Duration::from_millis(count.saturating_mul(millis)));
        }
    }
    Err(format!("{text:?} is no time like 20ms, 5s, 10m or 1h"))
}

fn bytes(text: &str) -> Result<Bytes, String> {
    for (unit, mebi) in [("Mi", 1), ("Gi", 1024)] {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.parse::<u64>().ok()) {
            return Ok(Bytes::mebi(count.saturating_mul(mebi)));
        }
    }
    Err(format!("{text:?} is no size like 128Mi or 1Gi"))
}

fn target(text: &str) -> Result<Target, String> {
    let number = text.strip_prefix("node-").and_then(|number| number.parse().ok());
    match number {
        Some(number) => Ok(Target::Node(NodeId(number))),
        None if text == "leader" => Ok(Target::Leader),
        None => Err(format!("{text:?} is no node like node-2, and not the leader")),
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "plain" => Ok(Kind::Plain),
        "poison" => Ok(Kind::Poison),
        "greedy" => Ok(Kind::Greedy),
        "hangs" => Ok(Kind::Hang),
        _ => Err("it is plain, poison, greedy or hangs".to_owned()),
    }
}

fn init(text: &str) -> Result<Init, String> {
    match text {
        "ready" => Ok(Init::Ready),
        "raises" => Ok(Init::Raises),
        "exits" => Ok(Init::Exits),
        "hangs" => Ok(Init::Hangs),
        _ => Err("it is ready, raises, exits or hangs".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_their_line() {
        let cases = [
            ("dance\n", "line 1: there is no command \"dance\""),
            ("# a comment\n\nrun soon\n", "line 3: \"soon\" is no time like 20ms, 5s, 10m or 1h"),
            ("deploy\n", "line 1: deploy needs a function"),
            ("deploy hello min=3 max=2\n", "line 1: min 3 is above max 2"),
            ("deploy hello start=1s start=2s\n", "line 1: start is set twice"),
            ("call hello loudly\n", "line 1: call takes no \"loudly\""),
            ("call hello volume=3\n", "line 1: call takes no \"volume\""),
            ("call hello times=many\n", "line 1: times=many: invalid digit found in string"),
            ("kill somebody\n", "line 1: \"somebody\" is no node like node-2, and not the leader"),
            ("----\n", "line 1: there is no command before ----"),
        ];
        for (text, problem) in cases {
            let error = parse(text).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(problem), "{text:?}");
        }
    }

    #[test]
    fn what_stands_between_answers_is_kept_and_answers_are_not() {
        let steps = parse("# first\nshow\n----\nold\n\n# second\nshow\n----\nolder\n").expect("it is a story");
        let kept: Vec<&str> = steps.iter().flat_map(|step| &step.lines).map(String::as_str).collect();
        assert_eq!(kept, ["# first", "show", "", "# second", "show"]);
    }
}
