//! Traces on their way to a collector: OTLP, protobuf over HTTP, by the OpenTelemetry libraries.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{
    global,
    propagation::TextMapPropagator as _,
    trace::{Span as _, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use thiserror::Error;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, registry::LookupSpan};

use crate::{config::TracingConfig, remote::http_connector, render::StageTimes};

/// Longest time for one call of the collector; a batch that fails is dropped, and no request ever waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What is left is sent at the end, for so long.
const LAST: Duration = Duration::from_secs(2);
/// No answer of a collector is longer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Why there are no traces.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The endpoint cannot be used.
    #[error("tracing.endpoint: {0}")]
    Endpoint(String),
}

/// Traces are sent while this is kept.
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

impl Drop for Exporter {
    fn drop(&mut self) {
        // Whoever wanted the last spans and is away gets none.
        let _ = self.0.shutdown_with_timeout(LAST);
    }
}

/// What turns spans into traces and sends them, if the config names a collector.
///
/// # Errors
/// [`ExportError`] for a config that cannot be used. Whether the collector answers is not asked.
pub fn layer<S>(config: &TracingConfig) -> Result<Option<(impl Layer<S>, Exporter)>, ExportError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let Some(endpoint) = &config.endpoint else { return Ok(None) };
    let bad = |says: String| ExportError::Endpoint(says);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new(endpoint)?)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(TIMEOUT)
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| bad(error.to_string()))?;
    let share = Sampler::TraceIdRatioBased(config.sample_percent / 100.0);
    let resource = Resource::builder_empty()
        .with_service_name(config.service_name.clone())
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(share)))
        .with_resource(resource)
        .build();
    global::set_tracer_provider(provider.clone());
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("sendimage"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(tracing_subscriber::filter::filter_fn(|metadata| metadata.target() == "traces"));
    Ok(Some((layer, Exporter(provider))))
}

/// Makes a request's span a part of the trace that its headers name, if they name one.
pub(super) fn set_parent(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    if parent.span().span_context().is_valid() {
        // Refused for a span that nobody records.
        let _ = span.set_parent(parent);
    }
}

/// See [`super::stages`].
pub(super) fn stages(render: &Span, times: &StageTimes) {
    let context = render.context();
    if !context.span().span_context().is_sampled() {
        return;
    }
    let tracer = global::tracer("sendimage");
    let mut end = SystemTime::now();
    for (name, time) in [("encode", times.encode), ("resample", times.resample), ("decode", times.decode)] {
        let start = end.checked_sub(time).unwrap_or(end);
        tracer.span_builder(name).with_start_time(start).start_with_context(&tracer, &context).end_with_timestamp(end);
        end = start;
    }
}

/// The collector, as the library asks it. The library's own thread waits for the answers: the client lives on a runtime of that
/// thread, and the service's has nothing to do with it.
struct Collector {
    runtime: tokio::runtime::Runtime,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Collector {
    fn new(endpoint: &str) -> Result<Self, ExportError> {
        let is_https = endpoint.starts_with("https://");
        let connector = http_connector(is_https, TIMEOUT).map_err(|error| ExportError::Endpoint(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ExportError::Endpoint(error.to_string()))?;
        Ok(Self { runtime, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    async fn ask(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let ask = async {
            let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(TIMEOUT, ask).await?
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

impl HttpClient for Collector {
    // As #[async_trait] spells it.
    fn send_bytes<'this, 'call>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'call>>
    where
        'this: 'call,
        Self: 'call,
    {
        Box::pin(async move { self.runtime.block_on(self.ask(request)) })
    }
}
