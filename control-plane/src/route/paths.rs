//! The routes of one host: exact paths, prefixes, and who takes which method.

use std::collections::BTreeMap;

use super::MethodSet;
use crate::model::{Method, PathPattern};

/// The routes of one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    exact: BTreeMap<String, Claims>,
    /// By the pattern without its final `/*`.
    prefixes: BTreeMap<String, Claims>,
    /// Invariant: no key of `prefixes` has more slashes. Bounds the work that a path of many slashes can ask for.
    slashes_max: usize,
}

/// Who takes which method at one pattern; values are indices of targets.
#[derive(Clone, Debug)]
struct Claims {
    pattern: String,
    by_method: BTreeMap<Method, usize>,
    every: Option<usize>,
}

/// One request in search of its route.
#[derive(Debug)]
pub(super) struct Search<'a> {
    method: Option<Method>,
    path: &'a str,
    /// What patterns that match the path would have taken.
    pub(super) allowed: MethodSet,
}

impl<'a> Search<'a> {
    pub(super) fn new(method: Option<Method>, path: &'a str) -> Self {
        Self { method, path, allowed: MethodSet::default() }
    }
}

impl Paths {
    pub(super) fn insert(&mut self, pattern: &PathPattern, methods: &[Method], target: usize) {
        let text = pattern.as_str();
        let claims = match text.strip_suffix("/*") {
            None => self.exact.entry(text.to_owned()),
            Some(prefix) => {
                self.slashes_max = self.slashes_max.max(slashes(prefix).count());
                self.prefixes.entry(prefix.to_owned())
            }
        };
        let claims =
            claims.or_insert_with(|| Claims { pattern: text.to_owned(), by_method: BTreeMap::new(), every: None });
        // The state refuses two owners of one claim; were there two, the first in the order of names would have it.
        if methods.is_empty() {
            claims.every.get_or_insert(target);
        }
        for method in methods {
            claims.by_method.entry(*method).or_insert(target);
        }
    }

    /// Returns the target of the most specific pattern that takes the request, and the pattern.
    pub(super) fn find(&self, search: &mut Search<'_>) -> Option<(usize, &str)> {
        let path = search.path;
        if let Some(found) = self.exact.get(path).and_then(|claims| claims.take(search)) {
            return Some(found);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        // A prefix ends where the path does or before one of its slashes; those after the last one that matters are
        // not looked at.
        let mut end = slashes(path).nth(self.slashes_max).map_or(path.len(), |(at, _)| at);
        loop {
            if let Some(found) = self.prefixes.get(&path[..end]).and_then(|claims| claims.take(search)) {
                return Some(found);
            }
            end = path[..end].rfind('/')?;
        }
    }
}

impl Claims {
    fn take(&self, search: &mut Search<'_>) -> Option<(usize, &str)> {
        let owner = search.method.and_then(|method| self.by_method.get(&method)).copied().or(self.every);
        if owner.is_none() {
            self.by_method.keys().for_each(|method| search.allowed.insert(*method));
        }
        owner.map(|target| (target, self.pattern.as_str()))
    }
}

fn slashes(path: &str) -> impl Iterator<Item = (usize, &str)> {
    path.match_indices('/')
}
