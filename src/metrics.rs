//! Every metric on one page: name, unit, labels, buckets.
//!
//! No label ever holds an image id, a filter spec or a host: the number of series is fixed by the code and the config.

mod describe;

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tracing_appender::non_blocking::ErrorCounter;

pub use describe::{Described, describe};

/// How a request ended: the label of `sendimage_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rendition was in the store.
    Hit,
    /// This request led its render.
    Rendered,
    /// This request waited for another's render.
    Joined,
    /// 304.
    NotModified,
    /// 401 or 403.
    Refused,
    /// 400 or 405: the request itself is wrong.
    Invalid,
    /// 404 or 410.
    Missing,
    /// 422, 502 or 504, or an error of our own.
    Failed,
    /// 503.
    Overloaded,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::Rendered,
        Self::Joined,
        Self::NotModified,
        Self::Refused,
        Self::Invalid,
        Self::Missing,
        Self::Failed,
        Self::Overloaded,
    ];

    /// The label's value, also used in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Rendered => "rendered",
            Self::Joined => "joined",
            Self::NotModified => "not_modified",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Missing => "missing",
            Self::Failed => "failed",
            Self::Overloaded => "overloaded",
        }
    }
}

/// What was said about who asks: the label of `sendimage_auth_total`. Requests of routes that ask nobody are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthOutcome {
    /// They may see it.
    Allowed,
    /// 401: no token, a bad one, or the site's own 401.
    Unauthenticated,
    /// 403: the token does not allow this image, or the site says no.
    Forbidden,
    /// 503: nobody could tell.
    Unavailable,
}

impl AuthOutcome {
    const ALL: [Self; 4] = [Self::Allowed, Self::Unauthenticated, Self::Forbidden, Self::Unavailable];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One label with a name fixed at compile time.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name { $(
            /// The label's value.
            pub $field: String
        ),+ }
    };
}

label!(
    /// How a render ended, and the output format.
    RenderLabels { outcome, format }
);
label!(
    /// A part of a render: `queue`, `probe`, `decode`, `resample`, `encode`, `store`.
    StageLabel { stage }
);
label!(
    /// Why a worker died: a signal's name, `oom`, `exit`, `panic`, `protocol`, `deadline`, `recycled`.
    CauseLabel { cause }
);
label!(
    /// A kind of store error: the errno's name in lower case, or `other`.
    KindLabel { kind }
);
label!(
    /// What went wrong with a source: see [`SourceError::class`](crate::source::SourceError::class).
    ClassLabel { class }
);
label!(
    /// A call of the operations listener, and how it ended: `done`, `refused`, `invalid`, `failed`, `left`.
    CallLabels { call, outcome }
);
label!(
    /// A signing key's id.
    KeyLabel { key }
);
label!(
    /// Why a rendition was evicted: `max_bytes`, `max_files`, `min_free`, `min_free_inodes`, `max_idle`, `no_space`.
    ReasonLabel { reason }
);
label!(
    /// A request's outcome.
    OutcomeLabel { outcome }
);

