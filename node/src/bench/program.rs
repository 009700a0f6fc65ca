//! Two programs of our own for sandboxes, written as machine code: static, a few hundred bytes, no toolchain needed.
//!
//! One writes a byte and ends: what it takes until that byte is there is what a sandbox costs. The other serves HTTP/1.1
//! from one thread by epoll and answers every request alike: what a call takes on top of it is what a gateway costs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where a program is loaded.
const TEXT: u32 = 0x40_0000;

/// Where its memory of zeros begins.
const ZEROS: u32 = 0x60_0000;

/// How much of that there is.
const ZEROS_BYTES: u32 = 0x1_0000;

/// Bytes of the ELF header and of two program headers.
const HEADERS: u32 = 64 + 2 * 56;

/// What the server answers to every request.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n";

/// Where the server reads requests to; four bytes before it are its own too.
const REQUEST: u32 = ZEROS + 0x1000;

/// The longest piece of a request it reads at once.
const REQUEST_BYTES: u32 = 0x8000;

/// Where it tells epoll what to wait for.
const INTEREST: u32 = ZEROS;

/// Where epoll tells it what happened.
const EVENTS: u32 = ZEROS + 0x100;

/// How many events it takes at once; each has 12 bytes.
const EVENTS_MAX: u32 = 64;

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Address<'a> {
    /// On a TCP port of every address.
    Port(u16),
    /// On a Unix socket.
    Socket(&'a Path),
}

/// Writes the program whose only act is to write one byte to its standard output.
pub(super) fn first_byte() -> io::Result<Vec<u8>> {
    let mut code = Code::default();
    let byte = code.data(b"1");
    code.set(Register::Di, 1);
    code.set_address(Register::Si, byte);
    code.set(Register::Dx, 1);
    code.call(libc::SYS_write)?;
    code.set(Register::Di, 0);
    code.call(libc::SYS_exit_group)?;
    code.link()
}

