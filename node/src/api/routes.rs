//! Which request is answered by what: the one table of paths and methods.

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use proto::json::ErrorCode;

use super::error::Refusal;
use super::{Api, app, cluster, function, image, log, node, snapshot};
use crate::auth::{Denial, Door};

/// One path with one method.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// What it is for, as the description of the API tells it.
    #[cfg_attr(not(test), expect(dead_code, reason = "the description of the API is made in a test"))]
    pub(super) summary: &'static str,
    handler: fn(MethodFilter) -> MethodRouter<Api>,
}

macro_rules! routes {
    ($($method:ident $path:literal $summary:literal $handler:path;)+) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            summary: $summary,
            handler: |filter| MethodRouter::new().on(filter, $handler),
        }),+]
    };
}

/// Every route.
pub(super) const ROUTES: &[Route] = routes! {
    GET "/v1/version" "Tells what answers" node::version;
    GET "/v1/openapi.json" "Describes this API" node::openapi;
    GET "/v1/apps" "Lists the apps" app::list;
    GET "/v1/apps/{app}" "Returns an app" app::get;
    PUT "/v1/apps/{app}" "Deploys an app: a stream of DeployEvent" app::deploy;
    DELETE "/v1/apps/{app}" "Deletes an app and its functions" app::delete;
    POST "/v1/apps/{app}/plan" "Tells what a deployment would change" app::plan;
    POST "/v1/apps/{app}/functions/{function}/build" "Builds the image of a function from a tar of its source: a stream of ImageEvent" image::build;
    GET "/v1/functions" "Lists the functions" function::list;
    GET "/v1/functions/{function}" "Returns a function" function::get;
    DELETE "/v1/functions/{function}" "Deletes a function" function::delete;
    GET "/v1/functions/{function}/versions" "Lists the revisions of a function, newest first" function::versions;
    POST "/v1/functions/{function}/rollback" "Makes an earlier revision live" function::rollback;
    PUT "/v1/functions/{function}/scale" "Changes how a function scales" function::scale;
    POST "/v1/functions/{function}/invoke" "Calls a function with an event" function::invoke;
    GET "/v1/functions/{function}/logs" "Returns what a function wrote: a stream of LogLine" log::logs;
    GET "/v1/instances" "Lists the instances" node::instances;
    GET "/v1/nodes" "Lists the nodes" node::nodes;
    DELETE "/v1/nodes/{node}" "Takes a node out of the cluster" cluster::remove;
    PUT "/v1/nodes/{node}/drain" "Empties a node, or lets it take work again" cluster::drain;
    PUT "/v1/nodes/{node}/labels" "Sets labels on a node, or takes them back" cluster::label;
    POST "/v1/nodes/{node}/promote" "Wants a node to vote" cluster::promote;
    GET "/v1/cluster" "Tells who belongs to the cluster, and who leads" cluster::get;
    POST "/v1/cluster/transfer-leader" "Lets another voter lead" cluster::transfer;
    POST "/v1/tokens" "Makes a join token" cluster::token;
    GET "/v1/images" "Lists the images" image::list;
    POST "/v1/images/pull" "Fetches an image from a registry: a stream of ImageEvent" image::pull;
    POST "/v1/images/import" "Imports an OCI layout from a tar of it: a stream of ImageEvent" image::import;
    POST "/v1/images/capture" "Makes a base image of what the machine has: a stream of ImageEvent" image::capture;
    POST "/v1/images/gc" "Deletes images that nothing refers to" image::gc;
    GET "/v1/snapshot" "Returns a backup of what users have defined" snapshot::save;
    PUT "/v1/snapshot" "Restores a backup into a cluster where nothing was ever deployed" snapshot::restore;
    GET "/v1/events" "Lists what happened lately, oldest first" node::events;
    GET "/metrics" "Returns what is counted, for Prometheus" node::metrics;
    GET "/healthz" "Answers while the process can" node::health;
    GET "/readyz" "Tells whether the node serves, and what it waits for" node::readiness;
};

/// Returns the routes behind one door.
pub(super) fn router(api: Api, door: Door) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let filter = MethodFilter::try_from(route.method.clone()).expect("the table holds methods of HTTP");
        router = router.route(route.path, (route.handler)(filter));
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state((api.clone(), door), enter))
        .with_state(api)
}

/// Lets a request in if it may come: what is not below `/v1` is open, because monitoring has no token.
async fn enter(State((api, door)): State<(Api, Door)>, mut request: Request, next: Next) -> Response {
    api.metrics.api_requests.inc();
    if request.uri().path().starts_with("/v1") {
        let shown = request.headers().get(AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
        if let Err(denial) = door.check(shown) {
            super::request::discard(request.body_mut()).await;
            let hint = match denial {
                Denial::Missing => "set HEARTH_TOKEN to what the file `token` in the node's data directory holds",
                Denial::Wrong => "compare HEARTH_TOKEN with the file `token` in the node's data directory",
            };
            return Refusal::new(ErrorCode::Unauthenticated, denial.to_string()).hint(hint).into_response();
        }
    }
    if !is_of_state(&request) {
        return next.run(request).await;
    }
    let is_stale = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == STALE));
    if !is_stale && let Err(refusal) = api.catch_up().await {
        return refusal
            .hint("`hearth cluster status` tells who is there; ?stale=1 answers with what this node knows")
            .into_response();
    }
    let mut response = next.run(request).await;
    let consistency = if is_stale { "stale" } else { "linearizable" };
    response.headers_mut().insert(CONSISTENCY, HeaderValue::from_static(consistency));
    response
}

/// Asks for what the node knows at this moment, which may lack what was acknowledged elsewhere.
const STALE: &str = "stale=1";

/// The response header that tells whether the answer holds all that was acknowledged before it was asked for.
const CONSISTENCY: HeaderName = HeaderName::from_static("x-hearth-consistency");

/// Returns whether a request reads what the cluster has agreed on.
fn is_of_state(request: &Request) -> bool {
    // The pattern, not the path: a function may be called `logs`.
    let Some(route) = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) else { return false };
    let is_read =
        ["/v1/apps", "/v1/functions", "/v1/nodes", "/v1/instances"].iter().any(|prefix| route.starts_with(prefix));
    *request.method() == Method::GET && is_read && !route.ends_with("/logs")
}

async fn unknown_path(uri: Uri) -> Refusal {
    Refusal::not_found(format!("there is no path {}", uri.path())).hint("GET /v1/openapi.json describes what there is")
}

async fn unknown_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(ErrorCode::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}
