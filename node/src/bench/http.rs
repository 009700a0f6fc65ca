//! The least of an HTTP/1.1 client: one request at a time over one connection, bodies with a length.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::PATIENCE;

/// The longest answer that is understood, head and body.
pub(super) const ANSWER_MAX: usize = 64 << 10;

/// A stream that a request can be sent over.
pub(super) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// One connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Returns the value of a header; the name is given in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(Self::tcp_stream(address)?))
    }

    /// Makes the stream for a connection in the network namespace of the calling thread.
    pub(super) fn tcp_stream(address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    pub(super) fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }

    pub(super) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::with_capacity(ANSWER_MAX) }
    }

    /// Sends a request and reads the whole answer.
    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request)?;
        let answer_length = self.read()?;
        let bytes = &self.buffer[..answer_length];
        let head_length = head_length(bytes).ok_or(io::ErrorKind::InvalidData)?;
        let head = String::from_utf8_lossy(&bytes[..head_length]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Answer { status, head, body: bytes[head_length..].to_vec() })
    }

    /// Sends a request and reads the whole answer without looking at more than its length.
    pub(super) fn exchange(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)?;
        self.read().map(drop)
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            self.buffer.resize(ANSWER_MAX, 0);
            match self.stream.read(&mut self.buffer[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
            if let Some(length) = answer_length(&self.buffer[..filled])? {
                return Ok(length);
            }
        }
    }
}

/// Returns a request for a path, and with `extra` header lines.
pub(super) fn get(path: &str, extra: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n").into_bytes()
}

/// Returns the length of the head with its empty line, once it is all there.
fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4)
}

/// Returns the length of the whole answer once it is all there.
pub(super) fn answer_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    const NAME: &[u8] = b"content-length:";
    let Some(head_length) = head_length(bytes) else {
        return if bytes.len() < ANSWER_MAX { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
    };
    let length = bytes[..head_length]
        .split(|byte| *byte == b'\n')
        .find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
        .and_then(|line| std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse::<usize>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without a length"))?;
    let whole = head_length.saturating_add(length);
    if whole > ANSWER_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer over the limit"));
    }
    Ok((bytes.len() >= whole).then_some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_once_its_body_is_there() {
        let answer = b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 3\r\n\r\nok\n";
        for cut in 0..answer.len() {
            assert_eq!(answer_length(&answer[..cut]).expect("it is an answer so far"), None, "{cut}");
        }
        assert_eq!(answer_length(answer).expect("it is an answer"), Some(answer.len()));
        assert!(answer_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(answer_length(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n").is_err());
    }
}
