//! What invokes a function beside its name.

use std::fmt;
use std::str::FromStr;

/// An event source bound to a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// HTTP requests by host, path and method.
    Http(HttpTrigger),
}

/// Which HTTP requests reach a function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpTrigger {
    /// The host, lower case and without port; none means every host.
    pub host: Option<String>,
    /// The paths.
    pub path: PathPattern,
    /// The methods; none means every method.
    pub methods: Vec<Method>,
}

/// Why a trigger makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// A path without a leading slash, with empty or dotted segments, or with `*` elsewhere than at its end.
    #[error("{0:?} is no path: it starts with /, has no empty, . or .. segment, and may end in /*")]
    Path(String),
    /// Not one of the methods of HTTP.
    #[error("{0:?} is no HTTP method: it is one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")]
    Method(String),
}

/// A path, or with a final `/*` that path and all below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathPattern(String);

impl PathPattern {
    /// Returns the pattern as it is written in a manifest.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether a request for `path` matches.
    pub fn matches(&self, path: &str) -> bool {
        match self.0.strip_suffix("/*") {
            None => self.0 == path,
            Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl FromStr for PathPattern {
    type Err = TriggerError;

    fn from_str(text: &str) -> Result<Self, TriggerError> {
        let refuse = || TriggerError::Path(text.to_owned());
        let plain = text.strip_suffix("/*").unwrap_or(text);
        let visible = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
        if !text.starts_with('/') || !visible || plain.contains('*') {
            return Err(refuse());
        }
        let mut segments = plain.strip_prefix('/').unwrap_or(plain).split('/').peekable();
        while let Some(segment) = segments.next() {
            let is_final = segments.peek().is_none();
            if matches!(segment, "." | "..") || (segment.is_empty() && !is_final) {
                return Err(refuse());
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// A method of HTTP that a trigger may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
}

impl Method {
    /// Every method a trigger may name.
    pub const ALL: [Self; 7] = [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// Returns the method as HTTP writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = TriggerError;

    fn from_str(text: &str) -> Result<Self, TriggerError> {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str() == text)
            .ok_or_else(|| TriggerError::Method(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        pattern.parse::<PathPattern>().expect("the pattern is valid").matches(path)
    }

    #[test]
    fn a_final_star_takes_the_path_and_all_below_it() {
        assert!(matches("/a/*", "/a") && matches("/a/*", "/a/") && matches("/a/*", "/a/b/c"));
        assert!(!matches("/a/*", "/ab") && !matches("/a/*", "/"));
        assert!(matches("/*", "/") && matches("/*", "/anything"));
        assert!(matches("/a", "/a") && !matches("/a", "/a/") && !matches("/a", "/a/b"));
    }

    #[test]
    fn odd_paths_are_refused() {
        for bad in ["", "a", "/a/../b", "/./a", "//a", "/a*", "/*/a", "/a b", "/a?b", "/a#b", "/ä"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad:?} was taken");
        }
    }
}
