//! The head of a response whose body is streamed.
//!
//! Lambda's way: the stream begins with a JSON description of status, headers and cookies, eight zero bytes end it,
//! and the body follows. The stream's content type says whether it begins that way.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use super::response::{AnswerError, Described};
use crate::contract::stream::{AnswerStream, StreamFailure};

/// The content type of streams that begin with a head.
const PRELUDE_TYPE: &str = "application/vnd.awslambda.http-integration-response";

/// What stands between head and body.
const PRELUDE_END: [u8; 8] = [0; 8];

/// How long a head may be, in bytes.
pub const PRELUDE_MAX_BYTES: usize = 64 * 1024;

/// Why a streamed answer has no head.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The stream failed before its head was complete.
    #[error("the answer ended within its head")]
    Failed(#[from] StreamFailure),
    /// The stream ended before its head was complete.
    #[error("the answer has no end of its head")]
    Incomplete,
    /// The head is longer than [`PRELUDE_MAX_BYTES`].
    #[error("the answer's head is longer than {PRELUDE_MAX_BYTES} bytes")]
    TooLong,
    /// The head describes no response.
    #[error("the answer's head describes no response")]
    Malformed(#[from] AnswerError),
}

/// Takes the head from a streamed answer; what remains in the stream is the body.
///
/// A stream without a head is the body of a response with status 200 and the stream's own type.
pub async fn stream_head(stream: &mut AnswerStream) -> Result<Response<()>, HeadError> {
    let content_type = stream.content_type().unwrap_or("application/octet-stream");
    if content_type != PRELUDE_TYPE {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::OK;
        let bad = |_| AnswerError::BadHeader { name: CONTENT_TYPE.as_str().to_owned() };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::try_from(content_type).map_err(bad)?);
        return Ok(response);
    }
    let (head, body) = split(stream).await?;
    stream.put_back(body);
    let described: Described = serde_json::from_slice(&head).map_err(AnswerError::from)?;
    Ok(described.head()?)
}

async fn split(stream: &mut AnswerStream) -> Result<(Bytes, Bytes), HeadError> {
    let mut taken = BytesMut::new();
    loop {
        let chunk = stream.next().await.ok_or(HeadError::Incomplete)??;
        // The end may lie across two chunks.
        let seen = taken.len().saturating_sub(PRELUDE_END.len() - 1);
        taken.extend_from_slice(&chunk);
        let place = taken[seen..].windows(PRELUDE_END.len()).position(|window| window == PRELUDE_END);
        if let Some(place) = place.map(|place| seen + place).filter(|place| *place <= PRELUDE_MAX_BYTES) {
            let mut rest = taken.split_off(place);
            let body = rest.split_off(PRELUDE_END.len());
            return Ok((taken.freeze(), body.freeze()));
        }
        if taken.len() > PRELUDE_MAX_BYTES {
            return Err(HeadError::TooLong);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::contract::stream::{Item, Origin};

    struct Nobody;

    impl Origin for Nobody {
        fn taken(&mut self, _bytes: usize) {}
    }

    fn stream(content_type: Option<&str>, portions: &[&[u8]]) -> AnswerStream {
        let (items, received) = mpsc::channel(portions.len() + 1);
        for portion in portions {
            items.try_send(Item::Bytes(Bytes::copy_from_slice(portion))).unwrap();
        }
        items.try_send(Item::End).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        AnswerStream::new(content_type.map(str::to_owned), received, Box::new(Nobody), deadline)
    }

    async fn rest(mut stream: AnswerStream) -> Vec<u8> {
        let mut rest = Vec::new();
        while let Some(bytes) = stream.next().await {
            rest.extend_from_slice(&bytes.unwrap());
        }
        rest
    }

    #[tokio::test]
    async fn a_stream_without_a_head_is_all_body() {
        let mut plain = stream(Some("text/plain"), &[b"a\0\0\0\0\0\0\0\0b"]);
        let head = stream_head(&mut plain).await.unwrap();
        assert_eq!((head.status(), head.headers()["content-type"].to_str().unwrap()), (StatusCode::OK, "text/plain"));
        assert_eq!(rest(plain).await, b"a\0\0\0\0\0\0\0\0b");
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_refused() {
        let error = stream_head(&mut stream(Some(PRELUDE_TYPE), &[b"{}"])).await.unwrap_err();
        assert_eq!(error.to_string(), "the answer has no end of its head");
        let long = vec![b' '; PRELUDE_MAX_BYTES + 1];
        let error = stream_head(&mut stream(Some(PRELUDE_TYPE), &[&long, b"{}"])).await.unwrap_err();
        assert_eq!(error.to_string(), "the answer's head is longer than 65536 bytes");
    }

    proptest! {
        #[test]
        fn head_and_body_are_found_however_they_are_cut(
            status in 200u16..600,
            body in prop::collection::vec(any::<u8>(), 0..60),
            portion in 1usize..30,
        ) {
            let head = format!(r#"{{"statusCode":{status},"headers":{{"a":"b"}},"cookies":["c=d"]}}"#);
            let bytes = [head.as_bytes(), &PRELUDE_END, &body].concat();
            let portions: Vec<&[u8]> = bytes.chunks(portion).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let mut stream = stream(Some(PRELUDE_TYPE), &portions);
                let head = stream_head(&mut stream).await.unwrap();
                prop_assert_eq!(head.status().as_u16(), status);
                prop_assert_eq!(head.headers()["a"].to_str().unwrap(), "b");
                prop_assert_eq!(head.headers()["set-cookie"].to_str().unwrap(), "c=d");
                prop_assert_eq!(rest(stream).await, body);
                Ok(())
            })?;
        }
    }
}
