// Runs one Node.js function inside a sandbox and answers the daemon's frames.
//
// The daemon connects to a Unix socket that listens on descriptor 3 and speaks frames: `u32 LE` length of what follows,
// `u8` kind, `u64 LE` invocation, payload. A later connection replaces an earlier one, so the daemon may restart at any
// time. Handlers are those of Lambda: `(event, context, callback)`, async ones, and streaming ones made by
// `awslambda.streamifyResponse`. Only Node.js itself is used, from version 18 on.

import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync, statSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { resolve } from "node:path";
import { Writable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";

const LISTENER = 3;
const FRAME_MAX_BYTES = 64 * 1024 * 1024;
const REPORT_MAX_BYTES = 256 * 1024;
const LOG_MAX_BYTES = 64 * 1024;
// How long a failed start waits for somebody to tell, and an exit for the daemon to read.
const REPORT_WAIT_MS = 10_000;
const EXIT_WAIT_MS = 1_000;
// The daemon holds each streamed answer to the same window.
const WINDOW_BYTES = 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
const CHUNK_COST_BYTES = 64;
// What a streamed answer is when it begins with a status and headers, and what ends those.
const PRELUDE_TYPE = "application/vnd.awslambda.http-integration-response";
const PRELUDE_END = Buffer.alloc(8);

const INVOKE = 1, CANCEL = 2, WINDOW = 3;
const READY = 16, INIT_ERROR = 17, RESULT = 18, ERROR = 19, LOG = 20, STREAM = 21, CHUNK = 22;

const EMPTY = Buffer.alloc(0);
const SUFFIXES = ["", ".js", ".mjs", ".cjs", "/index.js", "/index.mjs", "/index.cjs"];
const STREAMING = Symbol("hearth.streaming");

const started = performance.now();
const concurrency = Number(process.env.HEARTH_CONCURRENCY ?? 1);
const answerMax = Number(process.env.HEARTH_ANSWER_MAX ?? 6291456);
const taskRoot = process.env.LAMBDA_TASK_ROOT ?? "/var/task";
const running = new AsyncLocalStorage();
const inFlight = new Map();
const unfinishedLines = [null, EMPTY, EMPTY];

let connection = null;
let handler = null;
let initMs = null;
// The invocation that ends when nothing is left to do, see `holdUntilIdle`.
let held = null;

/** A failure around the handler, with the name that Lambda gives it. */
class Failure extends Error {
  constructor(kind, message, options) {
    super(message, options);
    this.name = kind;
  }
}

// Connections.

const server = createServer((socket) => {
  connection?.destroy();
  connection = socket;
  if (held) socket.unref();
  socket.on("error", () => {});
  socket.on("close", () => {
    if (connection === socket) connection = null;
  });
  readFrames(socket);
  // Until the handler is there, invocations wait in the socket.
  if (initMs === null) socket.pause();
  else greet();
});

function send(kind, number, ...parts) {
  if (connection === null) return false;
  const header = Buffer.allocUnsafe(13);
  header.writeUInt32LE(9 + parts.reduce((sum, part) => sum + part.length, 0), 0);
  header.writeUInt8(kind, 4);
  header.writeBigUInt64LE(BigInt(number), 5);
  connection.write(Buffer.concat([header, ...parts]));
  return true;
}

function readFrames(socket) {
  let chunks = [];
  let size = 0;
  let wanted = 4;
  socket.on("data", (chunk) => {
    chunks.push(chunk);
    size += chunk.length;
    // Putting chunks together is worth it only once a whole frame is there.
    if (size < wanted) return;
    let data = chunks.length === 1 ? chunk : Buffer.concat(chunks);
    wanted = 4;
    while (data.length >= 4) {
      const length = data.readUInt32LE(0);
      if (length < 9 || length > FRAME_MAX_BYTES) {
        socket.destroy();
        return;
      }
      if (data.length < length + 4) {
        wanted = length + 4;
        break;
      }
      onFrame(data.readUInt8(4), Number(data.readBigUInt64LE(5)), data.subarray(13, length + 4));
      data = data.subarray(length + 4);
    }
    chunks = [data];
    size = data.length;
  });
}

function greet() {
  const list = [...inFlight.values()].map(({ number, requestId }) => ({ id: number, request_id: requestId }));
  const ready = { runtime: `nodejs${process.versions.node}`, init_ms: initMs, in_flight: list };
  send(READY, 0, Buffer.from(JSON.stringify(ready)));
}

function onFrame(kind, number, payload) {
  if (kind === INVOKE) {
    const length = payload.readUInt32LE(0);
    const header = JSON.parse(payload.toString("utf8", 4, 4 + length));
    const invocation = {
      number,
      requestId: header.request_id,
      header,
      lines: [null, EMPTY, EMPTY],
      window: WINDOW_BYTES,
      wake: null,
      cancelled: false,
    };
    inFlight.set(number, invocation);
    const event = payload.toString("utf8", 4 + length);
    running.run(invocation, () => begin(invocation, event));
    return;
  }
  const invocation = inFlight.get(number);
  if (invocation === undefined) return;
  if (kind === WINDOW) invocation.window += payload.readUInt32LE(0);
  if (kind === CANCEL) invocation.cancelled = true;
  invocation.wake?.();
}

// What is written.

function captureOutput() {
  for (const [fd, stream] of [[1, process.stdout], [2, process.stderr]]) {
    stream.write = (chunk, encoding, callback) => {
      if (typeof encoding === "function") [encoding, callback] = [undefined, encoding];
      write(fd, typeof chunk === "string" ? Buffer.from(chunk, encoding) : Buffer.from(chunk));
      if (callback) process.nextTick(callback);
      return true;
    };
  }
}

/** Returns the invocation this code runs for, undefined when that cannot be known. */
function current() {
  const store = running.getStore();
  if (store !== undefined && inFlight.has(store.number)) return store;
  return inFlight.size === 1 ? inFlight.values().next().value : undefined;
}

function write(fd, bytes) {
  const invocation = current();
  const lines = invocation?.lines ?? unfinishedLines;
  const end = bytes.lastIndexOf(10) + 1;
  if (end > 0) {
    log(fd, invocation, Buffer.concat([lines[fd], bytes.subarray(0, end)]));
    lines[fd] = EMPTY;
  }
  lines[fd] = Buffer.concat([lines[fd], bytes.subarray(end)]);
  if (lines[fd].length >= LOG_MAX_BYTES) {
    log(fd, invocation, lines[fd]);
    lines[fd] = EMPTY;
  }
}

/** Sends text to the daemon; without one it goes where the descriptor leads. */
function log(fd, invocation, text) {
  while (text.length > 0) {
    const part = text.subarray(0, partLength(text));
    text = text.subarray(part.length);
    const header = Buffer.allocUnsafe(9);
    header.writeUInt8(fd, 0);
    header.writeBigUInt64LE(BigInt(Date.now()) * 1000n, 1);
    if (send(LOG, invocation?.number ?? 0, header, part)) continue;
    try {
      writeSync(fd, part);
    } catch {
      return;
    }
  }
}

/** Returns how much of a text fits into a frame: up to the end of a line, else of a character. */
function partLength(text) {
  if (text.length <= LOG_MAX_BYTES) return text.length;
  let end = text.lastIndexOf(10, LOG_MAX_BYTES - 1) + 1;
  if (end === 0) {
    end = LOG_MAX_BYTES;
    while (end > LOG_MAX_BYTES - 4 && (text[end] & 0xc0) === 0x80) end -= 1;
  }
  return end;
}

function flushLines(invocation) {
  const lines = invocation?.lines ?? unfinishedLines;
  for (const fd of [1, 2]) {
    log(fd, invocation, lines[fd]);
    lines[fd] = EMPTY;
  }
}

// Start.

/** Imports the module of a handler named `path/to/module.function` and returns the function. */
async function load(name) {
  const start = name.lastIndexOf("/") + 1;
  for (let dot = name.lastIndexOf("."); dot > start; dot = name.lastIndexOf(".", dot - 1)) {
    const base = resolve(taskRoot, name.slice(0, dot).replace(/^\/+/, ""));
    const file = SUFFIXES.map((suffix) => base + suffix).find((path) => existsSync(path) && statSync(path).isFile());
    if (file === undefined) continue;
    const loaded = await importFile(file);
    const path = name.slice(dot + 1);
    const pick = (from) => path.split(".").reduce((value, key) => value?.[key], from);
    const found = pick(loaded) ?? pick(loaded.default);
    if (typeof found === "function") return found;
    throw new Failure("Runtime.HandlerNotFound", `${name} is undefined or not exported as a function`);
  }
  if (!name.slice(start + 1).includes(".")) {
    throw new Failure("Runtime.MalformedHandlerName", `Bad handler '${name}': not of the form module.function`);
  }
  throw new Failure("Runtime.ImportModuleError", `Cannot find a module for handler '${name}' in ${taskRoot}`);
}

async function importFile(file) {
  try {
    return await import(pathToFileURL(file).href);
  } catch (error) {
    const isMissing = error?.code === "ERR_MODULE_NOT_FOUND" || error?.code === "MODULE_NOT_FOUND";
    if (isMissing) throw new Failure("Runtime.ImportModuleError", error.message, { cause: error });
    if (error instanceof SyntaxError) {
      const place = String(error.stack).split("\n")[0];
      throw new Failure("Runtime.UserCodeSyntaxError", `${error.message} (${place})`, { cause: error });
    }
    throw error;
  }
}

async function main() {
  process.chdir(taskRoot);
  captureOutput();
  globalThis.awslambda = {
    streamifyResponse(streaming) {
      streaming[STREAMING] = true;
      return streaming;
    },
    HttpResponseStream: {
      from(stream, prelude) {
        stream.setContentType(PRELUDE_TYPE);
        stream.write(Buffer.concat([Buffer.from(JSON.stringify(prelude)), PRELUDE_END]));
        return stream;
      },
    },
  };
  process.on("uncaughtException", (error) => crash(error));
  process.on("unhandledRejection", (error) => {
    const message = String(error?.message ?? error);
    crash(new Failure("Runtime.UnhandledPromiseRejection", message, { cause: error }));
  });
  process.on("beforeExit", onIdle);
  process.on("exit", () => {
    for (const invocation of [...inFlight.values(), undefined]) flushLines(invocation);
  });
  server.listen({ fd: LISTENER });
  handler = await load(process.env.HEARTH_HANDLER ?? "");
  flushLines(undefined);
  initMs = Math.round(performance.now() - started);
  if (connection === null) return;
  greet();
  connection.resume();
}

/** Reports that the function cannot be loaded, and ends the process. */
function fail(error) {
  const report = reportOf(error);
  process.stderr.write(describe(report));
  flushLines(undefined);
  const tell = () => {
    send(INIT_ERROR, 0, encodeReport(report));
    exit(1);
  };
  if (connection !== null) return tell();
  server.once("connection", tell);
  setTimeout(() => process.exit(1), REPORT_WAIT_MS);
}

/** Ends the process once what was sent has left it. */
function exit(code) {
  server.close();
  setTimeout(() => process.exit(code), EXIT_WAIT_MS);
  if (connection === null) process.exit(code);
  connection.end(() => process.exit(code));
}

/** Ends the process after an error that nobody caught; blames the only invocation, if there is one. */
function crash(error) {
  if (initMs === null) return fail(error);
  const report = reportOf(error);
  process.stderr.write(describe(report));
  flushLines(undefined);
  if (inFlight.size === 1) end(inFlight.values().next().value, ERROR, encodeReport(report));
  exit(129);
}

// Invocations.

function begin(invocation, text) {
  const { header } = invocation;
  if (concurrency === 1) {
    if (header.trace_id) process.env._X_AMZN_TRACE_ID = header.trace_id;
    else delete process.env._X_AMZN_TRACE_ID;
  }
  let isDone = false;
  const once = (finish) => (value) => {
    if (isDone) return;
    isDone = true;
    finish(invocation, value);
  };
  const succeed = once(answer);
  const fail = once(refuse);
  try {
    const event = parse(text);
    if (handler[STREAMING]) return stream(invocation, event, succeed, fail);
    const callback = (error, value) => {
      if (error !== null && error !== undefined) return fail(error);
      if (!context.callbackWaitsForEmptyEventLoop || concurrency > 1) return succeed(value);
      holdUntilIdle(invocation, () => succeed(value));
    };
    const context = contextOf(header, callback, succeed, fail);
    const result = handler(event, context, callback);
    if (typeof result?.then === "function") result.then(succeed, fail);
    else if (result !== undefined && handler.length < 3) succeed(result);
    // Any other handler answers through its callback, or with null when it leaves nothing to do.
    else if (concurrency === 1) {
      if (!isDone && held === null) holdUntilIdle(invocation, () => succeed(null));
    } else if (handler.length < 3) succeed(null);
  } catch (error) {
    fail(error);
  }
}

/** Lets the event loop run dry, our own sockets not counted, and then calls `finish`. */
function holdUntilIdle(invocation, finish) {
  held = { invocation, finish };
  server.unref();
  connection?.unref();
}

function release() {
  held = null;
  server.ref();
  connection?.ref();
}

function onIdle() {
  if (held === null) return;
  const { invocation, finish } = held;
  release();
  running.run(invocation, finish);
}

function contextOf(header, callback, succeed, fail) {
  return {
    callbackWaitsForEmptyEventLoop: true,
    awsRequestId: header.request_id,
    functionName: header.function,
    functionVersion: header.version,
    invokedFunctionArn: header.arn,
    memoryLimitInMB: String(header.memory_mb),
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME ?? "",
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME ?? "",
    clientContext: header.client_context ? JSON.parse(header.client_context) : undefined,
    identity: undefined,
    getRemainingTimeInMillis: () => Math.max(0, header.deadline_ms - Date.now()),
    done: callback,
    succeed,
    fail,
  };
}

/** Runs a handler that writes its answer to a stream, no faster than it is read. */
function stream(invocation, event, succeed, fail) {
  let contentType = "";
  let isBegun = false;
  const { number } = invocation;
  const open = () => {
    if (!isBegun) send(STREAM, number, Buffer.from(contentType));
    isBegun = true;
  };
  const mayNot = (cost) => invocation.window < cost && !invocation.cancelled && connection !== null;
  const responseStream = new Writable({
    async write(chunk, encoding, done) {
      open();
      for (let at = 0; at < chunk.length; at += CHUNK_BYTES) {
        const part = chunk.subarray(at, at + CHUNK_BYTES);
        const cost = part.length + CHUNK_COST_BYTES;
        while (mayNot(cost)) await new Promise((wake) => (invocation.wake = wake));
        if (invocation.cancelled) return done(new Failure("Runtime.Cancelled", "nobody reads the answer any more"));
        invocation.window -= cost;
        send(CHUNK, number, part);
      }
      done();
    },
  });
  responseStream.setContentType = (type) => {
    contentType = String(type);
  };
  const finished = new Promise((settle, reject) => {
    responseStream.on("finish", settle);
    responseStream.on("error", reject);
  });
  // A handler that waits for a stream nobody reads would wait for ever.
  finished.catch(fail);
  const context = contextOf(invocation.header, () => {}, () => {}, fail);
  Promise.resolve(handler(event, responseStream, context))
    .then(() => {
      if (!responseStream.writableEnded) responseStream.end();
      return finished;
    })
    .then(() => {
      open();
      succeed(STREAMING);
    })
    .catch(fail);
}

function parse(text) {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch (error) {
    throw new Failure("Runtime.UnmarshalError", `Unable to unmarshal input: ${error.message}`);
  }
}

function answer(invocation, value) {
  if (value === STREAMING) return end(invocation, RESULT, EMPTY);
  let payload;
  try {
    payload = Buffer.from(JSON.stringify(value ?? null) ?? "null");
  } catch (error) {
    return refuse(invocation, new Failure("Runtime.MarshalError", `Unable to marshal response: ${error.message}`));
  }
  if (payload.length > answerMax) {
    const sizes = `(${payload.length} bytes) exceeded maximum allowed payload size (${answerMax} bytes)`;
    return refuse(invocation, new Failure("Function.ResponseSizeTooLarge", `Response payload size ${sizes}.`));
  }
  end(invocation, RESULT, payload);
}

function refuse(invocation, error) {
  const report = reportOf(error);
  running.run(invocation, () => process.stderr.write(describe(report)));
  end(invocation, ERROR, encodeReport(report));
}

function end(invocation, kind, payload) {
  if (held?.invocation === invocation) release();
  flushLines(invocation);
  inFlight.delete(invocation.number);
  // Also for an invocation that another daemon began: this one counts it.
  send(kind, invocation.number, payload);
}

/** Returns what is told of an error: Lambda's errorType, errorMessage and stackTrace. */
function reportOf(error) {
  if (!(error instanceof Error) && typeof error?.message !== "string") {
    const errorMessage = typeof error === "object" ? JSON.stringify(error) : String(error);
    return { errorType: error === null ? "null" : typeof error, errorMessage, stackTrace: [] };
  }
  const ours = fileURLToPath(import.meta.url);
  const stack = error instanceof Failure ? error.cause?.stack ?? "" : error.stack ?? "";
  const stackTrace = String(stack)
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line.startsWith("at ") && !line.includes(ours) && !line.includes("node:"));
  return { errorType: String(error.name ?? "Error"), errorMessage: String(error.message), stackTrace };
}

/** Returns a report as JSON, shortened until it fits. */
function encodeReport(report) {
  let data = Buffer.from(JSON.stringify(report));
  if (data.length > REPORT_MAX_BYTES) {
    const errorMessage = report.errorMessage.slice(0, 16384);
    data = Buffer.from(JSON.stringify({ ...report, errorMessage, stackTrace: [] }));
  }
  return data;
}

/** Returns a report as the function's log shows it. */
function describe({ errorType, errorMessage, stackTrace }) {
  return [`[ERROR] ${errorType}: ${errorMessage}`, ...stackTrace.map((line) => `    ${line}`), ""].join("\n");
}

main().catch(fail);
