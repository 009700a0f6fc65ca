//! The load generator: one thread, one epoll, many connections, each with one request under way at any time.
//!
//! It does as little as can be per request, a write and a read, so that what it drives is the bottleneck. Both sides of a
//! comparison are driven by it alike.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::http::{ANSWER_MAX, answer_length};
use super::sample::Samples;
use super::{BenchError, PATIENCE, io_at};

/// What a load came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Answers within the time, per second.
    pub(super) per_second: f64,
    /// How long each took, in milliseconds.
    pub(super) latencies: Samples,
}

/// Connections to one server.
pub(super) struct Load {
    epoll: Epoll,
    clients: Vec<Client>,
    request: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    since: Instant,
    buffer: Vec<u8>,
    filled: usize,
}

impl Load {
    /// Connects, and sends nothing yet.
    pub(super) fn connect(address: SocketAddr, connections: usize, request: &[u8]) -> Result<Self, BenchError> {
        Self::open(address, connections, request).map_err(io_at("the server under load cannot be connected to"))
    }

    fn open(address: SocketAddr, connections: usize, request: &[u8]) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut clients = Vec::with_capacity(connections);
        for number in 0..connections {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let number = u64::try_from(number).map_err(io::Error::other)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
            clients.push(Client { stream, since: Instant::now(), buffer: vec![0; ANSWER_MAX], filled: 0 });
        }
        Ok(Self { epoll, clients, request: request.to_vec() })
    }

    /// Keeps every connection busy for some time.
    pub(super) fn run(&mut self, time: Duration) -> Result<Outcome, BenchError> {
        let start = Instant::now();
        let end = start + time;
        let mut latencies = Samples::default();
        let took =
            self.drive(|_| Instant::now() < end, &mut latencies).map_err(io_at("the server under load failed"))?;
        let count = u32::try_from(latencies.count()).unwrap_or(u32::MAX);
        Ok(Outcome { per_second: f64::from(count) / took.as_secs_f64(), latencies })
    }

    /// Sends one request over each connection, all at once, and waits for every answer.
    pub(super) fn once(&mut self) -> Result<Outcome, BenchError> {
        let mut latencies = Samples::default();
        let took = self.drive(|_| false, &mut latencies).map_err(io_at("a call of the burst failed"))?;
        let count = u32::try_from(latencies.count()).unwrap_or(u32::MAX);
        Ok(Outcome { per_second: f64::from(count) / took.as_secs_f64(), latencies })
    }

    /// Sends a request over every connection and another one after each answer for as long as `again` says so; returns
    /// how long it took until the last answer.
    fn drive(&mut self, again: impl Fn(usize) -> bool, latencies: &mut Samples) -> io::Result<Duration> {
        let start = Instant::now();
        for client in &mut self.clients {
            client.ask(&self.request)?;
        }
        let mut waiting = self.clients.len();
        let mut events = vec![EpollEvent::empty(); self.clients.len().max(1)];
        while waiting > 0 {
            let timeout = EpollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
            let count = self.epoll.wait(&mut events, timeout)?;
            if count == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for event in &events[..count] {
                let number = usize::try_from(event.data()).map_err(io::Error::other)?;
                let client = &mut self.clients[number];
                if !client.read()? {
                    continue;
                }
                latencies.time(client.since.elapsed());
                if again(number) {
                    client.ask(&self.request)?;
                } else {
                    waiting -= 1;
                }
            }
        }
        Ok(start.elapsed())
    }
}

impl Client {
    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.filled = 0;
        self.since = Instant::now();
        // A request is far smaller than the buffer of a socket with nothing in it.
        self.stream.write_all(request)
    }

    /// Reads what is there; returns whether that completes a successful answer.
    fn read(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let bytes = &self.buffer[..self.filled];
        if answer_length(bytes)?.is_none() {
            return Ok(false);
        }
        if bytes.get(9..12) != Some(b"200") {
            let text = String::from_utf8_lossy(bytes).into_owned();
            return Err(io::Error::other(format!("it answered {}", text.replace("\r\n", " | "))));
        }
        Ok(true)
    }
}
