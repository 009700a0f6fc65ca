//! What a handler returned as an HTTP response.

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// What an answer is where it does not say so itself.
const DEFAULT_TYPE: HeaderValue = HeaderValue::from_static("application/json");

/// Reads base64 with or without padding: languages differ in what they write.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why an answer is no HTTP response: the function breaks its contract.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It cannot be read as JSON, or one of its fields has the wrong type.
    #[error("the answer cannot be read as a response")]
    Malformed(#[from] serde_json::Error),
    /// Its status is none a response may have.
    #[error("statusCode {status} is not a number from 200 to 599")]
    BadStatus {
        /// What stands there, as JSON.
        status: String,
    },
    /// A header that HTTP cannot carry.
    #[error("header {name:?} has a name or value that HTTP cannot carry")]
    BadHeader {
        /// Its name.
        name: String,
    },
    /// The body should be base64.
    #[error("the body is marked as base64, but is not")]
    BadBase64(#[from] base64::DecodeError),
    /// The body is JSON instead of text.
    #[error("the body is JSON, but has to be a string: encode it first")]
    BodyNotText,
}

/// What a function says of its response; shared with streamed answers, which have no body here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Described {
    #[serde(default)]
    status_code: Value,
    headers: Option<BTreeMap<String, Value>>,
    multi_value_headers: Option<BTreeMap<String, Vec<Value>>>,
    cookies: Option<Vec<String>>,
    #[serde(default)]
    body: Value,
    is_base64_encoded: Option<bool>,
}

/// Looks only for what tells a description from any other JSON.
#[derive(Deserialize)]
struct Probe {
    #[serde(rename = "statusCode")]
    status_code: Option<IgnoredAny>,
}

/// Returns the response that a handler's answer stands for.
///
/// An object with a `statusCode` describes a response. Any other answer is the body of one with status 200, a string
/// without its quotes. Headers that belong to the connection, and the length, are ours to set and are left out.
pub fn answer_to_response(answer: &[u8]) -> Result<Response<Bytes>, AnswerError> {
    let answer = answer.trim_ascii();
    match answer.first() {
        Some(b'{') => {
            let probe: Probe = serde_json::from_slice(answer)?;
            if probe.status_code.is_some() {
                return describe(serde_json::from_slice(answer)?);
            }
        }
        Some(b'"') => {
            let text: String = serde_json::from_slice(answer)?;
            return Ok(plain(text.into()));
        }
        Some(_) => {
            let IgnoredAny = serde_json::from_slice(answer)?;
        }
        None => {}
    }
    Ok(plain(Bytes::copy_from_slice(answer)))
}

fn plain(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, DEFAULT_TYPE);
    response
}

fn describe(described: Described) -> Result<Response<Bytes>, AnswerError> {
    let mut response = described.head()?.map(|()| Bytes::new());
    response.headers_mut().entry(CONTENT_TYPE).or_insert(DEFAULT_TYPE);
    let status = response.status();
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        response.headers_mut().remove(CONTENT_TYPE);
        return Ok(response);
    }
    *response.body_mut() = match described.body {
        Value::Null => Bytes::new(),
        Value::String(text) if described.is_base64_encoded == Some(true) => {
            let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            BASE64.decode(packed)?.into()
        }
        Value::String(text) => text.into(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => return Err(AnswerError::BodyNotText),
    };
    Ok(response)
}

impl Described {
    /// Returns status and headers.
    pub(super) fn head(&self) -> Result<Response<()>, AnswerError> {
        let mut response = Response::new(());
        *response.status_mut() = status(&self.status_code)?;
        let headers = response.headers_mut();
        for (name, value) in self.headers.iter().flatten() {
            append(headers, name, value)?;
        }
        for (name, values) in self.multi_value_headers.iter().flatten() {
            // A name in both maps means the same header said twice, not two headers.
            if let Ok(name) = HeaderName::try_from(name.as_str()) {
                headers.remove(&name);
            }
            for value in values {
                append(headers, name, value)?;
            }
        }
        for cookie in self.cookies.iter().flatten() {
            let bad = |_| AnswerError::BadHeader { name: SET_COOKIE.as_str().to_owned() };
            headers.append(SET_COOKIE, HeaderValue::try_from(cookie.as_str()).map_err(bad)?);
        }
        Ok(response)
    }
}

/// Reads a status; without one, 200. A number may be written as text, as API Gateway allows.
fn status(written: &Value) -> Result<StatusCode, AnswerError> {
    let number = match written {
        Value::Null => Some(200.0),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    (200..=599)
        .find(|status| number == Some(f64::from(*status)))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| AnswerError::BadStatus { status: written.to_string() })
}

fn append(headers: &mut HeaderMap, name: &str, value: &Value) -> Result<(), AnswerError> {
    let bad = || AnswerError::BadHeader { name: name.to_owned() };
    let text = match value {
        Value::Null => return Ok(()),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => return Err(bad()),
    };
    let name = HeaderName::try_from(name).map_err(|_| bad())?;
    if !belongs_to_connection(&name) {
        headers.append(name, HeaderValue::try_from(text).map_err(|_| bad())?);
    }
    Ok(())
}