/// Writes the server.
pub(super) fn server(address: Address<'_>) -> io::Result<Vec<u8>> {
    let mut code = Code::default();
    let one = code.data(&1u32.to_le_bytes());
    let answer = code.data(ANSWER);
    let (domain, bytes) = address.bytes()?;
    let own_address = code.data(&bytes);
    let flag = |code: &mut Code, socket: &[u8], level, option| -> io::Result<()> {
        code.put(socket);
        code.set(Register::Si, level);
        code.set(Register::Dx, option);
        code.set_address(Register::R10, one);
        code.set(Register::R8, 4);
        code.call(libc::SYS_setsockopt)
    };
    let is_tcp = matches!(address, Address::Port(_));

    // ebx: the listening socket.
    code.set(Register::Di, domain);
    code.set(Register::Si, number(libc::SOCK_STREAM | libc::SOCK_CLOEXEC)?);
    code.set(Register::Dx, 0);
    code.call(libc::SYS_socket)?;
    code.put(&[0x89, 0xc3]); // mov ebx, eax
    if is_tcp {
        flag(&mut code, &[0x89, 0xdf], number(libc::SOL_SOCKET)?, number(libc::SO_REUSEADDR)?)?; // mov edi, ebx
    }
    code.put(&[0x89, 0xdf]); // mov edi, ebx
    code.set_address(Register::Si, own_address);
    code.set(Register::Dx, length(&bytes)?);
    code.call(libc::SYS_bind)?;
    code.put(&[0x85, 0xc0]); // test eax, eax
    code.jump(Jump::IfNegative, "fail");
    code.put(&[0x89, 0xdf]); // mov edi, ebx
    code.set(Register::Si, 1024);
    code.call(libc::SYS_listen)?;
    code.put(&[0x85, 0xc0]); // test eax, eax
    code.jump(Jump::IfNegative, "fail");
    // ebp: the epoll.
    code.set(Register::Di, 0);
    code.call(libc::SYS_epoll_create1)?;
    code.put(&[0x89, 0xc5]); // mov ebp, eax
    code.put(&[0x41, 0x89, 0xdc]); // mov r12d, ebx
    // Watches the socket in r12d, from here on.
    code.label("watch");
    code.put(&[0xc7, 0x04, 0x25]); // mov dword [INTEREST], EPOLLIN
    code.put(&INTEREST.to_le_bytes());
    code.put(&number(libc::EPOLLIN)?.to_le_bytes());
    code.put(&[0x44, 0x89, 0x24, 0x25]); // mov [INTEREST + 4], r12d
    code.put(&(INTEREST + 4).to_le_bytes());
    code.put(&[0x89, 0xef]); // mov edi, ebp
    code.set(Register::Si, number(libc::EPOLL_CTL_ADD)?);
    code.put(&[0x44, 0x89, 0xe2]); // mov edx, r12d
    code.set(Register::R10, INTEREST);
    code.call(libc::SYS_epoll_ctl)?;
    // A connection that has just come may have its request with it; the rest of this batch is told again.
    code.label("wait");
    code.put(&[0x89, 0xef]); // mov edi, ebp
    code.set(Register::Si, EVENTS);
    code.set(Register::Dx, EVENTS_MAX);
    code.set(Register::R10, u32::MAX); // no timeout: -1 in 32 bits
    code.call(libc::SYS_epoll_wait)?;
    code.put(&[0x49, 0x89, 0xc6]); // mov r14, rax: events left
    code.set(Register::R13, EVENTS); // the next of them
    code.label("next");
    code.put(&[0x49, 0xff, 0xce]); // dec r14
    code.jump(Jump::IfNegative, "wait");
    code.put(&[0x45, 0x8b, 0x65, 0x04]); // mov r12d, [r13 + 4]
    code.put(&[0x49, 0x83, 0xc5, 0x0c]); // add r13, 12
    code.put(&[0x41, 0x39, 0xdc]); // cmp r12d, ebx
    code.jump(Jump::IfEqual, "accept");
    code.put(&[0x44, 0x89, 0xe7]); // mov edi, r12d
    code.set(Register::Si, REQUEST);
    code.set(Register::Dx, REQUEST_BYTES);
    code.call(libc::SYS_read)?;
    code.put(&[0x48, 0x85, 0xc0]); // test rax, rax
    code.jump(Jump::IfNotPositive, "close");
    // A request without a body ends with an empty line; what does not is only part of one.
    code.put(&[0x81, 0xb8]); // cmp dword [rax + REQUEST - 4], "\r\n\r\n"
    code.put(&(REQUEST - 4).to_le_bytes());
    code.put(b"\r\n\r\n");
    code.jump(Jump::IfOther, "next");
    code.put(&[0x44, 0x89, 0xe7]); // mov edi, r12d
    code.set_address(Register::Si, answer);
    code.set(Register::Dx, length(ANSWER)?);
    code.call(libc::SYS_write)?;
    code.jump(Jump::Always, "next");
    code.label("close");
    code.put(&[0x44, 0x89, 0xe7]); // mov edi, r12d
    code.call(libc::SYS_close)?;
    code.jump(Jump::Always, "next");
    code.label("accept");
    code.put(&[0x89, 0xdf]); // mov edi, ebx
    code.set(Register::Si, 0);
    code.set(Register::Dx, 0);
    code.set(Register::R10, number(libc::SOCK_CLOEXEC)?);
    code.call(libc::SYS_accept4)?;
    code.put(&[0x85, 0xc0]); // test eax, eax
    code.jump(Jump::IfNegative, "next");
    code.put(&[0x41, 0x89, 0xc4]); // mov r12d, eax
    if is_tcp {
        flag(&mut code, &[0x44, 0x89, 0xe7], number(libc::IPPROTO_TCP)?, number(libc::TCP_NODELAY)?)?; // mov edi, r12d
    }
    code.jump(Jump::Always, "watch");
    code.label("fail");
    code.set(Register::Di, 1);
    code.call(libc::SYS_exit_group)?;
    code.link()
}

