"""Runs one Python function inside a sandbox and answers the daemon's frames.

The daemon connects to a Unix socket that listens on descriptor 3 and speaks frames: ``u32 LE`` length of what
follows, ``u8`` kind, ``u64 LE`` invocation, payload. A later connection replaces an earlier one, so the daemon may
restart at any time. With ``HEARTH_CONCURRENCY=1`` the handler runs on the main thread, which reads the socket only
between invocations; otherwise handlers run on threads of their own, or on one event loop if they are ``async``.

Starting fast matters more here than anywhere: whatever can wait is imported where it is needed. Importing this file
opens nothing, starts nothing and reads no environment, so that a process may import it, fork, and call ``main``.
Only the standard library is used, from Python 3.8 on.
"""

import io
import json
import os
import select
import sys
import time
from _socket import socket
from struct import Struct
from types import GeneratorType

LISTENER = 3
TASK_ROOT = "/var/task"
READ_BYTES = 65536
FRAME_MAX_BYTES = 64 * 1024 * 1024
REPORT_MAX_BYTES = 256 * 1024
LOG_MAX_BYTES = 64 * 1024
# How long a failed start waits for somebody to tell.
REPORT_WAIT_MS = 10_000
# The daemon holds each streamed answer to the same window.
WINDOW_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024
CHUNK_COST_BYTES = 64
# What a streamed answer is when it begins with a status and headers, and what ends those.
PRELUDE_TYPE = b"application/vnd.awslambda.http-integration-response"
PRELUDE_END = bytes(8)

INVOKE, CANCEL, WINDOW = 1, 2, 3
READY, INIT_ERROR, RESULT, ERROR, LOG, STREAM, CHUNK = 16, 17, 18, 19, 20, 21, 22

HEADER = Struct("<IBQ")
LOG_HEADER = Struct("<BQ")


class Disconnected(Exception):
    """The daemon has gone; another connection will come."""


class Connection:
    """One connection of a daemon: whole frames out, whole frames in."""

    def __init__(self, sock, lock):
        self.sock = sock
        self.lock = lock
        self.buffer = bytearray()

    def send(self, kind, invocation, payload=b""):
        """Sends one frame; a daemon that has gone is no error, nobody is left to tell."""
        data = HEADER.pack(len(payload) + 9, kind, invocation) + payload
        try:
            with self.lock:
                self.sock.sendall(data)
            return True
        except OSError:
            return False

    def read(self):
        """Reads what has arrived. Raises Disconnected at the end."""
        buffer = self.buffer
        try:
            data = self.sock.recv(READ_BYTES)
            if not data:
                raise Disconnected
            buffer += data
            # The rest of a long frame comes at once: the daemon writes frames without a pause.
            while len(buffer) >= 4:
                missing = int.from_bytes(buffer[:4], "little") + 4 - len(buffer)
                if missing <= 0 or missing > FRAME_MAX_BYTES:
                    break
                data = self.sock.recv(max(missing, READ_BYTES))
                if not data:
                    raise Disconnected
                buffer += data
        except OSError:
            raise Disconnected from None

    def next_frame(self):
        """Returns (kind, invocation, payload), or None when no frame is complete."""
        buffer = self.buffer
        if len(buffer) < 13:
            return None
        length, kind, invocation = HEADER.unpack_from(buffer)
        if length < 9 or length > FRAME_MAX_BYTES:
            raise Disconnected
        if len(buffer) < length + 4:
            return None
        payload = bytes(memoryview(buffer)[13 : length + 4])
        del buffer[: length + 4]
        return kind, invocation, payload

    def close(self):
        self.sock.close()


class ClientContext:
    """What the caller says about itself, by the names that Lambda gives it."""

    def __init__(self, values):
        values = values if isinstance(values, dict) else {}
        self.custom = values.get("custom")
        self.env = values.get("env")
        client = values.get("client")
        self.client = type("Client", (), client)() if isinstance(client, dict) else None


