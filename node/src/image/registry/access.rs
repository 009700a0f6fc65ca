//! How a registry lets us in: what it asks for, and what we have for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The largest file of credentials, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// A user name and a password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

impl Credentials {
    /// Returns the value of the header that shows them.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// A file like Docker's `config.json`.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

/// Returns the credentials of a registry in a file like Docker's `config.json`, none if it has none for it.
pub(super) fn credentials(path: &Path, registry: &str) -> Result<Option<Credentials>, String> {
    let told = |reason: String| format!("{}: {reason}", path.display());
    let length = fs::metadata(path).map_err(|error| told(error.to_string()))?.len();
    if length > FILE_MAX {
        return Err(told(format!("it has {length} bytes, the most is {FILE_MAX}")));
    }
    let bytes = fs::read(path).map_err(|error| told(error.to_string()))?;
    // What serde says could repeat what the file holds.
    let file: File = serde_json::from_slice(&bytes)
        .map_err(|error| told(format!("it is no config.json of Docker: line {}", error.line())))?;
    let is_meant = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let host = key.split('/').next().unwrap_or(key);
        host == registry || (registry == super::DOCKER_HUB && host == "index.docker.io")
    };
    let Some((_, entry)) = file.auths.into_iter().find(|(key, _)| is_meant(key)) else { return Ok(None) };
    if let (Some(user), Some(password)) = (entry.username, entry.password) {
        return Ok(Some(Credentials { user, password }));
    }
    let decoded = entry.auth.and_then(|auth| String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok());
    let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
        return Err(told(format!("its entry for {registry} has no user name and password")));
    };
    Ok(Some(Credentials { user: user.to_owned(), password: password.to_owned() }))
}

/// What a registry asks for before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user name and a password with every request.
    Basic,
    /// A token from somewhere.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads a `WWW-Authenticate` header; a way of asking that we do not know is none.
pub(super) fn challenge(header: &str) -> Option<Challenge> {
    let (kind, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if kind.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !kind.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    let realm = parameters.remove("realm")?;
    Some(Challenge::Bearer { realm, service: parameters.remove("service"), scope: parameters.remove("scope") })
}

/// Reads `name="value", name=value`; a comma inside quotes separates nothing.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        rest = after.trim_start_matches([' ', ',']);
    }
    found
}

/// The answer of whoever gives tokens.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl TokenAnswer {
    pub(super) fn token(self) -> Option<String> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_header_asks_for_something_or_nothing(header: String, rest in "[a-z=\", ]*") {
            let _ = challenge(&header);
            let _ = challenge(&format!("Bearer {rest}"));
        }
    }

    #[test]
    fn what_a_registry_asks_for_is_understood() {
        let asked = challenge(r#"Bearer realm="https://auth.example/token",service="r, s",scope="repository:a:pull""#);
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("r, s".to_owned()),
            scope: Some("repository:a:pull".to_owned()),
        };
        assert_eq!(asked, Some(expected));
        assert_eq!(challenge("Basic realm=\"here\""), Some(Challenge::Basic));
        for odd in ["", "Negotiate", "Bearer", "Bearer realm", "Bearer service=a"] {
            assert_eq!(challenge(odd), None, "{odd}");
        }
    }

    #[test]
    fn credentials_are_found_by_the_registrys_name_and_never_shown() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let path = folder.path().join("config.json");
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "a.b:5000": {"username": "x", "password": "secret:1"}, "bad": {}}}"#;
        fs::write(&path, text).expect("it can be written");
        let found = |registry: &str| credentials(&path, registry);
        assert_eq!(found("docker.io").expect("it is read").expect("it is there").basic(), "Basic dTpw");
        let own = found("a.b:5000").expect("it is read").expect("it is there");
        assert_eq!((own.password.as_str(), format!("{own:?}").contains("secret")), ("secret:1", false));
        assert_eq!(found("a.b"), Ok(None));
        assert!(found("bad").is_err());
        fs::write(&path, r#"{"auths": "secret"}"#).expect("it can be written");
        assert!(found("a.b").is_err_and(|reason| !reason.contains("secret")));
    }
}