/// The time of requests. Every hit is counted here, and the library's histogram would make them take turns at a lock.
#[derive(Clone, Debug, Default)]
struct RequestSeconds(Arc<RequestCounts>);

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

    fn observe(&self, duration: Duration) {
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
struct DroppedLines(Arc<OnceLock<ErrorCounter>>);

impl EncodeMetric for DroppedLines {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let dropped = self.0.get().map_or(0, ErrorCounter::dropped_lines);
        encoder.encode_counter::<NoLabelSet, _, u64>(&(dropped as u64), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// All metrics. Cheap to share; every field may be touched from any thread.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: [Counter; Outcome::ALL.len()],
    auth: [Counter; AuthOutcome::ALL.len()],
    request_seconds: RequestSeconds,
    log_dropped: DroppedLines,
    /// `sendimage_renders_total{outcome,format}`: renders by how they ended.
    pub renders: Family<RenderLabels, Counter>,
    render_seconds: Family<StageLabel, Histogram, fn() -> Histogram>,
    /// `sendimage_render_queue_depth`: jobs that wait for a worker.
    pub render_queue_depth: Gauge,
    /// `sendimage_render_memory_bytes`: bytes reserved by running renders.
    pub render_memory_bytes: Gauge,
    /// `sendimage_workers_died_total{cause}`.
    pub workers_died: Family<CauseLabel, Counter>,
    /// `sendimage_store_errors_total{kind}`.
    pub store_errors: Family<KindLabel, Counter>,
    /// `sendimage_store_bytes`: what the renditions of a folder take, by the store's index.
    pub store_bytes: Gauge,
    /// `sendimage_store_files`: how many there are.
    pub store_files: Gauge,
    /// `sendimage_store_free_bytes`: what the store's file system has left.
    pub store_free_bytes: Gauge,
    /// `sendimage_store_free_inodes`.
    pub store_free_inodes: Gauge,
    /// `sendimage_store_over_budget`: 1 while a bound is overstepped and nothing may go.
    pub store_over_budget: Gauge,
    /// `sendimage_store_index_up`: whether the store's index can be used.
    pub store_index_up: Gauge,
    /// `sendimage_store_index_complete`: whether everything in the store was counted.
    pub store_index_complete: Gauge,
    store_evictions: Family<ReasonLabel, Counter>,
    store_evicted_bytes: Family<ReasonLabel, Counter>,
    /// `sendimage_source_errors_total{class}`: questions to a source that had no good answer.
    pub source_errors: Family<ClassLabel, Counter>,
    /// `sendimage_catalogue_seconds`: time of one catalogue look-up that was not answered from the cache.
    pub catalogue_seconds: Histogram,
    /// `sendimage_leases_total{outcome}`: renders that several gates had to agree on: `led`, `waited`, `taken_over`, `late`, and
    /// `alone` without an answer.
    pub leases: Family<OutcomeLabel, Counter>,
    /// `sendimage_coordination_up`: whether the last question to the coordinator had an answer.
    pub coordination_up: Gauge,
    /// `sendimage_catalogue_up`: 1 where the last look-up or probe had an answer, and before the first; else 0.
    pub catalogue_up: Gauge,
    /// `sendimage_config_reload_failed_total`: changed configs that were not usable.
    pub config_reload_failed: Counter,
    /// `sendimage_ops_calls_total{call,outcome}`: `sign`, `purge` and `warm`, by how they ended.
    pub ops_calls: Family<CallLabels, Counter>,
    /// `sendimage_page_logins_total{outcome}`: logins of the editors' page: `done`, `wrong`, `too_many`, `too_old`.
    pub page_logins: Family<OutcomeLabel, Counter>,
    /// `sendimage_purged_files_total`: renditions removed by purges.
    pub purged_files: Counter,
    /// `sendimage_warmed_total{outcome}`: renditions asked for ahead of time: `created`, `present`, `failed`.
    pub warmed: Family<OutcomeLabel, Counter>,
    /// `sendimage_key_uses_total{key}`: signatures that verified, by key id.
    pub key_uses: Family<KeyLabel, Counter>,
}

impl Metrics {
    /// A fresh set, all at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sendimage");

        let by_outcome = Family::<OutcomeLabel, Counter>::default();
        // The hit path must not look a label up: each outcome's counter is taken out of the family once.
        let requests = Outcome::ALL
            .map(|outcome| by_outcome.get_or_create_owned(&OutcomeLabel { outcome: outcome.name().into() }));
        let auth_by_outcome = Family::<OutcomeLabel, Counter>::default();
        let auth = AuthOutcome::ALL
            .map(|outcome| auth_by_outcome.get_or_create_owned(&OutcomeLabel { outcome: outcome.name().into() }));
        let request_seconds = RequestSeconds::default();
        let renders = Family::default();
        let render_seconds: Family<StageLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 16)));
        let catalogue_seconds = Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let metrics = Self {
            requests,
            auth,
            request_seconds: request_seconds.clone(),
            log_dropped: DroppedLines::default(),
            renders,
            render_seconds,
            render_queue_depth: Gauge::default(),
            render_memory_bytes: Gauge::default(),
            workers_died: Family::default(),
            store_errors: Family::default(),
            source_errors: Family::default(),
            store_bytes: Gauge::default(),
            store_files: Gauge::default(),
            store_free_bytes: Gauge::default(),
            store_free_inodes: Gauge::default(),
            store_over_budget: Gauge::default(),
            store_index_up: Gauge::default(),
            store_index_complete: Gauge::default(),
            store_evictions: Family::default(),
            store_evicted_bytes: Family::default(),
            catalogue_seconds,
            leases: Family::default(),
            coordination_up: Gauge::default(),
            catalogue_up: Gauge::default(),
            config_reload_failed: Counter::default(),
            ops_calls: Family::default(),
            page_logins: Family::default(),
            purged_files: Counter::default(),
            warmed: Family::default(),
            key_uses: Family::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Image requests by outcome", by_outcome);
        registry.register_with_unit(
            "request",
            "Time from a request's head to its answer's head",
            Unit::Seconds,
            request_seconds,
        );
        registry.register("renders", "Renders by how they ended and by output format", metrics.renders.clone());
        registry.register_with_unit(
            "render",
            "Time of each stage of a render: queue, probe, look, decode, resample, encode, store",
            Unit::Seconds,
            metrics.render_seconds.clone(),
        );
        registry.register(
            "render_queue_depth",
            "Jobs that wait for a render worker",
            metrics.render_queue_depth.clone(),
        );
        registry.register_with_unit(
            "render_memory",
            "Memory reserved by running renders",
            Unit::Bytes,
            metrics.render_memory_bytes.clone(),
        );
        registry.register(
            "workers_died",
            "Render workers that ended, by cause: a signal, oom, exit, panic, protocol, deadline, recycled",
            metrics.workers_died.clone(),
        );
        registry.register(
            "store_errors",
            "Failed calls of the rendition store, by the kind of error",
            metrics.store_errors.clone(),
        );
        metrics.register_store(&mut registry);
        registry.register(
            "source_errors",
            "Questions to a source without a good answer: unavailable, failed, timed_out, too_long, not_an_image",
            metrics.source_errors.clone(),
        );
        registry.register_with_unit(
            "catalogue",
            "Time of a catalogue look-up",
            Unit::Seconds,
            metrics.catalogue_seconds.clone(),
        );
        registry.register(
            "leases",
            "Renders agreed on with other gates: led, waited, taken_over, late, alone",
            metrics.leases.clone(),
        );
        registry.register(
            "coordination_up",
            "1 where the last question to the coordinator had an answer, else 0",
            metrics.coordination_up.clone(),
        );
        metrics.catalogue_up.set(1);
        registry.register(
            "catalogue_up",
            "1 where the catalogue's last look-up or probe had an answer, else 0",
            metrics.catalogue_up.clone(),
        );
        registry.register(
            "config_reload_failed",
            "Changed configs that SIGHUP did not apply",
            metrics.config_reload_failed.clone(),
        );
        registry.register("log_dropped", "Log lines dropped because nobody read them", metrics.log_dropped.clone());
        registry.register("auth", "What was said about who asks, on routes that want to know", auth_by_outcome);
        registry.register(
            "ops_calls",
            "Calls of the operations listener: done, refused, invalid, failed, left",
            metrics.ops_calls.clone(),
        );
        registry.register(
            "page_logins",
            "Logins of the editors' page: done, wrong, too_many, too_old",
            metrics.page_logins.clone(),
        );
        registry.register("purged_files", "Renditions removed by purges", metrics.purged_files.clone());
        registry.register(
            "warmed",
            "Renditions asked for ahead of time: created, present, failed",
            metrics.warmed.clone(),
        );
        registry.register("key_uses", "Signatures that verified, by key id", metrics.key_uses.clone());
        Self { registry, ..metrics }
    }

    /// What a folder of renditions holds, and what became of it.
    fn register_store(&self, registry: &mut Registry) {
        registry.register_with_unit("store", "Size of the stored renditions", Unit::Bytes, self.store_bytes.clone());
        registry.register("store_files", "Stored renditions", self.store_files.clone());
        let free = self.store_free_bytes.clone();
        registry.register_with_unit("store_free", "Room left in the store's file system", Unit::Bytes, free);
        registry.register(
            "store_free_inodes",
            "Inodes left in the store's file system",
            self.store_free_inodes.clone(),
        );
        registry.register(
            "store_over_budget",
            "Whether a bound is overstepped and nothing may go",
            self.store_over_budget.clone(),
        );
        registry.register("store_index_up", "Whether the store's index can be used", self.store_index_up.clone());
        registry.register(
            "store_index_complete",
            "Whether everything in the store was counted",
            self.store_index_complete.clone(),
        );
        registry.register("store_evictions", "Renditions evicted, by reason", self.store_evictions.clone());
        registry.register(
            "store_evicted_bytes",
            "Bytes of evicted renditions, by reason",
            self.store_evicted_bytes.clone(),
        );
    }

    /// Counts renditions that had to go.
    pub fn evicted(&self, reason: &str, files: u64, bytes: u64) {
        let label = ReasonLabel { reason: reason.into() };
        self.store_evictions.get_or_create(&label).inc_by(files);
        self.store_evicted_bytes.get_or_create(&label).inc_by(bytes);
    }

    /// Lets the log's own counter be read here (`sendimage_log_dropped_total`).
    pub fn count_dropped_lines(&self, counter: ErrorCounter) {
        // A second log in one process (the tests') changes nothing.
        let _ = self.log_dropped.0.set(counter);
    }

    /// Counts one answered request.
    pub fn request(&self, outcome: Outcome, duration: Duration) {
        self.requests[outcome as usize].inc();
        self.request_seconds.observe(duration);
    }

    /// Counts what was said about who asks.
    pub fn auth(&self, outcome: AuthOutcome) {
        self.auth[outcome as usize].inc();
    }

    /// Notes how long a stage of a render took.
    pub fn render_stage(&self, stage: &str, duration: Duration) {
        self.render_seconds.get_or_create(&StageLabel { stage: stage.into() }).observe(duration.as_secs_f64());
    }

    /// Counts a worker's end.
    pub fn worker_died(&self, cause: &str) {
        self.workers_died.get_or_create(&CauseLabel { cause: cause.into() }).inc();
    }

    /// Counts a failed call of the store.
    pub fn store_error(&self, kind: &str) {
        self.store_errors.get_or_create(&KindLabel { kind: kind.into() }).inc();
    }

    /// Counts how a render was agreed on with other gates.
    pub fn lease(&self, outcome: &str) {
        self.leases.get_or_create(&OutcomeLabel { outcome: outcome.into() }).inc();
    }

    /// Counts a question to a source that had no good answer.
    pub fn source_error(&self, class: &str) {
        self.source_errors.get_or_create(&ClassLabel { class: class.into() }).inc();
    }

    /// The counter of one signing key's uses, taken out of its family once.
    pub fn key_counter(&self, key: &str) -> Counter {
        self.key_uses.get_or_create_owned(&KeyLabel { key: key.into() })
    }

    /// Counts a call of the operations listener.
    pub fn ops_call(&self, call: &str, outcome: &str) {
        self.ops_calls.get_or_create(&CallLabels { call: call.into(), outcome: outcome.into() }).inc();
    }

    /// Counts a login of the editors' page.
    pub fn page_login(&self, outcome: &str) {
        self.page_logins.get_or_create(&OutcomeLabel { outcome: outcome.into() }).inc();
    }

    /// Counts renditions that a purge has removed.
    pub fn purged(&self, files: u64) {
        self.purged_files.inc_by(files);
    }

    /// Counts renditions that were asked for ahead of time.
    pub fn warmed(&self, outcome: &str, renditions: u64) {
        self.warmed.get_or_create(&OutcomeLabel { outcome: outcome.into() }).inc_by(renditions);
    }

    /// Counts a render's end.
    pub fn render(&self, outcome: &str, format: &str) {
        self.renders.get_or_create(&RenderLabels { outcome: outcome.into(), format: format.into() }).inc();
    }

    /// The exposition text that `/metrics` answers (OpenMetrics 1.0).
    pub fn expose(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            let _ = write!(text, "# the metrics could not be written"); // writing to a String cannot fail
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn names_and_labels_are_the_public_ones() {
        let metrics = Metrics::new();
        metrics.request(Outcome::Hit, Duration::from_millis(1));
        metrics.worker_died("SIGKILL");
        metrics.render("rendered", "jpeg");
        metrics.render_stage("decode", Duration::from_millis(3));
        let text = metrics.expose();
        for line in [
            "sendimage_requests_total{outcome=\"hit\"} 1",
            "sendimage_requests_total{outcome=\"overloaded\"} 0",
            "sendimage_request_seconds_count 1",
            "sendimage_renders_total{outcome=\"rendered\",format=\"jpeg\"} 1",
            "sendimage_render_seconds_count{stage=\"decode\"} 1",
            "sendimage_catalogue_up 1",
            "sendimage_render_queue_depth 0",
            "sendimage_render_memory_bytes 0",
            "sendimage_workers_died_total{cause=\"SIGKILL\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
