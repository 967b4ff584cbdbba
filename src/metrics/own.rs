//! Metrics that the library has no kind for.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};
use tracing_appender::non_blocking::ErrorCounter;

/// The time of requests. Every hit is counted here, and the library's histogram would make them take turns at a lock.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestSeconds(Arc<RequestCounts>);

#[derive(Debug, Default)]
struct RequestCounts {
    sum_ns: AtomicU64,
    /// One for each bucket, and one for what is beyond the last.
    buckets: [AtomicU64; RequestSeconds::BUCKETS + 1],
}

impl RequestSeconds {
    /// 50 microseconds, doubled until 26 seconds.
    const BUCKETS: usize = 20;
    const FIRST_NS: u64 = 50_000;

    pub(super) fn observe(&self, duration: Duration) {
        let ns = duration.as_nanos() as u64;
        // The number of times that the first bound must be doubled: the bounds belong to their buckets.
        let bucket = (ns.saturating_sub(1) / Self::FIRST_NS).checked_ilog2().map_or(0, |log| log as usize + 1);
        self.0.buckets[bucket.min(Self::BUCKETS)].fetch_add(1, Relaxed);
        self.0.sum_ns.fetch_add(ns, Relaxed);
    }
}

impl EncodeMetric for RequestSeconds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = (0..Self::BUCKETS).map(|bucket| (Self::FIRST_NS << bucket) as f64 / 1e9).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.0.buckets.iter().map(|count| count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum_ns.load(Relaxed) as f64 / 1e9, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Log lines that nobody could be given: a number that the log's writer keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct DroppedLines(Arc<OnceLock<ErrorCounter>>);

impl DroppedLines {
    /// Reads this counter from now on. A second one changes nothing.
    pub(super) fn read(&self, counter: ErrorCounter) {
        let _ = self.0.set(counter);
    }
}

impl EncodeMetric for DroppedLines {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let dropped = self.0.get().map_or(0, ErrorCounter::dropped_lines);
        encoder.encode_counter::<NoLabelSet, _, u64>(&(dropped as u64), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::text::encode,
        metrics::histogram::{Histogram, exponential_buckets},
        registry::Registry,
    };

    use super::*;

    #[test]
    fn request_times_fall_in_the_buckets_that_the_library_would_choose() {
        let library = Histogram::new(exponential_buckets(0.000_05, 2.0, RequestSeconds::BUCKETS as u16));
        let ours = RequestSeconds::default();
        for ns in [0, 1, 49_999, 50_000, 50_001, 100_000, 100_001, 1_000_000, 26_214_400_000, 26_214_400_001, 1 << 40] {
            library.observe(Duration::from_nanos(ns).as_secs_f64());
            ours.observe(Duration::from_nanos(ns));
        }
        fn text(metric: impl prometheus_client::registry::Metric) -> String {
            let mut registry = Registry::default();
            registry.register("x", "x", metric);
            let mut text = String::new();
            encode(&mut text, &registry).expect("a string takes it");
            text
        }
        let (ours, library) = (text(ours), text(library));
        // The sums are floats, added up in another order.
        let counts =
            |text: &str| text.lines().filter(|line| !line.contains("sum")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(counts(&ours), counts(&library));
    }
}
