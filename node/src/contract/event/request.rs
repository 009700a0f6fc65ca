//! One HTTP request as the event a handler gets.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HOST, HeaderMap, USER_AGENT};
use http::request::Parts;
use serde::Serialize;

/// What an event says of a request beyond the request itself.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Names this execution.
    pub request_id: &'a str,
    /// The address of the client.
    pub source_ip: &'a str,
    /// When the request came, in milliseconds since 1970.
    pub epoch_ms: u64,
    /// The application the function belongs to.
    pub app: &'a str,
    /// The route that matched, such as `POST /orders/{id}`, or `$default`.
    pub route_key: &'a str,
    /// What the placeholders of the route stand for.
    pub path_parameters: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'a str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<Cow<'a, str>, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    path_parameters: &'a BTreeMap<String, String>,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    account_id: &'static str,
    api_id: &'a str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: &'a str,
    stage: &'static str,
    time: String,
    time_epoch: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: String,
    source_ip: &'a str,
    user_agent: Cow<'a, str>,
}

/// Returns the event for a request.
///
/// A header or query parameter that occurs several times has its values joined by commas. Cookies stand apart. The
/// body is text where its type is one of text and it is UTF-8, else base64; an empty one is left out.
pub fn request_to_event(parts: &Parts, body: &[u8], surroundings: &Surroundings<'_>) -> Bytes {
    let raw_path = parts.uri.path();
    let raw_query_string = parts.uri.query().unwrap_or("");
    let domain_name = domain(parts);
    let text = is_text(&parts.headers).then(|| std::str::from_utf8(body).ok()).flatten();
    let event = Event {
        version: "2.0",
        route_key: surroundings.route_key,
        raw_path,
        raw_query_string,
        cookies: cookies(&parts.headers),
        headers: headers(&parts.headers),
        query_string_parameters: query(raw_query_string),
        path_parameters: surroundings.path_parameters,
        request_context: RequestContext {
            account_id: "anonymous",
            api_id: surroundings.app,
            domain_name,
            domain_prefix: domain_name.split('.').next().unwrap_or(""),
            http: Http {
                method: parts.method.as_str(),
                path: raw_path,
                protocol: format!("{:?}", parts.version),
                source_ip: surroundings.source_ip,
                user_agent: parts
                    .headers
                    .get(USER_AGENT)
                    .map_or(Cow::Borrowed(""), |agent| String::from_utf8_lossy(agent.as_bytes())),
            },
            request_id: surroundings.request_id,
            route_key: surroundings.route_key,
            stage: "$default",
            time: common_log_time(surroundings.epoch_ms / 1000),
            time_epoch: surroundings.epoch_ms,
        },
        body: (!body.is_empty()).then(|| text.map_or_else(|| Cow::Owned(STANDARD.encode(body)), Cow::Borrowed)),
        is_base64_encoded: !body.is_empty() && text.is_none(),
    };
    serde_json::to_vec(&event).expect("maps with text as keys can be written as JSON").into()
}

/// Returns the host a client asked for, without its port.
fn domain(parts: &Parts) -> &str {
    let asked = parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))
        .unwrap_or("");
    match asked.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => asked,
    }
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .map(|cookie| String::from_utf8_lossy(cookie.trim_ascii()).into_owned())
        .filter(|cookie| !cookie.is_empty())
        .collect()
}

fn headers(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| **name != COOKIE) {
        append(joined.entry(name.as_str()), &String::from_utf8_lossy(value.as_bytes()));
    }
    joined
}

fn query(raw: &str) -> BTreeMap<Cow<'_, str>, String> {
    let mut joined = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
        append(joined.entry(name), &value);
    }
    joined
}

/// Adds a value to those already there, behind a comma.
fn append<K: Ord>(entry: std::collections::btree_map::Entry<'_, K, String>, value: &str) {
    entry
        .and_modify(|joined| {
            joined.push(',');
            joined.push_str(value);
        })
        .or_insert_with(|| value.to_owned());
}

/// Says whether a body of this type is text, where it is UTF-8 at all. Without a type it may be.
fn is_text(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return true };
    let Ok(content_type) = content_type.to_str() else { return false };
    let essence = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence.as_str(),
            "application/json"
                | "application/xml"
                | "application/javascript"
                | "application/x-www-form-urlencoded"
                | "application/x-ndjson"
                | "application/yaml"
                | "application/graphql"
        )
}

