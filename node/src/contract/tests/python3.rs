//! What a Python handler may rely on.

use serde_json::json;

use super::*;

fn start(code: &str) -> Instance {
    Instance::start(Language::Python3, "app.handler", 1, &[("app.py", code)])
}

fn start_concurrent(code: &str) -> Instance {
    Instance::start(Language::Python3, "app.handler", 8, &[("app.py", code)])
}

#[tokio::test]
async fn a_handler_gets_its_event_and_lambdas_context() {
    let mut instance = start(
        r#"
import os
def handler(event, context):
    return {
        "event": event,
        "names": [context.aws_request_id, context.function_name, context.function_version,
                  context.invoked_function_arn, context.memory_limit_in_mb, context.log_stream_name],
        "remaining": 0 < context.get_remaining_time_in_millis() <= 30000,
        "client": [context.client_context.custom, context.client_context.client.app_title],
        "trace": os.environ["_X_AMZN_TRACE_ID"],
        "folder": os.getcwd().endswith("/code"),
    }
"#,
    );
    let daemon = instance.connect().await;
    let info = daemon.ready().await.unwrap();
    assert!(info.runtime.starts_with("python3."), "{info:?}");
    let expected = json!({
        "event": {"a": [1, "é"]},
        "names": ["r-1", "orders", "7", "arn:aws:lambda:local:0:function:orders:7", "256", "stream-1"],
        "remaining": true,
        "client": [{"tier": "gold"}, "shop"],
        "trace": "Root=1-2-3",
        "folder": true,
    });
    assert_eq!(daemon.answer("r-1", r#"{"a":[1,"é"]}"#).await, expected);
}

#[tokio::test]
async fn a_failure_is_reported_as_lambda_does_and_harms_nobody_else() {
    let mut instance = start(
        r#"
import datetime, sys
def handler(event, context):
    if event == "raise":
        raise ValueError("bad order")
    if event == "exit":
        sys.exit(3)
    if event == "date":
        return datetime.datetime(2020, 1, 1)
    if event == "nan":
        return float("nan")
    if event == "large":
        return "x" * 2000000
    return event
"#,
    );
    let daemon = instance.connect().await;
    let report = daemon.failure("r-1", r#""raise""#).await;
    assert_eq!((&report["errorType"], &report["errorMessage"]), (&json!("ValueError"), &json!("bad order")));
    let frames = report["stackTrace"].as_array().unwrap();
    assert_eq!(frames.len(), 1, "only the function's own frames: {frames:?}");
    assert!(frames[0].as_str().unwrap().contains("app.py\", line 5, in handler"), "{frames:?}");
    for (event, kind) in [
        (r#""exit""#, "Runtime.ExitError"),
        (r#""date""#, "Runtime.MarshalError"),
        (r#""nan""#, "Runtime.MarshalError"),
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
        ("app.handler", "import no_such_module", "Runtime.ImportModuleError", "No module named 'no_such_module'"),
        ("app.handler", "def handler(:", "Runtime.UserCodeSyntaxError", "line 1"),
        ("app.handler", "other = 1", "Runtime.HandlerNotFound", "'handler' missing on module 'app'"),
        ("app.handler", "1 / 0", "ZeroDivisionError", "division by zero"),
        ("app.handler", "import sys; sys.exit(4)", "Runtime.ExitError", "exit(4)"),
        ("nothing", "", "Runtime.MalformedHandlerName", "'nothing'"),
    ];
    for (handler, code, kind, words) in cases {
        let mut instance = Instance::start(Language::Python3, handler, 1, &[("app.py", code)]);
        let mut daemon = instance.connect().await;
        let Err(InitFailure::Function(report)) = daemon.ready().await else { panic!("{code} was loaded") };
        assert_eq!(report.error_type, kind, "for {code}");
        assert!(report.error_message.contains(words), "{report} for {code}");
        assert_eq!(daemon.line().await, format!("- Stderr [ERROR] {kind}: {}", report.error_message));
        assert_eq!(instance.exit_code().await, Some(1));
        assert!(matches!(daemon.invoke("r", "1").await, Outcome::InstanceDied { .. }));
    }
}

#[tokio::test]
async fn handlers_lie_in_packages_too() {
    for handler in ["shop/orders/app.main", "shop.orders.app.main", "./shop/orders/app.main"] {
        let files = [("shop/orders/app.py", "def main(event, context): return __name__")];
        let mut instance = Instance::start(Language::Python3, handler, 1, &files);
        assert_eq!(instance.connect().await.answer("r", "1").await, "shop.orders.app");
    }
}

#[tokio::test]
async fn lines_are_attributed_and_come_before_the_answer() {
    let mut instance = start(
        r#"
import logging, os, subprocess, sys
print("loading")
def handler(event, context):
    print("two\nlines", event, end="")
    sys.stderr.write("no line feed")
    sys.stdout.buffer.write(b"\nbytes\n")
    logging.getLogger().error("logged")
    os.write(1, b"from below\n")
    subprocess.run(["echo", "a child"])
"#,
    );
    let mut daemon = instance.connect().await;
    daemon.ready().await.unwrap();
    assert_eq!(daemon.line().await, "- Stdout loading");
    for request_id in ["first", "second"] {
        daemon.answer(request_id, "1").await;
        let mut lines = Vec::new();
        for _ in 0..6 {
            lines.push(daemon.line().await);
        }
        lines.sort();
        let expected = [
            "Stderr no line feed[ERROR]\troot\tlogged",
            "Stdout a child",
            "Stdout bytes",
            "Stdout from below",
            "Stdout lines 1",
            "Stdout two",
        ];
        assert_eq!(lines, expected.map(|line| format!("{request_id} {line}")));
    }
}

#[tokio::test]
async fn several_invocations_run_at_once_and_their_lines_are_told_apart() {
    let mut instance = start_concurrent(
        r#"
import threading
barrier = threading.Barrier(4)
def handler(event, context):
    print("before", end=" ")
    barrier.wait(30)
    print(event)
    barrier.wait(30)
    return context.aws_request_id
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
async fn async_handlers_share_one_loop_and_can_be_cancelled() {
    let mut instance = start_concurrent(
        r#"
import asyncio
gate = asyncio.Event()
async def handler(event, context):
    if event == "open":
        gate.set()
    if event == "never":
        await asyncio.get_running_loop().create_future()
    await gate.wait()
    print("through")
    return event
"#,
    );
    let mut daemon = instance.connect().await;
    daemon.ready().await.unwrap();
    let soon = invocation("never", r#""never""#, Duration::from_millis(50));
    assert!(matches!(daemon.framed.invoke(soon).await, Outcome::TimedOut));
    daemon.until_in_flight(0).await;
    let (waited, opened) = tokio::join!(daemon.answer("a", r#""wait""#), daemon.answer("b", r#""open""#));
    assert_eq!((waited, opened), (json!("wait"), json!("open")));
    let mut lines = Vec::new();
    while lines.len() < 2 {
        let line = daemon.line().await;
        if line.ends_with("through") {
            lines.push(line);
        }
    }
    lines.sort();
    assert_eq!(lines, ["a Stdout through", "b Stdout through"]);
}

#[tokio::test]
async fn an_async_handler_runs_alone_too() {
    for code in [
        "import asyncio\nasync def handler(event, context):\n    await asyncio.get_running_loop().run_in_executor(None, int)\n    return event",
        "async def inner(event): return event\ndef handler(event, context): return inner(event)",
    ] {
        let mut instance = start(code);
        let daemon = instance.connect().await;
        assert_eq!(daemon.answer("r-1", "1").await, 1);
        assert_eq!(daemon.answer("r-2", "2").await, 2);
    }
}

#[tokio::test]
async fn a_generator_streams_no_faster_than_it_is_read() {
    for concurrency in [1, 8] {
        let code = r#"
def handler(event, context):
    yield "start "
    for number in range(64):
        yield bytes([number]) * 65536
    if event == "fail":
        raise ValueError("halfway")
"#;
        let mut instance = Instance::start(Language::Python3, "app.handler", concurrency, &[("app.py", code)]);
        let daemon = instance.connect().await;
        let Outcome::Stream(mut stream) = daemon.invoke("r", "1").await else { panic!("it streams") };
        assert_eq!(stream.next().await.unwrap().unwrap(), "start ");
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
        assert_eq!(failure, "the function failed while it answered: ValueError: halfway");
        // A reader that goes away in the middle frees the instance.
        let Outcome::Stream(stream) = daemon.invoke("r", "1").await else { panic!("it streams") };
        drop(stream);
        daemon.until_in_flight(0).await;
    }
}

#[tokio::test]
async fn a_daemon_that_comes_back_finds_the_instance_and_what_it_works_on() {
    let mut instance = start_concurrent(
        r#"
import threading
gate = threading.Event()
def handler(event, context):
    if event == "open":
        gate.set()
    else:
        print("begun")
    gate.wait(30)
    print("done", event)
    return event
"#,
    );
    instance.connect().await.leave_behind("lost", r#""lost""#).await;
    let mut second = instance.connect().await;
    let info = second.ready().await.unwrap();
    assert_eq!(info.in_flight.iter().map(|earlier| earlier.request_id.as_str()).collect::<Vec<_>>(), ["lost"]);
    second.until_in_flight(1).await;
    assert_eq!(second.answer("mine", r#""open""#).await, "open");
    second.until_in_flight(0).await;
    let mut lines = [second.line().await, second.line().await];
    lines.sort();
    assert_eq!(lines, ["lost Stdout done lost", "mine Stdout done open"]);
}

#[tokio::test]
async fn a_busy_instance_answers_the_next_daemon_when_it_is_free() {
    let mut instance = start(
        r#"
import socket
def handler(event, context):
    if event:
        print("begun")
        socket.create_connection(("127.0.0.1", event)).recv(1)
    return "free"
"#,
    );
    let gate = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gate.local_addr().unwrap().port().to_string();
    instance.connect().await.leave_behind("lost", &port).await;
    let second = instance.connect().await;
    drop(gate.accept().unwrap());
    assert_eq!(second.ready().await.unwrap().in_flight, []);
    assert_eq!(second.answer("next", "null").await, "free");
}

#[tokio::test]
async fn a_crash_ends_what_is_in_flight() {
    let mut instance = start("import os\ndef handler(event, context):\n    print('last words')\n    os._exit(9)");
    let mut daemon = instance.connect().await;
    assert!(matches!(daemon.invoke("r", "1").await, Outcome::InstanceDied { may_have_started: true }));
    assert_eq!(daemon.line().await, "r Stdout last words");
    assert!(matches!(daemon.invoke("r", "1").await, Outcome::InstanceDied { may_have_started: false }));
    assert_eq!(instance.exit_code().await, Some(9));
}

#[tokio::test]
async fn large_events_and_answers_arrive_whole() {
    for concurrency in [1, 8] {
        let code = "def handler(event, context): return event[:-1]";
        let mut instance = Instance::start(Language::Python3, "app.handler", concurrency, &[("app.py", code)]);
        let daemon = instance.connect().await;
        let text = "é".repeat(400_000);
        let answer = daemon.answer("r", &format!("\"{text}!\"")).await;
        assert_eq!(answer.as_str().unwrap(), text);
    }
}

#[tokio::test]
async fn the_round_trip_is_measured() {
    let mut instance = start("def handler(event, context): return event");
    let daemon = instance.connect().await;
    let info = daemon.ready().await.unwrap();
    let mut samples = Vec::new();
    for number in 0..500 {
        let begun = std::time::Instant::now();
        daemon.answer("r", &number.to_string()).await;
        samples.push(begun.elapsed());
    }
    let median = median_us(samples);
    eprintln!("python3 round trip over the Unix socket: p50 {median:.0} us; ready after {} ms", info.init_ms);
    assert!(median < 20_000.0, "{median} us");
}
