//! Talks to a node's API over its Unix socket, or over TCP with a token.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proto::json::{ErrorBody, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use super::args::Target;
use super::failure::Failure;
use crate::data_dir::{RUN_ROOT_DEFAULT, Running, running, socket_of};

/// A body of a request.
pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// Where a node's API is.
#[derive(Clone, Debug)]
pub(super) enum Client {
    Local(PathBuf),
    Remote { address: String, token: Option<String> },
}

impl Client {
    /// Finds the node that a command is for.
    pub(super) fn find(target: &Target) -> Result<Self, Failure> {
        if let Some(address) = &target.addr {
            let address = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
            return Ok(Self::Remote { address, token: target.token.clone() });
        }
        if let Some(folder) = &target.data_dir {
            let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            return Ok(Self::Local(socket_of(&folder)));
        }
        choose(running(Path::new(RUN_ROOT_DEFAULT))).map(Self::Local)
    }

    /// Uses the socket of a node in this process.
    pub(super) fn local(socket: &Path) -> Self {
        Self::Local(socket.to_path_buf())
    }

    /// Sends a request and returns the answer, whatever its status is.
    pub(super) async fn send(
        &self,
        request: http::request::Builder,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = request.header("host", "hearth");
        if let Self::Remote { token: Some(token), .. } = self {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).map_err(|error| Failure::of(&error))?;
        match self {
            Self::Local(socket) => {
                let stream =
                    UnixStream::connect(socket).await.map_err(|error| unreachable(&socket.display(), &error))?;
                exchange(TokioIo::new(stream), request).await
            }
            Self::Remote { address, .. } => {
                let stream = TcpStream::connect(address).await.map_err(|error| unreachable(address, &error))?;
                exchange(TokioIo::new(stream), request).await
            }
        }
    }

    /// Sends a request and returns a successful answer, or the error that the node tells.
    pub(super) async fn ask(&self, request: http::request::Builder, body: Body) -> Result<Response<Incoming>, Failure> {
        let response = self.send(request, body).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(response).await?;
        Err(refusal(status, &bytes))
    }

    /// Gets a document.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.ask(Request::get(path), empty()).await?;
        parse(&collect(response).await?)
    }

    /// Sends a document and returns the answering one.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, Failure> {
        let response = self.ask(Request::builder().method(method).uri(path), document_body(document)?).await?;
        parse(&collect(response).await?)
    }

    /// Sends a request and hands over each line of the answer as it comes; `take` says whether to go on.
    pub(super) async fn lines<T: DeserializeOwned>(
        &self,
        request: http::request::Builder,
        body: Body,
        mut take: impl FnMut(T) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut incoming = self.ask(request, body).await?.into_body();
        let mut buffer: Vec<u8> = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| Failure::of(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if !line.trim_ascii().is_empty() && !take(parse(&line)?)? {
                    return Ok(());
                }
            }
        }
        if !buffer.trim_ascii().is_empty() {
            take(parse(&buffer)?)?;
        }
        Ok(())
    }
}

/// Returns the socket of the one node that runs here.
fn choose(found: Vec<Running>) -> Result<PathBuf, Failure> {
    match found.as_slice() {
        [] => Err(Failure::coded(ErrorCode::Unavailable, "no node runs on this machine")
            .hint("start one with `hearth agent`, or name one elsewhere with HEARTH_ADDR")),
        [agent] => Ok(agent.socket.clone()),
        several => {
            let line = |agent: &Running| format!("\n  {} (process {})", agent.data_dir.display(), agent.pid);
            let list: String = several.iter().map(line).collect();
            Err(Failure::exit(2, format!("several nodes run here:{list}"))
                .hint("choose one with --data-dir or HEARTH_DATA_DIR"))
        }
    }
}

async fn exchange<I>(io: I, request: Request<Body>) -> Result<Response<Incoming>, Failure>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let failed =
        |error: hyper::Error| Failure::coded(ErrorCode::Unavailable, format!("the node did not answer: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
    // Ends with the answer; its errors reach whoever reads that.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(failed)
}

fn unreachable(place: &dyn std::fmt::Display, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return Failure::coded(ErrorCode::Denied, format!("{place} is not for this user"))
            .hint("run it with sudo, join the group hearth, or set HEARTH_ADDR and HEARTH_TOKEN");
    }
    Failure::coded(ErrorCode::Unavailable, format!("no node answers at {place}: {error}"))
        .hint("is it running? `hearth agent` starts one")
}

/// Returns what a node tells when it refuses.
pub(super) fn refusal(status: StatusCode, bytes: &[u8]) -> Failure {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => body.into(),
        Err(_) => Failure::new(format!("the node answered {status}: {}", String::from_utf8_lossy(bytes))),
    }
}

/// Reads an answer whole.
pub(super) async fn collect(response: Response<Incoming>) -> Result<Bytes, Failure> {
    Ok(response.into_body().collect().await.map_err(|error| Failure::of(&error))?.to_bytes())
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::new(format!("the node's answer makes no sense: {error}")))
}

/// A body of nothing.
pub(super) fn empty() -> Body {
    whole(Bytes::new())
}

/// A body of bytes at hand.
pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A body of one JSON document.
pub(super) fn document_body(document: &impl Serialize) -> Result<Body, Failure> {
    Ok(whole(serde_json::to_vec(document).map_err(|error| Failure::of(&error))?.into()))
}

/// A body that comes in pieces.
pub(super) fn streamed(pieces: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>) -> Body {
    let stream = futures_util::stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((piece.map(Frame::data), pieces))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_node_is_taken_and_several_are_listed() {
        let agent = |name: &str| Running { pid: 7, data_dir: name.into(), socket: socket_of(Path::new(name)) };
        assert_eq!(choose(vec![agent("/a")]).unwrap(), Path::new("/a/hearth.sock"));
        let told = choose(vec![agent("/a"), agent("/b")]).unwrap_err();
        let hint = "hint: choose one with --data-dir or HEARTH_DATA_DIR";
        assert_eq!(
            told.to_string(),
            format!("error: several nodes run here:\n  /a (process 7)\n  /b (process 7)\n{hint}")
        );
        assert_eq!(told.exit_code(), 2);
        let told = choose(vec![]).unwrap_err();
        assert!(told.to_string().contains("hint: start one with `hearth agent`"));
        assert_eq!(told.exit_code(), 7);
    }
}
