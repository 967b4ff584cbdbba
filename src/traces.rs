//! Traces of requests: spans that nobody makes unless a collector is configured.
//!
//! The spans have a target of their own, which the log does not listen to. Without a collector each costs one look at a number that
//! was settled when its place in the code was first passed, and a hit has none but the request's.

#[cfg(feature = "otel")]
mod export;

use hyper::{HeaderMap, Method};
use tracing::Span;

use crate::render::StageTimes;

#[cfg(feature = "otel")]
pub use export::{ExportError, Exporter, layer};

/// Whether anybody wants spans.
pub fn are_wanted() -> bool {
    tracing::enabled!(target: "traces", tracing::Level::INFO)
}

/// The span of a request: a part of the trace that `traceparent` (W3C Trace Context) names, else the first of a new one.
pub fn request(method: &Method, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        target: "traces",
        "request",
        otel.kind = "server",
        http.request.method = %method,
        http.response.status_code = tracing::field::Empty,
        request.id = tracing::field::Empty,
    );
    #[cfg(feature = "otel")]
    export::set_parent(&span, headers);
    #[cfg(not(feature = "otel"))]
    let _ = headers;
    span
}

/// A part of a request: `catalogue`, `find`, `render`, `store`.
macro_rules! part {
    ($name:literal) => {
        tracing::info_span!(target: "traces", $name)
    };
}
pub(crate) use part;

/// The stages of a render that has just ended, within its span. A worker says how long each took; what is left before them is the
/// wait for a worker.
pub fn stages(render: &Span, times: &StageTimes) {
    #[cfg(feature = "otel")]
    export::stages(render, times);
    #[cfg(not(feature = "otel"))]
    let _ = (render, times);
}