/// Says whether a header is about the connection or the framing of a message, not about its content.
fn belongs_to_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn show(answer: &str) -> String {
        match answer_to_response(answer.as_bytes()) {
            Ok(response) => {
                let mut text = response.status().as_u16().to_string();
                for (name, value) in response.headers() {
                    text += &format!("\n{name}: {}", String::from_utf8_lossy(value.as_bytes()));
                }
                text + &format!("\n\n{}", String::from_utf8_lossy(response.body()))
            }
            Err(error) => format!("error: {error}"),
        }
    }

    #[track_caller]
    fn check(answer: &str, expected: Expect) {
        expected.assert_eq(&show(answer));
    }

    #[test]
    fn any_json_is_a_body() {
        check(
            r#" {"a": 1} "#,
            expect![[r#"
                200
                content-type: application/json

                {"a": 1}"#]],
        );
        check(
            r#""Hello \"you\"""#,
            expect![[r#"
                200
                content-type: application/json

                Hello "you""#]],
        );
        check(
            "null",
            expect![[r#"
            200
            content-type: application/json

            null"#]],
        );
        check(
            "",
            expect![[r#"
            200
            content-type: application/json

        "#]],
        );
        check("not json", expect!["error: the answer cannot be read as a response"]);
    }

    #[test]
    fn an_object_with_a_status_describes_a_response() {
        check(
            r#"{"statusCode": 201, "headers": {"Content-Type": "text/html", "X-N": 5, "Content-Length": "9", "x-no": null},
                "multiValueHeaders": {"x-many": ["a", "b"]}, "cookies": ["a=1; Secure", "b=2"],
                "body": "PGI+", "isBase64Encoded": true}"#,
            expect![[r#"
                201
                content-type: text/html
                x-n: 5
                x-many: a
                x-many: b
                set-cookie: a=1; Secure
                set-cookie: b=2

                <b>"#]],
        );
        check(
            r#"{"statusCode": "404"}"#,
            expect![[r#"
            404
            content-type: application/json

        "#]],
        );
        check(
            r#"{"statusCode": 204.0, "body": "dropped"}"#,
            expect![[r#"
            204

        "#]],
        );
    }

    #[test]
    fn what_http_cannot_carry_breaks_the_contract() {
        for status in ["99", "101", "600", "200.5", "\"ok\"", "true"] {
            let expected = format!("error: statusCode {status} is not a number from 200 to 599");
            assert_eq!(show(&format!(r#"{{"statusCode": {status}}}"#)), expected);
        }
        check(
            r#"{"statusCode": 200, "headers": {"a b": "x"}}"#,
            expect![[r#"error: header "a b" has a name or value that HTTP cannot carry"#]],
        );
        check(
            r#"{"statusCode": 200, "headers": {"a": "x\r\ny: z"}}"#,
            expect![[r#"error: header "a" has a name or value that HTTP cannot carry"#]],
        );
        check(
            r#"{"statusCode": 200, "body": {"a": 1}}"#,
            expect!["error: the body is JSON, but has to be a string: encode it first"],
        );
        check(
            r#"{"statusCode": 200, "body": "%", "isBase64Encoded": true}"#,
            expect!["error: the body is marked as base64, but is not"],
        );
        check(r#"{"statusCode": 200, "headers": []}"#, expect!["error: the answer cannot be read as a response"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_response_or_refused(answer in prop::collection::vec(any::<u8>(), 0..60)) {
            let _outcome = answer_to_response(&answer);
        }

        #[test]
        fn any_description_is_a_response_or_refused(
            status in prop_oneof![Just("200".to_owned()), "[0-9.e\"-]{1,5}", Just("null".to_owned())],
            headers in prop_oneof![Just("{}".to_owned()), r#"\{"[a-z\\u:]{0,4}":("[ -~]{0,6}"|[0-9]|null|\[\])\}"#],
            body in prop_oneof![Just("null".to_owned()), "\"[ -!#-~]{0,8}\"", "[0-9{}]{1,3}"],
            base64 in any::<bool>(),
        ) {
            let answer = format!(
                r#"{{"statusCode":{status},"headers":{headers},"body":{body},"isBase64Encoded":{base64}}}"#
            );
            let _outcome = answer_to_response(answer.as_bytes());
        }

        #[test]
        fn every_response_a_function_describes_arrives(
            status in (200u16..600).prop_filter("these have no body", |status| !matches!(status, 204 | 304)),
            headers in prop::collection::btree_map("x-[a-z]{1,6}", "[!-~]{1,12}", 0..4),
            body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let answer = json!({
                "statusCode": status,
                "headers": headers,
                "body": BASE64.encode(&body),
                "isBase64Encoded": true,
            });
            let response = answer_to_response(answer.to_string().as_bytes()).unwrap();
            prop_assert_eq!(response.status().as_u16(), status);
            for (name, value) in &headers {
                prop_assert_eq!(response.headers()[name.as_str()].to_str().unwrap(), value);
            }
            prop_assert_eq!(&response.body()[..], &body[..]);
        }
    }
}
