//! `[tracing]`: where traces go.

use serde::Deserialize;

use super::{Config, auth::check_url};

/// `[tracing]`: traces of requests, by OTLP over HTTP. Builds with the feature `otel` have them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// The collector's whole URL, `http://127.0.0.1:4318/v1/traces`; without one there are no traces.
    pub endpoint: Option<String>,
    /// What the service is called in them.
    pub service_name: String,
    /// How many requests of a hundred are traced, of those that do not come as a part of a trace: the web server's
    /// `traceparent` says whether that one is recorded.
    pub sample_percent: f64,
}

impl Config {
    /// What is wrong with `[tracing]`, in a build that sends no traces too.
    pub(super) fn check_tracing(&self, problem: &mut impl FnMut(&str, String)) {
        if let Some(endpoint) = &self.tracing.endpoint {
            check_url("tracing.endpoint", endpoint, problem);
        }
        if !(0.0..=100.0).contains(&self.tracing.sample_percent) {
            problem("tracing.sample_percent", "is a share of a hundred requests: 0 to 100".into());
        }
    }
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { endpoint: None, service_name: "sendimage".into(), sample_percent: 100.0 }
    }
}
