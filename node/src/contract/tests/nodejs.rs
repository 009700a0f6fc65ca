//! What a Node.js handler may rely on.

use serde_json::json;

use super::*;

fn start(code: &str) -> Instance {
    Instance::start(Language::Nodejs, "app.handler", 1, &[("app.js", code)])
}

fn start_concurrent(code: &str) -> Instance {
    Instance::start(Language::Nodejs, "app.handler", 8, &[("app.js", code)])
}

#[tokio::test]
async fn a_handler_gets_its_event_and_lambdas_context() {
    let mut instance = start(
        r#"
exports.handler = async (event, context) => ({
  event,
  names: [context.awsRequestId, context.functionName, context.functionVersion, context.invokedFunctionArn,
          context.memoryLimitInMB, context.logStreamName],
  remaining: 0 < context.getRemainingTimeInMillis() && context.getRemainingTimeInMillis() <= 30000,
  client: context.clientContext.custom,
  trace: process.env._X_AMZN_TRACE_ID,
  folder: process.cwd().endsWith("/code"),
});
"#,
    );
    let daemon = instance.connect().await;
    let info = daemon.ready().await.unwrap();
    assert!(info.runtime.starts_with("nodejs"), "{info:?}");
    let expected = json!({
        "event": {"a": [1, "é"]},
        "names": ["r-1", "orders", "7", "arn:aws:lambda:local:0:function:orders:7", "256", "stream-1"],
        "remaining": true,
        "client": {"tier": "gold"},
        "trace": "Root=1-2-3",
        "folder": true,
    });
    assert_eq!(daemon.answer("r-1", r#"{"a":[1,"é"]}"#).await, expected);
}

#[tokio::test]
async fn every_kind_of_module_and_handler_is_called() {
    let package = ("package.json", r#"{"type": "module"}"#);
    let cases: [(&str, &[(&str, &str)]); 8] = [
        ("app.handler", &[("app.mjs", "export const handler = async (e) => e")]),
        ("app.handler", &[("app.js", "export const handler = async (e) => e"), package]),
        ("app.handler", &[("app.cjs", "module.exports = { handler: async (e) => e }")]),
        ("src/shop/app.api.get", &[("src/shop/app.js", "exports.api = { get: (e) => e }")]),
        ("app.v2.main", &[("app.v2.js", "exports.main = (e, c, done) => setTimeout(() => done(null, e), 1)")]),
        ("app.handler", &[("app/index.js", "exports.handler = (e, c, done) => done(undefined, e)")]),
        ("app.handler", &[("app.mjs", "export default { handler: (e) => Promise.resolve(e) }")]),
        ("app.handler", &[("app.mjs", "await 1; export const handler = (e, context) => context.succeed(e)")]),
    ];
    for (handler, files) in cases {
        let mut instance = Instance::start(Language::Nodejs, handler, 1, files);
        let daemon = instance.connect().await;
        for number in [1, 2] {
            assert_eq!(daemon.answer("r", &number.to_string()).await, number, "for {files:?}");
        }
    }
}

#[tokio::test]
async fn a_callback_waits_for_the_event_loop_unless_told_not_to() {
    let mut instance = start(
        r#"
let late = "no";
exports.handler = (event, context, callback) => {
  if (event === "late") return callback(null, late);
  if (event === "nothing") { setTimeout(() => {}, 1); return; }
  context.callbackWaitsForEmptyEventLoop = event;
  const answer = { get late() { return late; } };
  late = "no";
  setTimeout(() => { late = "yes"; }, 50);
  callback(null, answer);
};
"#,
    );
    let daemon = instance.connect().await;
    assert_eq!(daemon.answer("r-1", "true").await, json!({"late": "yes"}));
    assert_eq!(daemon.answer("r-2", "false").await, json!({"late": "no"}));
    assert_eq!(daemon.answer("r-3", r#""nothing""#).await, json!(null));
    assert_eq!(daemon.answer("r-4", r#""late""#).await, "yes");
}

#[tokio::test]
async fn a_failure_is_reported_as_lambda_does_and_harms_nobody_else() {
    let mut instance = start(
        r#"
class OrderError extends Error { constructor(m) { super(m); this.name = "OrderError"; } }
exports.handler = async (event) => {
  if (event === "throw") throw new OrderError("bad order");
  if (event === "text") throw "just text";
  if (event === "bigint") return { n: 1n };
  if (event === "large") return "x".repeat(2000000);
  return event;
};
"#,
    );
    let daemon = instance.connect().await;
    let report = daemon.failure("r-1", r#""throw""#).await;
    assert_eq!((&report["errorType"], &report["errorMessage"]), (&json!("OrderError"), &json!("bad order")));
    let frames = report["stackTrace"].as_array().unwrap();
    assert_eq!(frames.len(), 1, "only the function's own frames: {frames:?}");
    assert!(frames[0].as_str().unwrap().contains("app.js:4"), "{frames:?}");
    for (event, kind) in [
        (r#""text""#, "string"),
        (r#""bigint""#, "Runtime.MarshalError"),
        (r#""large""#, "Function.ResponseSizeTooLarge"),
        ("{no json", "Runtime.UnmarshalError"),
    ] {
        assert_eq!(daemon.failure("r-2", event).await["errorType"], kind, "for {event}");
    }
    assert_eq!(daemon.answer("r-3", "[1]").await, json!([1]));
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why_and_ends() {
    let cases = [
        ("app.handler", "require('no-such-module')", "Runtime.ImportModuleError", "no-such-module"),
        ("app.handler", "exports.handler = (", "Runtime.UserCodeSyntaxError", "app.js:1"),
        ("app.handler", "exports.other = 1", "Runtime.HandlerNotFound", "app.handler"),
        ("app.handler", "null.x", "TypeError", "null"),
        ("other.handler", "", "Runtime.ImportModuleError", "'other.handler'"),
        ("nothing", "", "Runtime.MalformedHandlerName", "'nothing'"),
    ];
    for (handler, code, kind, words) in cases {
        let mut instance = Instance::start(Language::Nodejs, handler, 1, &[("app.js", code)]);
        let mut daemon = instance.connect().await;
        let Err(InitFailure::Function(report)) = daemon.ready().await else { panic!("{code} was loaded") };
        assert_eq!(report.error_type, kind, "for {code}");
        assert!(report.error_message.contains(words), "{report} for {code}");
        let first = report.error_message.lines().next().unwrap_or("");
        assert_eq!(daemon.line().await, format!("- Stderr [ERROR] {kind}: {first}"));
        assert_eq!(instance.exit_code().await, Some(1));
    }
}

#[tokio::test]
async fn an_error_that_nobody_catches_ends_the_instance_with_a_report() {
    for (code, kind) in [
        ("setTimeout(() => { throw new RangeError('late') }, 1)", "RangeError"),
        ("Promise.reject(new Error('late'))", "Runtime.UnhandledPromiseRejection"),
    ] {
        let mut instance = start(&format!("exports.handler = () => new Promise(() => {{ {code} }})"));
        let daemon = instance.connect().await;
        let report = daemon.failure("r", "1").await;
        assert_eq!((&report["errorType"], &report["errorMessage"]), (&json!(kind), &json!("late")));
        assert_eq!(instance.exit_code().await, Some(129));
    }
}

#[tokio::test]
async fn lines_are_attributed_and_come_before_the_answer() {
    let mut instance = start(
        r#"
console.log("loading");
exports.handler = async (event) => {
  console.log("two\nlines", event);
  process.stderr.write("no line feed");
  require("fs").writeSync(1, "from below\n");
  require("child_process").execSync("echo a child", { stdio: "inherit" });
};
"#,
    );
    let mut daemon = instance.connect().await;
    daemon.ready().await.unwrap();
    assert_eq!(daemon.line().await, "- Stdout loading");
    for request_id in ["first", "second"] {
        daemon.answer(request_id, "1").await;
        let mut lines = Vec::new();
        for _ in 0..5 {
            lines.push(daemon.line().await);
        }
        lines.sort();
        let expected = ["Stderr no line feed", "Stdout a child", "Stdout from below", "Stdout lines 1", "Stdout two"];
        assert_eq!(lines, expected.map(|line| format!("{request_id} {line}")));
    }
}

#[tokio::test]
async fn several_invocations_run_at_once_and_their_lines_are_told_apart() {
    let mut instance = start_concurrent(
        r#"
const waiting = [];
exports.handler = async (event, context) => {
  process.stdout.write("before ");
  await new Promise((resolve) => {
    waiting.push(resolve);
    if (waiting.length === 4) for (const wake of waiting) wake();
  });
  console.log(event);
  return context.awsRequestId;
};
"#,
    );
    let mut daemon = instance.connect().await;
    let answers = futures_util::future::join_all((0..4).map(|number| {
        let daemon = &daemon;
        async move { daemon.answer(&format!("r-{number}"), &number.to_string()).await }
    }))
    .await;
    assert_eq!(answers, ["r-0", "r-1", "r-2", "r-3"]);
    let mut lines = Vec::new();
    for _ in 0..4 {
        lines.push(daemon.line().await);
    }
    lines.sort();
    assert_eq!(lines, [0, 1, 2, 3].map(|number| format!("r-{number} Stdout before {number}")));
}

#[tokio::test]
async fn a_streaming_handler_has_a_head_and_goes_no_faster_than_it_is_read() {
    let mut instance = start(
        r#"
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  const out = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { "x-a": "b" } });
  for (let i = 0; i < 64; i++) {
    if (!out.write(Buffer.alloc(65536, i))) await new Promise((resolve) => out.once("drain", resolve));
  }
  if (event === "fail") throw new Error("halfway");
  out.end();
});
"#,
    );
    let daemon = instance.connect().await;
    let Outcome::Stream(mut stream) = daemon.invoke("r", "1").await else { panic!("it streams") };
    let head = super::super::stream_head(&mut stream).await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["x-a"].to_str().unwrap()), (201, "b"));
    let mut total = 0;
    while let Some(chunk) = stream.next().await {
        total += chunk.unwrap().len();
    }
    assert_eq!(total, 64 * 65536);
    let Outcome::Stream(mut stream) = daemon.invoke("r", r#""fail""#).await else { panic!("it streams") };
    let mut last = None;
    while let Some(chunk) = stream.next().await {
        last = Some(chunk);
    }
    let failure = last.unwrap().unwrap_err().to_string();
    assert_eq!(failure, "the function failed while it answered: Error: halfway");
    // A reader that goes away in the middle frees the instance.
    let Outcome::Stream(stream) = daemon.invoke("r", "1").await else { panic!("it streams") };
    drop(stream);
    daemon.until_in_flight(0).await;
}

#[tokio::test]
async fn a_daemon_that_comes_back_finds_the_instance_and_what_it_works_on() {
    let mut instance = start_concurrent(
        r#"
let open;
const gate = new Promise((resolve) => { open = resolve; });
exports.handler = async (event) => {
  if (event === "open") open();
  else console.log("begun");
  await gate;
  console.log("done", event);
  return event;
};
"#,
    );
    instance.connect().await.leave_behind("lost", r#""lost""#).await;
    let mut second = instance.connect().await;
    let info = second.ready().await.unwrap();
    assert_eq!(info.in_flight.iter().map(|earlier| earlier.request_id.as_str()).collect::<Vec<_>>(), ["lost"]);
    assert_eq!(second.answer("mine", r#""open""#).await, "open");
    second.until_in_flight(0).await;
    let mut lines = [second.line().await, second.line().await];
    lines.sort();
    assert_eq!(lines, ["lost Stdout done lost", "mine Stdout done open"]);
}

#[tokio::test]
async fn a_crash_ends_what_is_in_flight() {
    let mut instance = start("exports.handler = () => { console.log('last words'); process.exit(9); }");
    let mut daemon = instance.connect().await;
    assert!(matches!(daemon.invoke("r", "1").await, Outcome::InstanceDied { may_have_started: true }));
    assert_eq!(daemon.line().await, "r Stdout last words");
    assert_eq!(instance.exit_code().await, Some(9));
}

#[tokio::test]
async fn large_events_and_answers_arrive_whole() {
    let mut instance = start("exports.handler = async (event) => event.slice(0, -1)");
    let daemon = instance.connect().await;
    let text = "é".repeat(400_000);
    let answer = daemon.answer("r", &format!("\"{text}!\"")).await;
    assert_eq!(answer.as_str().unwrap(), text);
}

#[tokio::test]
async fn the_round_trip_is_measured() {
    let mut instance = start("exports.handler = async (event) => event");
    let daemon = instance.connect().await;
    let info = daemon.ready().await.unwrap();
    let mut samples = Vec::new();
    for number in 0..500 {
        let begun = std::time::Instant::now();
        daemon.answer("r", &number.to_string()).await;
        samples.push(begun.elapsed());
    }
    let median = median_us(samples);
    eprintln!("nodejs round trip over the Unix socket: p50 {median:.0} us; ready after {} ms", info.init_ms);
    assert!(median < 20_000.0, "{median} us");
}
