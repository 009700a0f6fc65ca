//! Which function takes which request, as a table and as properties.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::model::{HttpTrigger, PathPattern, Scaling, Timestamp};
use crate::state::{Command, Revision};

/// Makes a state of functions with these triggers, written `METHOD,METHOD host/path` or `* host/path`.
fn state(functions: &[(&str, &[&str])]) -> State {
    let mut state = State::default();
    for (name, triggers) in functions {
        let function = Function {
            app: "shop".parse().unwrap(),
            index: 1,
            scaling: Scaling::DEFAULT,
            triggers: triggers.iter().map(|text| Trigger::Http(trigger(text))).collect(),
            revisions: BTreeMap::new(),
            live: None,
            candidate: None,
        };
        state.functions.insert(name.parse().unwrap(), function);
    }
    state
}

fn trigger(text: &str) -> HttpTrigger {
    let (methods, claim) = text.split_once(' ').unwrap();
    let (host, path) = claim.split_at(claim.find('/').unwrap());
    HttpTrigger {
        host: (!host.is_empty()).then(|| host.to_owned()),
        path: path.parse().unwrap(),
        methods: if methods == "*" {
            Vec::new()
        } else {
            methods.split(',').map(|method| method.parse().unwrap()).collect()
        },
    }
}

fn show(table: &RouteTable, request: &str) -> String {
    let (method, claim) = request.split_once(' ').unwrap();
    let (host, path) = claim.split_at(claim.find('/').unwrap());
    match table.find(host, method.parse().ok(), path) {
        Route::Found(Found { target, by: By::Name { rest } }) => format!("{} by name, rest {rest:?}", target.function),
        Route::Found(Found { target, by: By::Trigger { pattern } }) => format!("{} by {pattern}", target.function),
        Route::MethodNotAllowed { allowed } => {
            format!("not allowed, but {}", allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", "))
        }
        Route::NoFunction { name } => format!("no function {name}, near {:?}", table.nearest(name)),
        Route::NotFound => "not found".to_owned(),
    }
}