/// Returns a moment as web servers log it: `12/Mar/2020:19:03:58 +0000`.
fn common_log_time(epoch_seconds: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (day_number, second) = (epoch_seconds / 86_400, epoch_seconds % 86_400);
    // Years counted from March have their leap day last, so month lengths follow one line (Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms"). Eras of 400 years repeat; day 0 of an era is 1 March.
    let days = day_number + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let name = MONTHS[usize::try_from(month).expect("it is below 12")];
    format!("{day:02}/{name}/{year:04}:{:02}:{:02}:{:02} +0000", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn event(request: http::request::Builder, body: &[u8]) -> Value {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let surroundings = Surroundings {
            request_id: "r-1",
            source_ip: "192.0.2.1",
            epoch_ms: 1_583_348_638_390,
            app: "shop",
            route_key: "POST /orders/{id}",
            path_parameters: &BTreeMap::from([("id".to_owned(), "7".to_owned())]),
        };
        serde_json::from_slice(&request_to_event(&parts, body, &surroundings)).unwrap()
    }

    #[test]
    fn a_request_becomes_the_event_that_lambda_handlers_know() {
        let request = Request::post("/orders/7?a=1&b=x%20y&a=2+3")
            .header("Host", "shop.example:8080")
            .header("User-Agent", "curl/8")
            .header("Cookie", "one=1; two=2")
            .header("Cookie", "three=3")
            .header("X-Many", "a")
            .header("X-Many", "b")
            .header("Content-Type", "application/json; charset=utf-8");
        let expected = json!({
            "version": "2.0",
            "routeKey": "POST /orders/{id}",
            "rawPath": "/orders/7",
            "rawQueryString": "a=1&b=x%20y&a=2+3",
            "cookies": ["one=1", "two=2", "three=3"],
            "headers": {
                "host": "shop.example:8080",
                "user-agent": "curl/8",
                "x-many": "a,b",
                "content-type": "application/json; charset=utf-8",
            },
            "queryStringParameters": {"a": "1,2 3", "b": "x y"},
            "pathParameters": {"id": "7"},
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "shop",
                "domainName": "shop.example",
                "domainPrefix": "shop",
                "http": {
                    "method": "POST",
                    "path": "/orders/7",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "192.0.2.1",
                    "userAgent": "curl/8",
                },
                "requestId": "r-1",
                "routeKey": "POST /orders/{id}",
                "stage": "$default",
                "time": "04/Mar/2020:19:03:58 +0000",
                "timeEpoch": 1_583_348_638_390_u64,
            },
            "body": "{\"é\":1}",
            "isBase64Encoded": false,
        });
        assert_eq!(event(request, "{\"é\":1}".as_bytes()), expected);
    }

    #[test]
    fn a_request_without_anything_has_no_empty_maps() {
        let event = event(Request::get("/"), b"");
        for absent in ["cookies", "queryStringParameters", "body"] {
            assert_eq!(event.get(absent), None);
        }
        assert_eq!(event["isBase64Encoded"], false);
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        let cases = [
            (0, "01/Jan/1970:00:00:00 +0000"),
            (951_782_399, "28/Feb/2000:23:59:59 +0000"),
            (951_782_400, "29/Feb/2000:00:00:00 +0000"),
            (1_709_251_200, "01/Mar/2024:00:00:00 +0000"),
            (4_107_542_400, "01/Mar/2100:00:00:00 +0000"),
        ];
        for (seconds, text) in cases {
            assert_eq!(common_log_time(seconds), text);
        }
    }

    proptest! {
        #[test]
        fn every_body_can_be_recovered(
            body in prop_oneof![prop::collection::vec(any::<u8>(), 0..100), "\\PC*".prop_map(String::into_bytes)],
            content_type in prop::option::of(prop::sample::select(vec![
                "text/plain", "application/json", "application/octet-stream", "image/png", "a/b+xml",
            ])),
        ) {
            let request = content_type.iter().fold(Request::post("/"), |request, value| {
                request.header("content-type", *value)
            });
            let event = event(request, &body);
            let text = event.get("body").map_or("", |body| body.as_str().unwrap());
            let recovered = if event["isBase64Encoded"] == true {
                STANDARD.decode(text).unwrap()
            } else {
                text.as_bytes().to_vec()
            };
            prop_assert_eq!(recovered, body);
        }

        #[test]
        fn every_query_becomes_its_decoded_values(
            pairs in prop::collection::vec(("[a-c]", "[a-z &=%+é]{0,6}"), 0..6),
        ) {
            let raw = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (name, value) in pairs {
                expected.entry(name).or_default().push(value);
            }
            let event = event(Request::get(format!("/?{raw}")), b"");
            let found = event.get("queryStringParameters").cloned().unwrap_or_else(|| json!({}));
            let expected: BTreeMap<_, _> =
                expected.into_iter().map(|(name, values)| (name, values.join(","))).collect();
            prop_assert_eq!(found, json!(expected));
        }
    }
}
