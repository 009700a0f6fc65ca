//! A function on the Lambda Runtime API, written with the public `lambda_runtime` crate as anyone would.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

async fn answer(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let query = &event.payload["queryStringParameters"];
    if query["do"] == "fail" {
        return Err("asked to fail".into());
    }
    Ok(json!({ "name": query["name"], "request": event.context.request_id }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(answer)).await
}
