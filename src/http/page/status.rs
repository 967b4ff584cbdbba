//! The status view: a few metrics over the last minutes, kept in memory by the process that counts them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hyper::Response;
use serde::Serialize;

use super::answer;
use crate::{app::App, offload::Body};

/// Between two samples.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Samples kept: a quarter of an hour.
const SAMPLES: usize = 180;

/// What is sampled: the name in the answer, and the beginning of the lines of `/metrics` whose values are added up. One that this
/// version does not have is left out.
const SERIES: [(&str, &str); 12] = [
    ("hit", "sendimage_requests_total{outcome=\"hit\"}"),
    ("not_modified", "sendimage_requests_total{outcome=\"not_modified\"}"),
    ("rendered", "sendimage_requests_total{outcome=\"rendered\"}"),
    ("joined", "sendimage_requests_total{outcome=\"joined\"}"),
    ("refused", "sendimage_requests_total{outcome=\"refused\"}"),
    ("failed", "sendimage_requests_total{outcome=\"failed\"}"),
    ("overloaded", "sendimage_requests_total{outcome=\"overloaded\"}"),
    ("renders", "sendimage_renders_total"),
    ("queue", "sendimage_render_queue_depth"),
    ("memory", "sendimage_render_memory_bytes"),
    ("store", "sendimage_store_bytes"),
    ("evictions", "sendimage_store_evictions_total"),
];

/// One look at the metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Sample {
    /// Unix seconds.
    at: f64,
    values: BTreeMap<&'static str, f64>,
}

impl Sample {
    fn of(exposed: &str, now: SystemTime) -> Self {
        let mut values = BTreeMap::new();
        for line in exposed.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let named =
                |text: &str| series.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
            let Some((name, _)) = SERIES.iter().find(|(_, text)| named(text)) else { continue };
            *values.entry(*name).or_insert(0.0) += value.parse::<f64>().unwrap_or(0.0);
        }
        Self { at: now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(), values }
    }
}

/// The last samples.
#[derive(Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    pub fn sample(&self, app: &App) {
        let sample = Sample::of(&app.metrics.expose(), SystemTime::now());
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    pub fn answer(&self) -> Response<Body> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answer::json(&serde_json::json!({ "interval": INTERVAL.as_secs(), "samples": &*samples }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, Outcome};

    #[test]
    fn metrics_are_read_as_they_are_written() {
        let metrics = Metrics::new();
        metrics.request(Outcome::Hit, Duration::from_millis(1));
        metrics.render("rendered", "webp");
        metrics.render("failed", "jpeg");
        metrics.render_queue_depth.set(3);
        let sample = Sample::of(&metrics.expose(), SystemTime::UNIX_EPOCH);
        for (name, value) in [("hit", 1.0), ("refused", 0.0), ("renders", 2.0), ("queue", 3.0), ("memory", 0.0)] {
            assert_eq!(sample.values.get(name), Some(&value), "{name}: {sample:?}");
        }
    }
}
