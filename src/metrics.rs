//! Every metric on one page: name, unit, labels, buckets.
//!
//! No label ever holds an image id, a filter spec or a host: the number of series is fixed by the code and the config.

mod describe;
mod own;

use std::{fmt::Write as _, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry, Unit},
};
use tracing_appender::non_blocking::ErrorCounter;

use self::own::{DroppedLines, RequestSeconds};
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
        struct $name { $(
            $field: String
        ),+ }
    };
}

label!(
    /// How a render ended, and the output format.
    RenderLabels { outcome, format }
);
label!(
    /// A part of a render: `queue`, `probe`, `look`, `decode`, `resample`, `encode`, `store`.
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

/// All metrics. Cheap to share; every field may be touched from any thread.
#[derive(Debug)]
pub struct Metrics {
    requests: [Counter; Outcome::ALL.len()],
    request_seconds: RequestSeconds,
    renders: Family<RenderLabels, Counter>,
    render_seconds: Family<StageLabel, Histogram, fn() -> Histogram>,
    /// `sendimage_render_queue_depth`: jobs that wait for a worker.
    pub render_queue_depth: Gauge,
    /// `sendimage_render_memory_bytes`: bytes reserved by running renders.
    pub render_memory_bytes: Gauge,
    workers_died: Family<CauseLabel, Counter>,
    store_errors: Family<KindLabel, Counter>,
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
    source_errors: Family<ClassLabel, Counter>,
    /// `sendimage_catalogue_seconds`: time of one catalogue look-up that was not answered from the cache.
    pub catalogue_seconds: Histogram,
    leases: Family<OutcomeLabel, Counter>,
    /// `sendimage_coordination_up`: whether the last question to the coordinator had an answer.
    pub coordination_up: Gauge,
    /// `sendimage_catalogue_up`: 1 where the last look-up or probe had an answer, and before the first; else 0.
    pub catalogue_up: Gauge,
    /// `sendimage_config_reload_failed_total`: changed configs that were not usable.
    pub config_reload_failed: Counter,
    log_dropped: DroppedLines,
    auth: [Counter; AuthOutcome::ALL.len()],
    ops_calls: Family<CallLabels, Counter>,
    page_logins: Family<OutcomeLabel, Counter>,
    purged_files: Counter,
    warmed: Family<OutcomeLabel, Counter>,
    key_uses: Family<KeyLabel, Counter>,
    registry: Registry,
}

/// Registers a metric that begins at nothing.
fn added<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a metric with a unit, which ends its name.
fn added_in<M: Metric + Clone>(registry: &mut Registry, unit: Unit, name: &str, help: &str, metric: M) -> M {
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

/// A counter for each outcome. The hit path must not look a label up: each is taken out of the family once.
fn each<const N: usize>(family: &Family<OutcomeLabel, Counter>, outcomes: [&str; N]) -> [Counter; N] {
    outcomes.map(|outcome| family.get_or_create_owned(&OutcomeLabel { outcome: outcome.into() }))
}

impl Metrics {
    /// A fresh set, all at zero, in the order of the exposition.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sendimage");
        let stages: Family<StageLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 16)));
        let metrics = Self {
            requests: each(
                &added(&mut registry, "requests", "Image requests by outcome"),
                Outcome::ALL.map(Outcome::name),
            ),
            request_seconds: added_in(
                &mut registry,
                Unit::Seconds,
                "request",
                "Time from a request's head to its answer's head: 20 buckets, the first to 50 microseconds, each twice the one before",
                RequestSeconds::default(),
            ),
            renders: added(
                &mut registry,
                "renders",
                "Renders by how they ended (rendered, failed, unwanted) and by output format",
            ),
            render_seconds: added_in(
                &mut registry,
                Unit::Seconds,
                "render",
                "Time of each stage of a render (queue, probe, look, decode, resample, encode, store): 16 buckets, the first to half a \
                 millisecond, each twice the one before",
                stages,
            ),
            render_queue_depth: added(&mut registry, "render_queue_depth", "Jobs that wait for a render worker"),
            render_memory_bytes: added_in(
                &mut registry,
                Unit::Bytes,
                "render_memory",
                "Memory reserved by running renders",
                Gauge::default(),
            ),
            workers_died: added(
                &mut registry,
                "workers_died",
                "Render workers that ended, by cause: a signal, oom, exit, panic, protocol, deadline, recycled",
            ),
            store_errors: added(
                &mut registry,
                "store_errors",
                "Failed calls of the rendition store, by the kind of error: an errno (enospc, edquot, efbig, eio, erofs, eacces, eperm, emfile, enfile, estale, \
                 enoent, eisdir), s3_failed, s3_no_bucket, s3_denied, s3_busy, s3_unreachable, s3_timeout, or other",
            ),
            store_bytes: added_in(
                &mut registry,
                Unit::Bytes,
                "store",
                "Size of the stored renditions",
                Gauge::default(),
            ),
            store_files: added(&mut registry, "store_files", "Stored renditions"),
            store_free_bytes: added_in(
                &mut registry,
                Unit::Bytes,
                "store_free",
                "Room left in the store's file system",
                Gauge::default(),
            ),
            store_free_inodes: added(&mut registry, "store_free_inodes", "Inodes left in the store's file system"),
            store_over_budget: added(
                &mut registry,
                "store_over_budget",
                "Whether a bound is overstepped and nothing may go",
            ),
            store_index_up: added(&mut registry, "store_index_up", "Whether the store's index can be used"),
            store_index_complete: added(
                &mut registry,
                "store_index_complete",
                "Whether everything in the store was counted",
            ),
            store_evictions: added(
                &mut registry,
                "store_evictions",
                "Renditions evicted, by reason: max_bytes, max_files, min_free, min_free_inodes, max_idle, no_space",
            ),
            store_evicted_bytes: added(
                &mut registry,
                "store_evicted_bytes",
                "Bytes of evicted renditions, by the same reasons",
            ),
            source_errors: added(
                &mut registry,
                "source_errors",
                "Questions to a source without a good answer: unavailable, failed, timed_out, too_long, not_an_image",
            ),
            catalogue_seconds: added_in(
                &mut registry,
                Unit::Seconds,
                "catalogue",
                "Time of a catalogue look-up: 16 buckets, the first to 50 microseconds, each twice the one before",
                Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            ),
            leases: added(
                &mut registry,
                "leases",
                "Renders agreed on with other gates: led, waited, taken_over, late, alone",
            ),
            coordination_up: added(
                &mut registry,
                "coordination_up",
                "1 where the last question to the coordinator had an answer, else 0",
            ),
            catalogue_up: added(
                &mut registry,
                "catalogue_up",
                "1 where the catalogue's last look-up or probe had an answer, else 0",
            ),
            config_reload_failed: added(
                &mut registry,
                "config_reload_failed",
                "Changed configs that SIGHUP did not apply",
            ),
            log_dropped: added(&mut registry, "log_dropped", "Log lines dropped because nobody read them"),
            auth: each(
                &added(
                    &mut registry,
                    "auth",
                    "What was said about who asks, on routes that want to know: allowed, unauthenticated, forbidden, unavailable",
                ),
                AuthOutcome::ALL.map(AuthOutcome::name),
            ),
            ops_calls: added(
                &mut registry,
                "ops_calls",
                "Calls of the operations listener: done, refused, invalid, failed, left",
            ),
            page_logins: added(
                &mut registry,
                "page_logins",
                "Logins of the editors' page: done, wrong, too_many, too_old",
            ),
            purged_files: added(&mut registry, "purged_files", "Renditions removed by purges"),
            warmed: added(&mut registry, "warmed", "Renditions asked for ahead of time: created, present, failed"),
            key_uses: added(&mut registry, "key_uses", "Signatures that verified, by key id"),
            registry,
        };
        metrics.catalogue_up.set(1);
        metrics
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
        self.log_dropped.read(counter);
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
