//! Headers that concern one connection only, and must not be passed on to the next.

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use hyper::upgrade::OnUpgrade;

/// What belongs to a connection besides the names that `Connection` lists.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("te"),
];

/// Makes a request one that can be sent over HTTP/1.1. Returns the client's end, if it asks to leave HTTP.
pub(super) fn prepare<B>(request: &mut Request<B>) -> Option<OnUpgrade> {
    let client = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = asks_for_upgrade(request.headers()).then(|| request.headers_mut().remove(UPGRADE)).flatten();
    clean(request.headers_mut());
    let client = client.zip(upgrade).map(|(client, protocol)| {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, protocol);
        client
    });
    // HTTP/2 has the host in its address, HTTP/1.1 in a header.
    if !request.headers().contains_key(HOST) {
        let authority = request.uri().authority().map_or("", http::uri::Authority::as_str);
        let host = HeaderValue::from_str(authority).unwrap_or(HeaderValue::from_static(""));
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    *request.version_mut() = Version::HTTP_11;
    client
}

/// Removes what belongs to the connection a message came over.
pub(crate) fn clean(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> =
        tokens(headers).filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    for name in HOP_BY_HOP.iter().chain(&listed) {
        headers.remove(name);
    }
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    tokens(headers).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

/// Returns what `Connection` lists.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_for_the_other_end_is_passed_on() {
        let mut request = Request::get("http://shop.example:8080/a?b=c")
            .version(Version::HTTP_2)
            .header("connection", "close, X-Secret")
            .header("x-secret", "1")
            .header("te", "trailers")
            .header("upgrade", "websocket")
            .header("x-kept", "2")
            .body(())
            .unwrap();
        assert!(prepare(&mut request).is_none());
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.version(), Version::HTTP_11);
        let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-kept"]);
        assert_eq!(request.headers()[HOST], "shop.example:8080");
    }
}
