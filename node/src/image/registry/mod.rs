//! Registries: manifests and blobs by the OCI distribution protocol, over HTTP.

mod access;
mod connection;

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use control_plane::model::Digest;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use self::access::{Challenge, TokenAnswer};
use self::connection::{Answer, Connector};
use super::Settings;
use super::blob::BlobWriter;
use super::oci::{self, DOCUMENT_MAX, Descriptor};
use super::pull::PullError;
use super::reference::{Reference, Scheme};

/// How often one thing is asked for before it is given up.
const ATTEMPTS_MAX: u32 = 5;

/// The pause before the second attempt; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause between two attempts, also where the registry asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How often one request may be sent elsewhere.
const REDIRECTS_MAX: u32 = 5;

/// Bytes of an answer that is about access or about an error.
const ANSWER_MAX: u64 = 1 << 20;

/// Characters of a registry's own words that are passed on.
const WORDS_MAX: usize = 300;

/// The registry whose API has another host than its images have.
const DOCKER_HUB: &str = "docker.io";

/// One repository of a registry.
#[derive(Debug)]
pub(super) struct Registry {
    reference: Reference,
    connector: Connector,
    settings: Settings,
    base: String,
    is_plain: bool,
    /// The header that lets us in, once the registry has asked for one.
    access: Mutex<Option<HeaderValue>>,
}

/// What one attempt came to.
enum Attempt {
    /// Everything is there.
    Whole,
    /// The blob broke off; what came is kept.
    Broken(PullError),
}

impl Registry {
    pub(super) fn new(reference: &Reference, settings: &Settings) -> Self {
        let is_plain = match reference.scheme {
            Scheme::Http => true,
            Scheme::Https => false,
            Scheme::Usual => {
                is_loopback(&reference.registry) || settings.insecure_registries.contains(&reference.registry)
            }
        };
        let host = if reference.registry == DOCKER_HUB { "registry-1.docker.io" } else { &reference.registry };
        // What one writes `docker.io/busybox` is kept as `library/busybox`.
        let repository = if reference.registry == DOCKER_HUB && !reference.repository.contains('/') {
            format!("library/{}", reference.repository)
        } else {
            reference.repository.clone()
        };
        let scheme = if is_plain { "http" } else { "https" };
        Self {
            base: format!("{scheme}://{host}/v2/{repository}"),
            reference: reference.clone(),
            connector: Connector::new(settings.clone()),
            settings: settings.clone(),
            is_plain,
            access: Mutex::default(),
        }
    }

    /// Returns a manifest or an index, with the media type that the registry says it has.
    pub(super) async fn document(&self, version: &str) -> Result<(Bytes, Option<String>), PullError> {
        let mut attempt = 1;
        loop {
            match self.try_document(version).await {
                Err(error) if error.may_pass() && attempt < ATTEMPTS_MAX => self.pause(attempt, &error).await,
                result => return result,
            }
            attempt += 1;
        }
    }

