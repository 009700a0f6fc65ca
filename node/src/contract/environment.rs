//! The environment variables that each contract promises to what runs in a sandbox.

use std::fmt::Display;

use super::invocation::Identity;

/// Where a function's code lies inside its sandbox, and its working directory.
pub const TASK_ROOT: &str = "/var/task";

/// Where the bootstraps lie inside a sandbox.
const RUNTIME_DIR: &str = "/opt/hearth";

/// How an instance is spoken to, as far as it has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contract {
    /// Our bootstrap calls a handler.
    Framed {
        /// Which one: `module.function`.
        handler: String,
        /// How long an answer may be, in bytes.
        answer_max: usize,
    },
    /// The instance polls the Lambda Runtime API.
    RuntimeApi {
        /// What it finds in `_HANDLER`; may be empty.
        handler: String,
        /// The loopback port on which the API listens.
        port: u16,
    },
    /// The instance serves HTTP.
    Http {
        /// The port it has to listen on.
        port: u16,
    },
}

/// What every process finds unless its image or its function says otherwise.
///
/// Clients of AWS refuse to be made without a region, whatever they are then used for.
pub const DEFAULTS: [(&str, &str); 6] = [
    ("PATH", "/var/task/bin:/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("TZ", ":UTC"),
    ("AWS_REGION", "local"),
    ("AWS_DEFAULT_REGION", "local"),
];

/// Returns the variables that a contract promises to an instance that serves up to `concurrency` invocations at once.
///
/// Where the function's own settings name one of these, these win: clients rely on them.
pub fn environment(identity: &Identity, contract: &Contract, concurrency: u16) -> Vec<(String, String)> {
    let mut variables = Variables(Vec::new());
    variables.set("HEARTH_FUNCTION", &identity.function);
    variables.set("HEARTH_VERSION", &identity.version);
    variables.set("HEARTH_INSTANCE", &identity.log_stream);
    match contract {
        Contract::Framed { handler, answer_max } => {
            variables.lambda(identity, handler);
            variables.set("HEARTH_HANDLER", handler);
            variables.set("HEARTH_CONCURRENCY", concurrency);
            variables.set("HEARTH_ANSWER_MAX", answer_max);
        }
        Contract::RuntimeApi { handler, port } => {
            variables.lambda(identity, handler);
            variables.set("AWS_LAMBDA_RUNTIME_API", format_args!("127.0.0.1:{port}"));
            if concurrency > 1 {
                variables.set("AWS_LAMBDA_MAX_CONCURRENCY", concurrency);
            }
        }
        Contract::Http { port } => {
            variables.set("PORT", port);
            variables.set("K_SERVICE", &identity.function);
            variables.set("K_CONFIGURATION", &identity.function);
            variables.set("K_REVISION", format_args!("{}-{}", identity.function, identity.version));
        }
    }
    variables.0
}

struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: &str, value: impl Display) {
        self.0.push((name.to_owned(), value.to_string()));
    }

    /// Sets what Lambda sets in every runtime.
    fn lambda(&mut self, identity: &Identity, handler: &str) {
        self.set("_HANDLER", handler);
        self.set("LAMBDA_TASK_ROOT", TASK_ROOT);
        self.set("LAMBDA_RUNTIME_DIR", RUNTIME_DIR);
        self.set("AWS_LAMBDA_FUNCTION_NAME", &identity.function);
        self.set("AWS_LAMBDA_FUNCTION_VERSION", &identity.version);
        self.set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", identity.memory_mb);
        self.set("AWS_LAMBDA_LOG_GROUP_NAME", format_args!("/aws/lambda/{}", identity.function));
        self.set("AWS_LAMBDA_LOG_STREAM_NAME", &identity.log_stream);
        self.set("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand");
        self.set("AWS_LAMBDA_LOG_FORMAT", "Text");
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(contract: &Contract, concurrency: u16, expected: Expect) {
        let identity = Identity {
            function: "orders".to_owned(),
            version: "7".to_owned(),
            memory_mb: 256,
            arn: "arn".to_owned(),
            log_stream: "i-1".to_owned(),
        };
        let mut text = String::new();
        for (name, value) in environment(&identity, contract, concurrency) {
            text += &format!("{name}={value}\n");
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn each_contract_has_its_variables() {
        check(
            &Contract::Http { port: 8080 },
            1,
            expect![[r#"
            HEARTH_FUNCTION=orders
            HEARTH_VERSION=7
            HEARTH_INSTANCE=i-1
            PORT=8080
            K_SERVICE=orders
            K_CONFIGURATION=orders
            K_REVISION=orders-7
        "#]],
        );
        check(
            &Contract::RuntimeApi { handler: "app".to_owned(), port: 9001 },
            4,
            expect![[r#"
            HEARTH_FUNCTION=orders
            HEARTH_VERSION=7
            HEARTH_INSTANCE=i-1
            _HANDLER=app
            LAMBDA_TASK_ROOT=/var/task
            LAMBDA_RUNTIME_DIR=/opt/hearth
            AWS_LAMBDA_FUNCTION_NAME=orders
            AWS_LAMBDA_FUNCTION_VERSION=7
            AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256
            AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/orders
            AWS_LAMBDA_LOG_STREAM_NAME=i-1
            AWS_LAMBDA_INITIALIZATION_TYPE=on-demand
            AWS_LAMBDA_LOG_FORMAT=Text
            AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001
            AWS_LAMBDA_MAX_CONCURRENCY=4
        "#]],
        );
        check(
            &Contract::Framed { handler: "app.handler".to_owned(), answer_max: 6_291_456 },
            1,
            expect![[r#"
            HEARTH_FUNCTION=orders
            HEARTH_VERSION=7
            HEARTH_INSTANCE=i-1
            _HANDLER=app.handler
            LAMBDA_TASK_ROOT=/var/task
            LAMBDA_RUNTIME_DIR=/opt/hearth
            AWS_LAMBDA_FUNCTION_NAME=orders
            AWS_LAMBDA_FUNCTION_VERSION=7
            AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256
            AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/orders
            AWS_LAMBDA_LOG_STREAM_NAME=i-1
            AWS_LAMBDA_INITIALIZATION_TYPE=on-demand
            AWS_LAMBDA_LOG_FORMAT=Text
            HEARTH_HANDLER=app.handler
            HEARTH_CONCURRENCY=1
            HEARTH_ANSWER_MAX=6291456
        "#]],
        );
    }
}