/// The port on which functions of benchmarks serve HTTP in their sandbox.
pub(super) const FUNCTION_PORT: u16 = 8080;

/// Writes an app whose function `static` is a server that answers on [`FUNCTION_PORT`].
pub(super) fn write_app(folder: &Path, manifest: &str) -> io::Result<()> {
    fs::write(folder.join("hearth.toml"), manifest)?;
    fs::create_dir(folder.join("static"))?;
    install(&server(Address::Port(FUNCTION_PORT))?, &folder.join("static/server"))
}

/// Puts a program where others may execute it.
pub(super) fn install(program: &[u8], path: &Path) -> io::Result<()> {
    fs::write(path, program)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

impl Address<'_> {
    /// Returns the family and the bytes of the kernel's structure for an address.
    fn bytes(self) -> io::Result<(u32, Vec<u8>)> {
        let (family, rest) = match self {
            Self::Port(port) => {
                // A port, an address of four zeros, and padding.
                (libc::AF_INET, [&port.to_be_bytes()[..], &[0; 12]].concat())
            }
            Self::Socket(path) => (libc::AF_UNIX, [path.as_os_str().as_bytes(), &[0]].concat()),
        };
        let word = u16::try_from(family).map_err(io::Error::other)?;
        Ok((number(family)?, [&word.to_le_bytes()[..], &rest].concat()))
    }
}

fn number(value: libc::c_int) -> io::Result<u32> {
    u32::try_from(value).map_err(io::Error::other)
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(io::Error::other)
}

/// Registers, by their number in the encoding of instructions.
#[derive(Clone, Copy)]
enum Register {
    Ax = 0,
    Dx = 2,
    Si = 6,
    Di = 7,
    R8 = 8,
    R10 = 10,
    R13 = 13,
}

/// Jumps, by their operation.
#[derive(Clone, Copy)]
enum Jump {
    Always,
    IfEqual,
    IfOther,
    IfNegative,
    IfNotPositive,
}

/// Machine code in the making: 64-bit x86, position known.
#[derive(Default)]
struct Code {
    bytes: Vec<u8>,
    data: Vec<u8>,
    labels: BTreeMap<&'static str, usize>,
    /// Where the distance to a label is missing.
    jumps: Vec<(usize, &'static str)>,
    /// Where the address of a piece of data is missing, and its place in the data.
    addresses: Vec<(usize, usize)>,
}

impl Code {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds constant data and returns its place.
    fn data(&mut self, bytes: &[u8]) -> usize {
        let place = self.data.len();
        self.data.extend_from_slice(bytes);
        place
    }

    /// mov register, value: 32 bits, the upper half becomes zero.
    fn set(&mut self, register: Register, value: u32) {
        let id = register as u8;
        if id >= 8 {
            self.put(&[0x41]);
        }
        self.put(&[0xb8 | (id & 7)]);
        self.put(&value.to_le_bytes());
    }

    fn set_address(&mut self, register: Register, place: usize) {
        self.set(register, 0);
        self.addresses.push((self.bytes.len() - 4, place));
    }

    fn call(&mut self, call: libc::c_long) -> io::Result<()> {
        self.set(Register::Ax, u32::try_from(call).map_err(io::Error::other)?);
        self.put(&[0x0f, 0x05]); // syscall
        Ok(())
    }

    fn label(&mut self, name: &'static str) {
        self.labels.insert(name, self.bytes.len());
    }

    fn jump(&mut self, jump: Jump, to: &'static str) {
        match jump {
            Jump::Always => self.put(&[0xe9]),
            Jump::IfEqual => self.put(&[0x0f, 0x84]),
            Jump::IfOther => self.put(&[0x0f, 0x85]),
            Jump::IfNegative => self.put(&[0x0f, 0x88]),
            Jump::IfNotPositive => self.put(&[0x0f, 0x8e]),
        }
        self.jumps.push((self.bytes.len(), to));
        self.put(&[0; 4]);
    }