class Identity:
    """Who calls, for functions that ask: nobody here has a Cognito identity."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class Context:
    """The second argument of every handler."""

    def __init__(self, header):
        self.aws_request_id = header["request_id"]
        self.function_name = header["function"]
        self.function_version = header["version"]
        self.invoked_function_arn = header["arn"]
        self.memory_limit_in_mb = str(header["memory_mb"])
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME", "")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        self.identity = Identity()
        client_context = header.get("client_context")
        self.client_context = ClientContext(json.loads(client_context)) if client_context else None
        self._deadline_ms = header["deadline_ms"]

    def get_remaining_time_in_millis(self):
        return max(0, int(self._deadline_ms - time.time() * 1000))

    def log(self, message):
        sys.stdout.write(str(message))

    def __repr__(self):
        return "Context(aws_request_id=%r, function_name=%r)" % (self.aws_request_id, self.function_name)


class Invocation:
    """One invocation that has not been answered."""

    def __init__(self, number, header, connection):
        self.number = number
        self.request_id = header["request_id"]
        self.header = header
        self.connection = connection
        self.partial = {1: bytearray(), 2: bytearray()}
        self.cancelled = False
        self.task = None
        self.window = WINDOW_BYTES


class Output(io.RawIOBase):
    """What stands behind sys.stdout and sys.stderr: sends whole lines with the invocation that wrote them."""

    def __init__(self, server, fd):
        super().__init__()
        self.server = server
        self.fd = fd
        self.partial = bytearray()

    def writable(self):
        return True

    def fileno(self):
        return self.fd

    def isatty(self):
        return False

    def write(self, data):
        data = bytes(data)
        invocation = self.server.current()
        partial = self.partial if invocation is None else invocation.partial[self.fd]
        end = data.rfind(b"\n")
        if end >= 0:
            self.server.log(self.fd, invocation, bytes(partial) + data[: end + 1])
            partial.clear()
        partial += data[end + 1 :]
        if len(partial) >= LOG_MAX_BYTES:
            self.server.log(self.fd, invocation, bytes(partial))
            partial.clear()
        return len(data)


class Server:
    """Takes invocations from whichever daemon is connected and runs the handler for each."""

    def __init__(self, concurrency, answer_max):
        from _thread import allocate_lock

        self.listener = socket(fileno=LISTENER)
        self.listener.setblocking(False)
        self.concurrency = concurrency
        self.answer_max = answer_max
        self.connection = None
        self.init_ms = None
        self.handler = None
        self.is_async = False
        self.loop = None
        self.in_flight = {}
        self.encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=plain)
        self.send_lock = allocate_lock()
        self.local = None
        self.window_changed = None
        self.threads = None
        if concurrency > 1:
            import contextvars
            import threading

            self.local = contextvars.ContextVar("hearth_invocation", default=None)
            self.window_changed = threading.Condition()

    # What is written.

    def current(self):
        """Returns the invocation this code runs for, None when that cannot be known."""
        if self.local is not None:
            invocation = self.local.get()
            if invocation is not None:
                return invocation
        running = list(self.in_flight.values())
        return running[0] if len(running) == 1 else None

    def log(self, fd, invocation, text):
        """Sends text to the daemon; without one it goes where the descriptor leads."""
        number = 0 if invocation is None else invocation.number
        for part in parts_of(text):
            connection = self.connection
            header = LOG_HEADER.pack(fd, int(time.time() * 1e6))
            if connection is not None and connection.send(LOG, number, header + part):
                continue
            try:
                os.write(fd, part)
            except OSError:
                return

    def capture_output(self):
        # A forked child has the same socket, but must not write into the middle of its parent's frames.
        os.register_at_fork(after_in_child=self.forget_connection)
        for fd, name in ((1, "stdout"), (2, "stderr")):
            raw = Output(self, fd)
            text = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True, write_through=True)
            setattr(sys, name, text)
            setattr(sys, "__%s__" % name, text)

    def forget_connection(self):
        self.connection = None

    # Connections.

    def accept(self):
        """Takes the newest connection that waits, if any, in place of the one before."""
        while True:
            try:
                fd, _ = self.listener._accept()
            except OSError:
                return
            sock = socket(fileno=fd)
            sock.setblocking(True)
            if self.connection is not None:
                self.connection.close()
            self.connection = Connection(sock, self.send_lock)
            if self.init_ms is not None:
                self.greet()

    def greet(self):
        in_flight = [{"id": i.number, "request_id": i.request_id} for i in list(self.in_flight.values())]
        runtime = "python%d.%d.%d" % sys.version_info[:3]
        ready = {"runtime": runtime, "init_ms": self.init_ms, "in_flight": in_flight}
        self.connection.send(READY, 0, json.dumps(ready).encode())

    def wait(self, timeout_ms=None):
        """Waits until a frame or a connection arrives. Returns a frame or None."""
        connection = self.connection
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        if connection is not None:
            poll.register(connection.sock, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(timeout_ms)]
        if LISTENER in ready:
            self.accept()
        elif connection is not None and ready:
            connection.read()

    def frames(self):
        """Yields frames for ever, from whichever daemon is connected."""
        while True:
            try:
                frame = self.connection.next_frame() if self.connection is not None else None
                if frame is not None:
                    yield frame
                else:
                    self.wait()
            except Disconnected:
                self.disconnect()

    def disconnect(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # Start.

    def start(self, handler_name, started):
        try:
            self.handler = load(handler_name)
        except BaseException as error:  # A module may also call exit() while it is imported.
            self.fail(error)
        self.is_async = is_coroutine_function(self.handler)
        if "logging" in sys.modules:
            attach_logging()
        self.init_ms = int((time.monotonic() - started) * 1000)
        if self.connection is not None:
            self.greet()

    def fail(self, error):
        """Reports that the function cannot be loaded, and ends the process."""
        report = report_of(error, init=True)
        sys.stderr.write(describe(report))
        until = time.monotonic() + REPORT_WAIT_MS / 1000
        while self.connection is None and time.monotonic() < until:
            try:
                self.wait(int((until - time.monotonic()) * 1000) + 1)
            except Disconnected:
                self.disconnect()
        self.accept()
        if self.connection is not None:
            self.connection.send(INIT_ERROR, 0, encode_report(report))
        os._exit(1)

    # Invocations.

    def serve(self):
        for kind, number, payload in self.frames():
            if kind == INVOKE:
                self.begin(number, payload)
            elif kind == WINDOW:
                self.widen(number, payload)
            elif kind == CANCEL:
                self.cancel(number)

    def begin(self, number, payload):
        length = int.from_bytes(payload[:4], "little")
        header = json.loads(payload[4 : 4 + length])
        invocation = Invocation(number, header, self.connection)
        event = payload[4 + length :]
        self.in_flight[number] = invocation
        if self.concurrency == 1:
            trace_id = header.get("trace_id")
            if trace_id:
                os.environ["_X_AMZN_TRACE_ID"] = trace_id
            else:
                os.environ.pop("_X_AMZN_TRACE_ID", None)
            if self.is_async:
                self.own_loop().run_until_complete(self.run_async(invocation, event))
            else:
                self.run(invocation, event)
        elif self.is_async:
            self.shared_loop().call_soon_threadsafe(self.start_task, invocation, event)
        else:
            self.on_thread(invocation, event)

    def on_thread(self, invocation, event):
        if self.threads is None:
            from queue import SimpleQueue

            self.threads = 0
            self.idle = 0
            self.work = SimpleQueue()
        self.work.put((invocation, event))
        if self.threads < min(len(self.in_flight), self.concurrency):
            import threading

            self.threads += 1
            threading.Thread(target=self.work_on, name="hearth-%d" % self.threads, daemon=True).start()

    def work_on(self):
        while True:
            invocation, event = self.work.get()
            token = self.local.set(invocation)
            self.run(invocation, event)
            self.local.reset(token)

    def own_loop(self):
        if self.loop is None:
            self.loop = new_loop()
        return self.loop

    def shared_loop(self):
        if self.loop is None:
            import threading

            self.loop = new_loop()
            threading.Thread(target=self.loop.run_forever, name="hearth-loop", daemon=True).start()
        return self.loop

    def start_task(self, invocation, event):
        self.local.set(invocation)
        invocation.task = self.loop.create_task(self.run_async(invocation, event))
        self.local.set(None)

    def run(self, invocation, event):
        """Calls the handler and answers; every failure of the handler ends up in the answer."""
        try:
            answer = self.handler(decode(event), Context(invocation.header))
            if hasattr(answer, "__await__"):
                answer = self.complete(answer)
            payload = self.stream(invocation, answer) if isinstance(answer, GeneratorType) else self.encode(answer)
        except BaseException as error:
            self.end(invocation, ERROR, self.failure(error))
        else:
            self.end(invocation, RESULT, payload)

    async def run_async(self, invocation, event):
        try:
            answer = await self.handler(decode(event), Context(invocation.header))
            payload = self.encode(answer)
        except BaseException as error:
            self.end(invocation, ERROR, self.failure(error))
        else:
            self.end(invocation, RESULT, payload)

    def complete(self, awaitable):
        """Awaits what a plain function returned, such as one that wraps an ``async`` handler."""
        if self.concurrency == 1:
            return self.own_loop().run_until_complete(awaitable)
        import asyncio

        return asyncio.run(awaitable)

    def stream(self, invocation, chunks):
        """Sends what a generator yields as it comes, no faster than it is read. A first chunk that is a dict
        holds the status and headers of an HTTP answer."""
        number = invocation.number
        chunk = next(chunks, b"")
        if isinstance(chunk, dict):
            chunk = json.dumps(chunk).encode() + PRELUDE_END
            is_open = invocation.connection.send(STREAM, number, PRELUDE_TYPE)
        else:
            is_open = invocation.connection.send(STREAM, number)
        while is_open and chunk is not None:
            view = memoryview(chunk.encode() if isinstance(chunk, str) else chunk)
            while is_open and len(view):
                part = bytes(view[:CHUNK_BYTES])
                is_open = self.await_window(invocation, len(part) + CHUNK_COST_BYTES)
                is_open = is_open and invocation.connection.send(CHUNK, number, part)
                view = view[CHUNK_BYTES:]
            chunk = next(chunks, None) if is_open else None
        chunks.close()
        return b""

    def await_window(self, invocation, cost):
        """Waits until `cost` bytes may be sent. Returns False once nobody reads any more."""
        if self.window_changed is None:
            while invocation.window < cost and not invocation.cancelled:
                if self.connection is not invocation.connection:
                    return False
                try:
                    frame = self.connection.next_frame()
                    if frame is None:
                        self.wait()
                    elif frame[0] == WINDOW:
                        self.widen(frame[1], frame[2])
                    elif frame[0] == CANCEL:
                        self.cancel(frame[1])
                except Disconnected:
                    self.disconnect()
            invocation.window -= cost
            return not invocation.cancelled
        with self.window_changed:
            while invocation.window < cost and not invocation.cancelled:
                if self.connection is not invocation.connection:
                    return False
                self.window_changed.wait(1)
            invocation.window -= cost
            return not invocation.cancelled

    def widen(self, number, payload):
        invocation = self.in_flight.get(number)
        if invocation is None:
            return
        if self.window_changed is None:
            invocation.window += int.from_bytes(payload, "little")
            return
        with self.window_changed:
            invocation.window += int.from_bytes(payload, "little")
            self.window_changed.notify_all()

    def cancel(self, number):
        invocation = self.in_flight.get(number)
        if invocation is None:
            return
        invocation.cancelled = True
        if invocation.task is not None:
            self.loop.call_soon_threadsafe(invocation.task.cancel)
        if self.window_changed is not None:
            with self.window_changed:
                self.window_changed.notify_all()

    def failure(self, error):
        report = report_of(error)
        sys.stderr.write(describe(report))
        return encode_report(report)

    def encode(self, answer):
        try:
            payload = self.encoder.encode(answer).encode()
        except UnicodeEncodeError:
            # A lone surrogate is JSON only when it is escaped.
            payload = json.dumps(answer, allow_nan=False, default=plain).encode()
        except Exception as error:
            raise Failure("Runtime.MarshalError", "Unable to marshal response: %s" % error) from None
        if len(payload) > self.answer_max:
            message = "Response payload size (%d bytes) exceeded maximum allowed payload size (%d bytes)."
            raise Failure("Function.ResponseSizeTooLarge", message % (len(payload), self.answer_max))
        return payload

    def end(self, invocation, kind, payload):
        for fd, partial in invocation.partial.items():
            if partial:
                self.log(fd, invocation, bytes(partial))
                partial.clear()
        self.in_flight.pop(invocation.number, None)
        connection = self.connection
        if connection is not None:
            # Also for an invocation that another daemon began: this one counts it.
            connection.send(kind, invocation.number, payload)


def new_loop():
    import asyncio

    # Before 3.10, locks and events that a module makes while it is imported belong to this thread's loop.
    loop = asyncio.get_event_loop() if sys.version_info < (3, 10) else asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


class Failure(Exception):
    """A failure around the handler, with the name that Lambda gives it."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def decode(event):
    try:
        return json.loads(event) if event else None
    except ValueError as error:
        raise Failure("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % error) from None


def plain(value):
    """Returns what JSON can hold of a value it does not know: as on Lambda, only a Decimal."""
    if type(value).__name__ == "Decimal":
        return float(value)
    raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)


