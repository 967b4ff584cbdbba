//! The operations listener: health and metrics, and with `ops.token` also `sign`, `purge` and `warm`. Never public.

mod call;
mod failure;
mod purge;
mod sign;
mod warm;

use std::sync::Arc;

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};

use super::message::fixed;
use crate::{app::App, offload::Body};
use call::Call;

/// OpenMetrics 1.0, which Prometheus asks for and reads.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers `/health/live`, `/health/ready` and `/metrics`, and what [`Call`] has.
pub async fn answer_ops(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    // Without a token there are no calls, so that nobody can make any.
    if let Some(call) = Call::of(path)
        && let Some(token) = &app.ops_token
    {
        return call::answer(&app, call, token, request).await;
    }
    let known = matches!(path, "/health/live" | "/health/ready" | "/metrics");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        // The process answers: all that a supervisor may conclude a restart from.
        "/health/live" => text(StatusCode::OK, "alive\n".into()),
        "/health/ready" => ready(&app).await,
        "/metrics" => {
            let mut response = text(StatusCode::OK, app.metrics.expose());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "Not found\n".into()),
    }
}

/// 200 while requests can be answered; 503 while draining, or without a worker. What is merely degraded (a store that takes
/// no new files still serves hits) is said in the body and does not take the service out of rotation.
async fn ready(app: &App) -> Response<Body> {
    let report = app.readiness().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = text(status, serde_json::to_string_pretty(&report).unwrap_or_default() + "\n");
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = fixed(status, "text/plain; charset=utf-8", text);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