    async fn try_document(&self, version: &str) -> Result<(Bytes, Option<String>), PullError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(oci::ACCEPTED));
        let mut answer = self.get(&format!("{}/manifests/{version}", self.base), headers).await?;
        if answer.head.status != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        let kind = answer.header(CONTENT_TYPE).map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_owned());
        let bytes = answer.whole("bytes of a manifest", DOCUMENT_MAX).await?;
        Ok((bytes, kind))
    }

    /// Writes a blob; where it breaks off it goes on.
    pub(super) async fn blob(&self, part: &Descriptor, writer: &mut BlobWriter) -> Result<(), PullError> {
        let mut attempt = 1;
        loop {
            let error = match self.try_blob(part, writer).await {
                Ok(Attempt::Whole) => return Ok(()),
                Ok(Attempt::Broken(error)) => error,
                Err(error) => error,
            };
            if !error.may_pass() || attempt >= ATTEMPTS_MAX {
                return Err(error);
            }
            self.pause(attempt, &error).await;
            attempt += 1;
        }
    }

    async fn try_blob(&self, part: &Descriptor, writer: &mut BlobWriter) -> Result<Attempt, PullError> {
        let mut headers = HeaderMap::new();
        if writer.written() > 0 {
            let range = format!("bytes={}-", writer.written());
            headers.insert(RANGE, HeaderValue::from_str(&range).expect("digits and a dash are a header"));
        }
        let mut answer = self.get(&format!("{}/blobs/{}", self.base, part.digest), headers).await?;
        match answer.head.status {
            StatusCode::PARTIAL_CONTENT => {
                let begins = answer.header(CONTENT_RANGE).and_then(range_start);
                if begins != Some(writer.written()) {
                    writer.restart().await?;
                    let reason = "it sent another part of a blob than it was asked for".to_owned();
                    return Ok(Attempt::Broken(PullError::Answer { host: self.host(), status: 206, reason }));
                }
            }
            // It knows no ranges: from the beginning.
            StatusCode::OK => writer.restart().await?,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                writer.restart().await?;
                return Ok(Attempt::Broken(self.refusal(answer).await));
            }
            _ => return Err(self.refusal(answer).await),
        }
        loop {
            match answer.piece().await {
                Ok(Some(piece)) => writer.write(piece).await?,
                Ok(None) if writer.written() >= part.size => return Ok(Attempt::Whole),
                Ok(None) => {
                    let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Ok(Attempt::Broken(PullError::Unreachable { host: self.host(), source }));
                }
                Err(error) => return Ok(Attempt::Broken(error)),
            }
        }
    }

    /// Gets something of this repository: shows what lets us in, and follows where the registry sends us.
    async fn get(&self, url: &str, headers: HeaderMap) -> Result<Answer, PullError> {
        let mut may_ask = true;
        loop {
            let shown = self.access.lock().expect("no holder of this lock panics").clone();
            let answer = self.follow(url, &headers, shown).await?;
            if answer.head.status != StatusCode::UNAUTHORIZED || !may_ask {
                return Ok(answer);
            }
            may_ask = false;
            let access = self.let_in(&answer).await?;
            *self.access.lock().expect("no holder of this lock panics") = Some(access);
        }
    }

    async fn follow(&self, url: &str, headers: &HeaderMap, shown: Option<HeaderValue>) -> Result<Answer, PullError> {
        let mut uri = self.uri(url)?;
        let home = uri.authority().cloned();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = headers.clone();
            // Nobody but the registry sees what lets us in.
            if let Some(access) = shown.clone().filter(|_| uri.authority() == home.as_ref()) {
                headers.insert(AUTHORIZATION, access);
            }
            let answer = self.connector.get(&uri, headers).await?;
            if !answer.head.status.is_redirection() {
                return Ok(answer);
            }
            let Some(location) = answer.header(LOCATION) else { return Ok(answer) };
            let next = if location.starts_with('/') {
                let (scheme, authority) =
                    (uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |a| a.as_str()));
                self.uri(&format!("{scheme}://{authority}{location}"))?
            } else {
                self.uri(location)?
            };
            if next.scheme_str() != Some("https") && !self.is_plain {
                let reason = format!("it sends us to {next}, without TLS");
                return Err(PullError::Answer { host: self.host(), status: answer.head.status.as_u16(), reason });
            }
            uri = next;
        }
        let reason = format!("it sends us elsewhere more than {REDIRECTS_MAX} times");
        Err(PullError::Answer { host: self.host(), status: 302, reason })
    }

    /// Returns the header that the registry asks for.
    async fn let_in(&self, answer: &Answer) -> Result<HeaderValue, PullError> {
        let denied = |reason: String| PullError::Denied { host: self.host(), reason };
        let asked = answer.head.headers.get_all(WWW_AUTHENTICATE);
        let asked = asked.iter().filter_map(|value| value.to_str().ok()).find_map(access::challenge);
        let own = match &self.settings.auth_file {
            Some(file) => access::credentials(file, &self.reference.registry).map_err(denied)?,
            None => None,
        };
        let secret = |text: String| {
            let mut value = HeaderValue::from_str(&text).map_err(|_| denied("its token is none".to_owned()))?;
            value.set_sensitive(true);
            Ok(value)
        };
        match (asked, own) {
            (None, _) => Err(denied("it asks for something that this version does not have".to_owned())),
            (Some(Challenge::Basic), None) => Err(denied("it wants a user name and a password".to_owned())),
            (Some(Challenge::Basic), Some(own)) => secret(own.basic()),
            (Some(Challenge::Bearer { realm, service, scope }), own) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
                let uri = self.uri(&token_address(&realm, service.as_deref(), &scope))?;
                if uri.scheme_str() != Some("https") && !self.is_plain {
                    return Err(denied(format!("it wants a token from {realm}, without TLS")));
                }
                let mut headers = HeaderMap::new();
                if let Some(own) = own {
                    headers.insert(AUTHORIZATION, secret(own.basic())?);
                }
                let mut given = self.connector.get(&uri, headers).await?;
                let status = given.head.status;
                let bytes = given.whole("bytes of a token", ANSWER_MAX).await?;
                if status.is_server_error() {
                    return Err(PullError::Answer {
                        host: self.host(),
                        status: status.as_u16(),
                        reason: words(&bytes),
                    });
                }
                if status != StatusCode::OK {
                    return Err(denied(format!("no token is given: {}", words(&bytes))));
                }
                let token = serde_json::from_slice::<TokenAnswer>(&bytes).ok().and_then(TokenAnswer::token);
                secret(format!("Bearer {}", token.ok_or_else(|| denied("no token came".to_owned()))?))
            }
        }
    }

    /// Returns what an answer means that is none we wanted.
    async fn refusal(&self, mut answer: Answer) -> PullError {
        let status = answer.head.status;
        let wait = answer.header(RETRY_AFTER).and_then(|value| value.parse().ok()).map(Duration::from_secs);
        let bytes = answer.whole("bytes of an error", ANSWER_MAX).await.unwrap_or_default();
        let (host, reason) = (self.host(), words(&bytes));
        match status {
            StatusCode::NOT_FOUND => PullError::NotFound { reference: self.reference.to_string(), reason },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PullError::Denied { host, reason },
            StatusCode::TOO_MANY_REQUESTS => PullError::Busy { host, wait },
            _ => PullError::Answer { host, status: status.as_u16(), reason },
        }
    }

    async fn pause(&self, attempt: u32, error: &PullError) {
        let doubled = PAUSE_MIN * 2_u32.saturating_pow(attempt - 1);
        let asked = match error {
            PullError::Busy { wait, .. } => wait.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let pause = doubled.max(asked).min(PAUSE_MAX);
        // Several nodes that were cut off together do not come back together.
        let jitter = pause.mul_f64(f64::from(std::process::id() % 100 + attempt) / 400.0);
        tracing::info!(host = %self.host(), attempt, %error, "trying again");
        tokio::time::sleep(pause + jitter).await;
    }

    fn uri(&self, text: &str) -> Result<Uri, PullError> {
        let uri: Option<Uri> = text.parse().ok();
        uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()).ok_or_else(|| {
            let reason =
                format!("it names an address that is none: {}", text.chars().take(WORDS_MAX).collect::<String>());
            PullError::Answer { host: self.host(), status: 0, reason }
        })
    }

    fn host(&self) -> String {
        self.reference.registry.clone()
    }
}