def parts_of(text):
    """Cuts bytes so that each part fits into a frame: behind a line, else between characters."""
    while len(text) > LOG_MAX_BYTES:
        end = text.rfind(b"\n", 0, LOG_MAX_BYTES) + 1
        if end == 0:
            end = LOG_MAX_BYTES
            while end > LOG_MAX_BYTES - 4 and text[end] & 0xC0 == 0x80:
                end -= 1
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def is_coroutine_function(handler):
    """Says whether a call of the handler must be awaited, without importing inspect."""
    code = getattr(handler, "__code__", None) or getattr(getattr(handler, "__call__", None), "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)


def load(name):
    """Imports the module of a handler named `path/to/module.function` and returns the function."""
    module_name, _, function = name.rpartition(".")
    module_name = module_name.lstrip("./").replace("/", ".")
    if not module_name or not function:
        raise Failure("Runtime.MalformedHandlerName", "Bad handler '%s': not of the form module.function" % name)
    try:
        __import__(module_name)
    except ImportError as error:
        message = "Unable to import module '%s': %s" % (module_name, error)
        raise Failure("Runtime.ImportModuleError", message) from error
    except SyntaxError as error:
        place = "%s, line %s" % (error.filename, error.lineno)
        message = "Syntax error in module '%s': %s (%s)" % (module_name, error.msg, place)
        raise Failure("Runtime.UserCodeSyntaxError", message) from error
    handler = getattr(sys.modules[module_name], function, None)
    if handler is None:
        message = "Handler '%s' missing on module '%s'" % (function, module_name)
        raise Failure("Runtime.HandlerNotFound", message)
    if not callable(handler):
        message = "Handler '%s' of module '%s' cannot be called" % (function, module_name)
        raise Failure("Runtime.HandlerNotFound", message)
    return handler


def report_of(error, init=False):
    """Returns what is told of an error: Lambda's errorType, errorMessage and stackTrace."""
    import traceback

    if isinstance(error, SystemExit):
        when = "while it was loaded" if init else "while it ran"
        kind, message = "Runtime.ExitError", "the function called exit(%s) %s" % (error.code, when)
    elif isinstance(error, Failure):
        kind, message = error.kind, str(error)
    else:
        kind, message = type(error).__name__, str(error)
    cause = error.__cause__ if isinstance(error, Failure) and error.__cause__ is not None else error
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if not is_ours(frame.filename)]
    stack = traceback.format_list(frames)
    return {"errorType": kind, "errorMessage": message, "stackTrace": stack}