    /// Fills in what was missing and puts an ELF file around it: one segment of code and constants, one of zeros.
    fn link(mut self) -> io::Result<Vec<u8>> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the programs of the benchmarks are for x86_64"));
        }
        for (at, to) in std::mem::take(&mut self.jumps) {
            let target = self.labels.get(to).copied().ok_or_else(|| io::Error::other(format!("no label {to}")))?;
            let distance =
                i64::try_from(target).map_err(io::Error::other)? - i64::try_from(at + 4).map_err(io::Error::other)?;
            let distance = i32::try_from(distance).map_err(io::Error::other)?;
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        let data_at = TEXT + HEADERS + length(&self.bytes)?;
        for (at, place) in std::mem::take(&mut self.addresses) {
            let address = data_at + u32::try_from(place).map_err(io::Error::other)?;
            self.bytes[at..at + 4].copy_from_slice(&address.to_le_bytes());
        }
        let size = u64::from(HEADERS + length(&self.bytes)? + length(&self.data)?);
        let mut file = Vec::new();
        // 64 bits, little endian, version 1, for Linux without anything special.
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend_from_slice(&2u16.to_le_bytes()); // an executable
        file.extend_from_slice(&62u16.to_le_bytes()); // for x86-64
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&u64::from(TEXT + HEADERS).to_le_bytes()); // where it begins to run
        file.extend_from_slice(&64u64.to_le_bytes()); // where the program headers are
        file.extend_from_slice(&0u64.to_le_bytes()); // no sections
        file.extend_from_slice(&0u32.to_le_bytes());
        for half in [64u16, 56, 2, 0, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes()); // sizes and counts of headers
        }
        let segments = [(5u32, 0u64, TEXT, size, size), (6, 0, ZEROS, 0, u64::from(ZEROS_BYTES))];
        for (flags, offset, address, in_file, in_memory) in segments {
            file.extend_from_slice(&1u32.to_le_bytes()); // to be loaded
            file.extend_from_slice(&flags.to_le_bytes());
            for word in [offset, u64::from(address), u64::from(address), in_file, in_memory, 0x1000] {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        file.extend_from_slice(&self.bytes);
        file.extend_from_slice(&self.data);
        Ok(file)
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_first_program_writes_its_byte_and_ends() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("first");
        install(&first_byte().expect("it can be written"), &path).expect("it can be put there");
        assert!(fs::metadata(&path).expect("it is there").len() < 512);
        let output = run(&path, |command| command.output());
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"1"[..]));
    }

    #[test]
    fn the_server_answers_on_many_connections_whole_requests_alone() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (path, socket) = (folder.path().join("server"), folder.path().join("socket"));
        install(&server(Address::Socket(&socket)).expect("it can be written"), &path).expect("it can be put there");
        let _server = Ended(run(&path, |command| command.spawn()));
        let start = Instant::now();
        let mut connections: Vec<UnixStream> = (0..3)
            .map(|_| {
                loop {
                    match UnixStream::connect(&socket) {
                        Ok(stream) => break stream,
                        Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
                    }
                }
            })
            .collect();
        for turn in 0..20 {
            for stream in &mut connections {
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
                if turn % 2 == 0 {
                    stream.write_all(b"GET / HTTP/1.1\r\n").expect("it reads");
                    stream.write_all(b"Host: x\r\n\r\n").expect("it reads");
                } else {
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
                }
                let mut answer = vec![0; ANSWER.len()];
                stream.read_exact(&mut answer).expect("it answers");
                assert_eq!(answer, ANSWER);
            }
        }
    }

    /// A process that ends with its test.
    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Executes a file that was just written; another test that forks may hold it open for a moment.
    fn run<T>(path: &Path, how: impl Fn(&mut Command) -> io::Result<T>) -> T {
        let start = Instant::now();
        loop {
            match how(&mut Command::new(path)) {
                Ok(done) => return done,
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    assert!(start.elapsed() < Duration::from_secs(10), "{error}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