/// Returns where a token is asked for.
fn token_address(realm: &str, service: Option<&str>, scope: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(service.map(|service| ("service", service)));
    query.append_pair("scope", scope);
    let mark = if realm.contains('?') { '&' } else { '?' };
    format!("{realm}{mark}{}", query.finish())
}

/// Returns whether a registry is on this machine.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns where a part of a blob begins: `bytes 10-99/100` at 10.
fn range_start(header: &str) -> Option<u64> {
    header.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Returns what a registry says went wrong, in its own words as far as they are for people.
fn words(body: &[u8]) -> String {
    let parsed: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &parsed["errors"][0];
    let told = first["message"].as_str().or(first["code"].as_str()).or(parsed["details"].as_str());
    let text = told.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    text.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

/// Names the digest that a part must have.
pub(super) fn digest_of(part: &Descriptor) -> Result<Digest, PullError> {
    part.digest.parse().map_err(|_| PullError::Invalid { reason: format!("{:?} is no digest", part.digest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_the_world() {
        for registry in ["localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["example.com", "10.0.0.1:5000", "127.0.0.1.example.com", "[::2]:1", "localhost.example"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }

    #[test]
    fn a_registrys_words_are_short_and_plain() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown\u001b[31m"}]}"#;
        assert_eq!(words(body), "manifest unknown[31m");
        assert_eq!(words(&[b'a'; 5000]).len(), WORDS_MAX);
        assert_eq!(range_start("bytes 10-99/100"), Some(10));
        assert_eq!(range_start("10-99/100"), None);
    }
}
