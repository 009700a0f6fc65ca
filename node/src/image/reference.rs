//! How people name images in registries: `registry/repository:tag`, `registry/repository@sha256:…`, or both.

use std::fmt;
use std::str::FromStr;

use control_plane::model::Digest;

/// The longest name of a repository, in bytes.
const REPOSITORY_MAX: usize = 255;

/// The longest tag, in bytes.
const TAG_MAX: usize = 128;

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// How the registry is spoken to.
    pub scheme: Scheme,
    /// The registry, as `host` or `host:port`.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// The tag; at least one of tag and digest is there.
    pub tag: Option<String>,
    /// The digest of the manifest or index.
    pub digest: Option<Digest>,
}

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// With TLS, unless the registry is on loopback or configured as insecure.
    Usual,
    /// Without TLS.
    Http,
    /// With TLS, wherever it is.
    Https,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no image: {reason}")]
pub struct ReferenceError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
    /// What helps.
    pub hint: String,
}

impl Reference {
    /// Returns what the registry knows the manifest by: the digest, or else the tag.
    pub(super) fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => unreachable!("a reference has a tag or a digest"),
        }
    }
}

/// Returns whether a text can only be meant as an image in a registry: a name of the store has no slash after a host.
pub(super) fn is_reference(text: &str) -> bool {
    let rest = scheme(text).1;
    rest.split_once('/').is_some_and(|(host, _)| is_host(host))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |reason, hint: String| ReferenceError { text: text.chars().take(300).collect(), reason, hint };
        let (scheme, rest) = scheme(text);
        let (rest, digest) = match rest.split_once('@') {
            None => (rest, None),
            Some((rest, digest)) => {
                let hint = || "it is sha256: and 64 hexadecimal digits".to_owned();
                (rest, Some(digest.parse().map_err(|_| refuse("its digest is none", hint()))?))
            }
        };
        let Some((registry, path)) = rest.split_once('/').filter(|(host, _)| is_host(host)) else {
            let name = if rest.contains('/') { rest.to_owned() } else { format!("library/{rest}") };
            return Err(refuse("it names no registry", format!("write it out, such as docker.io/{name}")));
        };
        let (repository, tag) = match path.rsplit_once(':') {
            None => (path, None),
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
        };
        if !is_repository(repository) {
            let hint = "it is parts of lower-case letters and digits, separated by slashes".to_owned();
            return Err(refuse("its repository is none", hint));
        }
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("its tag is none", "a tag is letters, digits, dots, dashes and underscores".to_owned()));
        }
        if tag.is_none() && digest.is_none() {
            return Err(refuse("it has neither tag nor digest", format!("add one, such as {rest}:latest")));
        }
        Ok(Self { scheme, registry: registry.to_ascii_lowercase(), repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn scheme(text: &str) -> (Scheme, &str) {
    if let Some(rest) = text.strip_prefix("http://") {
        (Scheme::Http, rest)
    } else if let Some(rest) = text.strip_prefix("https://") {
        (Scheme::Https, rest)
    } else {
        (Scheme::Usual, text.strip_prefix("docker://").unwrap_or(text))
    }
}

/// A host has a dot or a port, or is this machine: that is how all clients tell it from a repository.
fn is_host(text: &str) -> bool {
    let is_marked = text.contains(['.', ':']) || text == "localhost";
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
    is_marked && is_plain && !text.starts_with(['.', '-', ':'])
}

fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(is_inner)
            && part.ends_with(is_inner)
            && part.chars().all(|c| is_inner(c) || matches!(c, '.' | '_' | '-'))
            && !part.contains("..")
    };
    text.len() <= REPOSITORY_MAX && text.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    text.len() <= TAG_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let told = match text.parse::<Reference>() {
            Ok(reference) => format!("{:?} {} {reference}", reference.scheme, reference.version()),
            Err(error) => format!("{error}; {}", error.hint),
        };
        expected.assert_eq(&told);
    }

    #[test]
    fn a_reference_names_registry_repository_and_version() {
        check("127.0.0.1:5000/a/b:1", expect!["Usual 1 127.0.0.1:5000/a/b:1"]);
        check("http://Registry.example/a:v1.2", expect!["Http v1.2 registry.example/a:v1.2"]);
        check("docker://localhost/a:1", expect!["Usual 1 localhost/a:1"]);
        check("[::1]:5000/a:1", expect!["Usual 1 [::1]:5000/a:1"]);
        let digest = format!("sha256:{}", "0a".repeat(32));
        check(
            &format!("ghcr.io/a/b-c:1@{digest}"),
            expect![
                "Usual sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a ghcr.io/a/b-c:1@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
            ],
        );
    }

    #[test]
    fn anything_else_is_told_what_is_wrong_with_it() {
        check(
            "busybox:1",
            expect![[
                r#""busybox:1" names no image: it names no registry; write it out, such as docker.io/library/busybox:1"#
            ]],
        );
        check(
            "ghcr.io/a/b",
            expect![[
                r#""ghcr.io/a/b" names no image: it has neither tag nor digest; add one, such as ghcr.io/a/b:latest"#
            ]],
        );
        for text in
            ["", "/", "a.b/", "a.b/C:1", "a.b/../c:1", "a.b/c:", "a.b/c:-1", "a.b/c@sha256:0", "a b/c:1", "a.b/c:1 "]
        {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