def is_ours(filename):
    return filename == __file__ or filename.startswith("<frozen importlib")


def encode_report(report):
    """Returns a report as JSON, shortened until it fits."""
    data = json.dumps(report).encode()
    if len(data) > REPORT_MAX_BYTES:
        report = dict(report, errorMessage=report["errorMessage"][:16384], stackTrace=report["stackTrace"][:20])
        data = json.dumps(report).encode()
    if len(data) > REPORT_MAX_BYTES:
        data = json.dumps(dict(report, stackTrace=[])).encode()
    return data


def describe(report):
    """Returns a report as the function's log shows it."""
    text = "[ERROR] %s: %s\n" % (report["errorType"], report["errorMessage"])
    if report["stackTrace"]:
        text += "Traceback (most recent call last):\n" + "".join(report["stackTrace"])
    return text


def attach_logging():
    """Gives the root logger a handler, as Lambda does: setting its level is then enough to see records."""
    import logging

    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("[%(levelname)s]\t%(name)s\t%(message)s"))
        root.addHandler(handler)


def main():
    """Loads the handler that the environment names and serves it until the process is killed."""
    started = time.monotonic()
    environ = os.environ
    server = Server(int(environ.get("HEARTH_CONCURRENCY", "1")), int(environ.get("HEARTH_ANSWER_MAX", "6291456")))
    task_root = environ.get("LAMBDA_TASK_ROOT", TASK_ROOT)
    sys.path.insert(0, task_root)
    os.chdir(task_root)
    server.capture_output()
    server.start(environ["HEARTH_HANDLER"], started)
    server.serve()


if __name__ == "__main__":
    main()