#[test]
fn the_most_specific_route_wins() {
    let table = RouteTable::new(&state(&[
        ("home", &["GET /"]),
        ("all", &["* /*"]),
        ("api", &["GET,POST /api/*", "GET shop.example/api"]),
        ("orders", &["GET /api/orders", "* /api/orders/*"]),
        ("shop", &["GET shop.example/*"]),
    ]));
    let requests = [
        "GET /",
        "POST /",
        "GET /api",
        "GET /api/",
        "POST /api/orders",
        "GET /api/orders",
        "DELETE /api/orders/7/items",
        "DELETE /api/carts",
        "GET /apis",
        "GET shop.example/api",
        "GET shop.example/api/orders",
        "PUT shop.example/api",
        "BREW /coffee",
        "GET /function/api",
        "GET /function/api/a/b",
        "GET /function/apj",
        "GET /function/unheard-of",
        "GET /function/",
        "GET /function",
    ];
    let mut text = String::new();
    for request in requests {
        writeln!(text, "{request:28} {}", show(&table, request)).unwrap();
    }
    expect![[r#"
        GET /                        home by /
        POST /                       all by /*
        GET /api                     api by /api/*
        GET /api/                    api by /api/*
        POST /api/orders             orders by /api/orders/*
        GET /api/orders              orders by /api/orders
        DELETE /api/orders/7/items   orders by /api/orders/*
        DELETE /api/carts            all by /*
        GET /apis                    all by /*
        GET shop.example/api         api by /api
        GET shop.example/api/orders  shop by /*
        PUT shop.example/api         all by /*
        BREW /coffee                 all by /*
        GET /function/api            api by name, rest ""
        GET /function/api/a/b        api by name, rest "/a/b"
        GET /function/apj            no function apj, near Some(api)
        GET /function/unheard-of     no function unheard-of, near None
        GET /function/               no function , near None
        GET /function                all by /*
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_method_nobody_takes_is_told_which_are() {
    let table = RouteTable::new(&state(&[
        ("reader", &["GET,HEAD /a"]),
        ("writer", &["POST /a", "PUT /b"]),
        ("below", &["DELETE /a/*"]),
    ]));
    assert_eq!(show(&table, "PATCH /a"), "not allowed, but GET, HEAD, POST, DELETE");
    assert_eq!(show(&table, "BREW /b"), "not allowed, but PUT");
    assert_eq!(show(&table, "GET /c"), "not found");
}

#[test]
fn a_function_is_live_once_one_of_its_revisions_has_proved_itself() {
    let name: FunctionName = "resize".parse().unwrap();
    let mut state = state(&[("resize", &[])]);
    let live = |state: &State| RouteTable::new(state).function("resize").unwrap().live.clone();
    let spec = spec();
    let revision = Revision { spec, created_at: Timestamp::default(), status: RevisionStatus::Pending };
    let function = state.functions.get_mut(&name).unwrap();
    function.revisions.insert(RevisionNumber(1), revision);
    function.candidate = Some(RevisionNumber(1));
    assert_eq!(live(&state), Live::Starting);
    let id = RevisionId { function: name, number: RevisionNumber(1) };
    let mut failed = state.clone();
    failed.apps.insert("shop".parse().unwrap(), crate::state::App { index: 1, deployed_at: Timestamp::default() });
    let mut proved = failed.clone();
    let reason = "no handler".to_owned();
    failed.apply(Timestamp::default(), Command::FailRevision { revision: id.clone(), reason: reason.clone() }).unwrap();
    assert_eq!(live(&failed), Live::Failed(reason));
    proved.apply(Timestamp::default(), Command::Promote { revision: id.clone() }).unwrap();
    let served = Served { id, runtime: Runtime::Http, timeout: Duration::from_secs(30) };
    let expected = Live::Revision(served);
    assert_eq!(live(&proved), expected);
}

fn spec() -> crate::model::RevisionSpec {
    use crate::model::{Concurrency, Constraints, Network, Resources, RevisionSpec};
    RevisionSpec {
        runtime: Runtime::Http,
        image: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        handler: None,
        command: Vec::new(),
        environment: BTreeMap::new(),
        resources: Resources::default(),
        timeout: Duration::from_secs(30),
        concurrency: Concurrency::ONE,
        network: Network::None,
        user: Some(1000),
        placement: Constraints::default(),
    }
}

/// Searches as one would on paper: every trigger that takes the request, the most specific of them.
fn by_hand(state: &State, host: &str, method: Option<Method>, path: &str) -> Option<FunctionName> {
    let mut taking = Vec::new();
    for (name, function) in &state.functions {
        for Trigger::Http(trigger) in &function.triggers {
            let takes_method = trigger.methods.is_empty() || method.is_some_and(|m| trigger.methods.contains(&m));
            if takes_method && trigger.path.matches(path) && trigger.host.as_deref().is_none_or(|own| own == host) {
                let is_prefix = trigger.path.as_str().ends_with("/*");
                let length = trigger.path.as_str().len();
                // Listing a method is more specific than taking every one.
                let rank = (trigger.host.is_none(), is_prefix, usize::MAX - length, trigger.methods.is_empty());
                taking.push((rank, name.clone()));
            }
        }
    }
    taking.into_iter().min().map(|(_, name)| name)
}

fn pattern() -> impl Strategy<Value = PathPattern> {
    "(/[ab]){0,3}(/|/\\*)?".prop_filter_map("not every text is a pattern", |text| text.parse().ok())
}

prop_compose! {
    fn any_trigger()(
        host in prop::option::of("[xy]"),
        path in pattern(),
        methods in prop::sample::subsequence(vec![Method::Get, Method::Post], 0..=2),
    ) -> HttpTrigger {
        HttpTrigger { host, path, methods }
    }
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_search_by_hand(
        triggers in prop::collection::vec(prop::collection::vec(any_trigger(), 0..4), 1..5),
        requests in prop::collection::vec(("[xyz]", prop::sample::select(vec!["GET", "POST", "BREW"]), "(/[ab]){0,4}/?"), 20),
    ) {
        let names = ["a", "b", "c", "d"];
        let functions: Vec<(&str, &[&str])> = names.iter().take(triggers.len()).map(|name| (*name, &[][..])).collect();
        let mut state = state(&functions);
        for (name, triggers) in names.iter().zip(triggers) {
            let name: FunctionName = name.parse().unwrap();
            state.functions.get_mut(&name).unwrap().triggers = triggers.into_iter().map(Trigger::Http).collect();
        }
        let table = RouteTable::new(&state);
        for (host, method, path) in &requests {
            let method = method.parse().ok();
            let found = match table.find(host, method, path) {
                Route::Found(found) => Some(found.target.function.clone()),
                Route::MethodNotAllowed { allowed } => {
                    prop_assert!(allowed.iter().all(|allowed| by_hand(&state, host, Some(allowed), path).is_some()));
                    prop_assert!(allowed.iter().count() > 0);
                    None
                }
                Route::NoFunction { .. } | Route::NotFound => None,
            };
            prop_assert_eq!(found, by_hand(&state, host, method, path), "{} {:?} {}", host, method, path);
        }
    }

    #[test]
    fn any_path_gets_an_answer(host in ".{0,20}", path in ".{0,60}") {
        let table = RouteTable::new(&state(&[("a", &["* /*"]), ("b", &["GET /a/b/*"])]));
        let _ = table.find(&host, Some(Method::Get), &path);
        let _ = table.find(&host, None, &format!("{BY_NAME}{path}"));
        let _ = table.nearest(&path);
    }
}
