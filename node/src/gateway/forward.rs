//! What a function is told of the way its request came, beyond the request itself.

use std::borrow::Cow;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Uri, Version};

use super::client::Client;
use super::failure::CallFailure;
use super::peers::HOP;

/// Names a call to its caller and to its function.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-hearth-request-id");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Returns the host that a request is for: lower case, without port and without a final dot.
///
/// A request that names no host, or two, is refused: those behind this gateway might read it differently.
pub(super) fn host(parts: &mut Parts) -> Result<String, CallFailure> {
    let mut named = parts.headers.get_all(HOST).iter();
    let header = named.next();
    if named.next().is_some() {
        return Err(CallFailure::BadRequest("the request names more than one host"));
    }
    if let Some(authority) = parts.uri.authority() {
        let host = normal(authority.host());
        // What stands in the address counts, and the function gets no other.
        let value = HeaderValue::from_str(authority.as_str());
        let value = value.map_err(|_| CallFailure::BadRequest("the request names no valid host"))?;
        parts.headers.insert(HOST, value);
        return Ok(host);
    }
    match header {
        None if parts.version == Version::HTTP_11 => Err(CallFailure::BadRequest("the request names no host")),
        None => Ok(String::new()),
        Some(value) => {
            let text = value.to_str().ok().filter(|text| !text.contains(['@', '/', '?', '#', ' ', ',']));
            let text = text.ok_or(CallFailure::BadRequest("the request names no valid host"))?;
            Ok(normal(without_port(text)))
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address stand within brackets.
        Some((host, port)) if !port.contains(']') => host,
        _ => host,
    }
}

fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Makes the path below a function the whole path, and notes what was cut off.
pub(super) fn cut_prefix(parts: &mut Parts, prefix_length: usize) -> Result<(), CallFailure> {
    let (prefix, rest) = parts.uri.path().split_at(prefix_length);
    let prefix = HeaderValue::from_str(prefix);
    let path = match (rest, parts.uri.query()) {
        ("", None) => PathAndQuery::from_static("/"),
        (rest, query) => {
            let rest = if rest.is_empty() { "/" } else { rest };
            let text = query.map_or(Cow::Borrowed(rest), |query| Cow::Owned(format!("{rest}?{query}")));
            PathAndQuery::try_from(text.as_ref()).map_err(|_| CallFailure::BadRequest("the path is none"))?
        }
    };
    parts.uri = Uri::from(path);
    if let Ok(prefix) = prefix {
        parts.headers.insert(FORWARDED_PREFIX, prefix);
    }
    Ok(())
}

/// Adds what proxies add. Earlier ones are believed about protocol and host, as far as the function cares to.
pub(super) fn add_headers(headers: &mut HeaderMap, client: &Client, request_id: &HeaderValue) {
    // Only a peer says this, on a connection of its own.
    headers.remove(HOP);
    append(headers, FORWARDED_FOR, client.address());
    if !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if let Some(host) = headers.get(HOST).cloned() {
        append(headers, FORWARDED, &forwarded(client, &host));
        if !headers.contains_key(&FORWARDED_HOST) {
            headers.insert(FORWARDED_HOST, host);
        }
    }
    headers.insert(REQUEST_ID, request_id.clone());
}

/// Returns this hop as RFC 7239 writes it.
fn forwarded(client: &Client, host: &HeaderValue) -> HeaderValue {
    let mut text = Vec::with_capacity(64);
    text.extend_from_slice(client.forwarded_for().as_bytes());
    text.extend_from_slice(b";host=\"");
    // Hosts with quotation marks or backslashes are no hosts; they must not end the quotation.
    text.extend(host.as_bytes().iter().copied().filter(|byte| !matches!(byte, b'"' | b'\\')));
    text.extend_from_slice(b"\";proto=http");
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// Adds a value behind those that are there, in one line.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let Some(before) = headers.get(&name) else {
        headers.insert(name, value.clone());
        return;
    };
    let mut joined = before.as_bytes().to_vec();
    for more in headers.get_all(&name).iter().skip(1).chain([value]) {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(more.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(name, joined);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn host_of(request: http::request::Builder) -> Result<String, String> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        host(&mut parts).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_host_has_one_spelling() {
        for (written, expected) in [
            ("Shop.Example", "shop.example"),
            ("shop.example:8080", "shop.example"),
            ("shop.example.", "shop.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_of(Request::get("/").header(HOST, written)).as_deref(), Ok(expected));
        }
        let address = Request::get("http://Other.example:1/a").header(HOST, "shop.example");
        assert_eq!(host_of(address).as_deref(), Ok("other.example"));
    }

    #[test]
    fn no_host_and_two_are_refused() {
        assert!(host_of(Request::get("/")).is_err());
        assert!(host_of(Request::get("/").header(HOST, "a").header(HOST, "b")).is_err());
        for bad in ["a@b", "a/b", "a, b", "a b"] {
            assert!(host_of(Request::get("/").header(HOST, bad)).is_err(), "{bad:?} was taken");
        }
        assert_eq!(host_of(Request::get("/").version(Version::HTTP_10)).as_deref(), Ok(""));
    }

    #[test]
    fn every_hop_is_added_behind_the_ones_before() {
        let client = Client::new("192.0.2.1".parse().unwrap());
        let request = Request::get("/function/a/b?c=d")
            .header(HOST, "shop.example:80")
            .header("x-forwarded-for", "198.51.100.7")
            .header("x-forwarded-for", "198.51.100.8")
            .header("x-forwarded-proto", "https");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        cut_prefix(&mut parts, "/function/a".len()).unwrap();
        add_headers(&mut parts.headers, &client, &HeaderValue::from_static("7"));
        assert_eq!(parts.uri, "/b?c=d");
        for (name, value) in [
            ("x-forwarded-for", "198.51.100.7, 198.51.100.8, 192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example:80"),
            ("x-forwarded-prefix", "/function/a"),
            ("forwarded", "for=192.0.2.1;host=\"shop.example:80\";proto=http"),
            ("x-hearth-request-id", "7"),
        ] {
            assert_eq!(parts.headers[name], value);
            assert_eq!(parts.headers.get_all(name).iter().count(), 1);
        }
    }
}
