//! Renders ahead of time.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet},
};

use super::Original;
use crate::{
    app::App,
    model::SourceImage,
    renditions::{EnsureError, How},
    spec::{Accepted, FilterSpec},
};

/// Renditions that one call may ask for.
pub const MAX_RENDITIONS: usize = 10_000;

/// Renditions under way at once, whoever asks for them: enough for the sizes of a photograph to share one decode, and few
/// enough to leave the queue to those who wait.
const MOST: usize = 8;
static PLACES: Semaphore = Semaphore::const_new(MOST);
/// How long a rendition waits for others than its own deadline lets it: clients go first, for as long as there are any.
const PATIENCE: Duration = Duration::from_secs(300);
/// Before the queue is asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// What a call has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmed {
    /// Renditions made.
    pub created: u64,
    /// Renditions that were there.
    pub present: u64,
    /// Those that there are none of, by reason.
    pub failed: BTreeMap<Cow<'static, str>, u64>,
    /// The first of them one by one, and of each reason at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

/// What there is no rendition of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The original.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The filter spec; `None` where the original itself was not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
    /// The word that it is counted by.
    pub reason: Cow<'static, str>,
    /// A sentence about it.
    pub says: String,
}

/// What a spec stands for: itself, or for `format-auto` what each kind of client gets.
pub fn tasks(spec: FilterSpec) -> Vec<FilterSpec> {
    if !spec.is_auto() {
        return vec![spec];
    }
    let (webp, avif) = (true, true);
    let kinds = [Accepted::default(), Accepted { webp, ..Accepted::default() }, Accepted { webp, avif }];
    kinds.map(|kind| spec.accepting(kind)).to_vec()
}

/// Makes the renditions that are not there, behind everything that a client waits for. A call that is dropped leaves what has
/// not begun.
pub async fn warm(app: &Arc<App>, originals: &[Original], tasks: &Arc<[FilterSpec]>) -> Warmed {
    let (mut warmed, mut under_way) = (Warmed::default(), JoinSet::new());
    for original in originals {
        // As many as are going to be under way: the sizes of one image wait in the queue together, and share its decode.
        let places = tasks.len().clamp(1, MOST) as u32;
        // Closed by nobody.
        let Ok(places) = PLACES.acquire_many(places).await else { break };
        let (app, original, tasks) = (app.clone(), original.clone(), tasks.clone());
        under_way.spawn(async move {
            let _places = places;
            warm_image(&app, &original, &tasks).await
        });
        while let Some(ended) = under_way.try_join_next() {
            warmed.join(ended);
        }
    }
    while let Some(ended) = under_way.join_next().await {
        warmed.join(ended);
    }
    app.metrics.warmed("created", warmed.created);
    app.metrics.warmed("present", warmed.present);
    app.metrics.warmed("failed", warmed.failed.values().sum());
    warmed
}

async fn warm_image(app: &App, original: &Original, tasks: &[FilterSpec]) -> Warmed {
    let mut warmed = Warmed::default();
    let mut not_found = |reason: &'static str, says: String| {
        warmed.fail(reason, tasks.len());
        let reference = original.reference().to_owned();
        warmed.failures.push(Failure { reference, spec: None, reason: reason.into(), says });
    };
    let image = match original.find(app).await {
        Ok(Some(image)) => image,
        Ok(None) => {
            not_found("unknown", "neither a row of the catalogue nor a file of a source that there is".into());
            return warmed;
        }
        Err(error) => {
            tracing::info!(reason = %error, "an image was not rendered ahead");
            not_found("catalogue", error.to_string());
            return warmed;
        }
    };
    let mut each = Vec::with_capacity(tasks.len());
    for spec in tasks {
        let image = &image;
        each.push(async move { (spec, warm_one(app, image, spec).await) });
    }
    let mut each = stream::iter(each).buffer_unordered(MOST);
    while let Some((spec, result)) = each.next().await {
        warmed.count(original, spec, result);
    }
    warmed
}

async fn warm_one(app: &App, image: &SourceImage, spec: &FilterSpec) -> Result<How, EnsureError> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match app.renditions.warm(image, spec).await {
            Ok(ensured) => return Ok(ensured.how),
            // The queue is full of what somebody waits for.
            Err(EnsureError::PoolFull | EnsureError::TimedOut { started: false }) if Instant::now() < patience => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

impl Warmed {
    /// Failures that are told one by one.
    pub const MOST_FAILURES: usize = 20;

    /// Adds what another call has come to.
    pub fn absorb(&mut self, other: Self) {
        let Self { created, present, failed, failures } = other;
        self.created += created;
        self.present += present;
        for (reason, count) in failed {
            *self.failed.entry(reason).or_default() += count;
        }
        failures.into_iter().for_each(|failure| self.tell(failure));
    }

    /// One original that was not met where it should have been: nothing of it was made.
    pub fn of_failure(failure: Failure) -> Self {
        Self { failed: [(failure.reason.clone(), 1)].into(), failures: vec![failure], ..Self::default() }
    }

    fn join(&mut self, ended: Result<Self, JoinError>) {
        match ended {
            Ok(warmed) => self.absorb(warmed),
            Err(_) => self.fail("internal", 1),
        }
    }

    fn count(&mut self, original: &Original, spec: &FilterSpec, result: Result<How, EnsureError>) {
        match result {
            Ok(How::Hit) => self.present += 1,
            Ok(How::Rendered | How::Joined) => self.created += 1,
            Err(error) => {
                tracing::info!(reason = %error, "a rendition was not made ahead");
                let reason = reason(&error);
                self.fail(reason, 1);
                let (reference, spec) = (original.reference().to_owned(), Some(spec.canonical().to_string()));
                self.tell(Failure { reference, spec, reason: reason.into(), says: error.to_string() });
            }
        }
    }

    /// Lists a failure, if it is one of the first and not listed yet: the three of a `format-auto` fail alike. On a full list a reason
    /// that it has no example of takes the last place of the one that it has most of.
    fn tell(&mut self, failure: Failure) {
        if self.failures.contains(&failure) {
            return;
        }
        if self.failures.len() >= Self::MOST_FAILURES {
            let of_reason = |reason: &str| self.failures.iter().filter(|told| told.reason == reason).count();
            let places = self.failures.iter().enumerate();
            let fullest = places.map(|(at, told)| (of_reason(&told.reason), at)).max();
            match fullest {
                Some((2.., at)) if of_reason(&failure.reason) == 0 => drop(self.failures.remove(at)),
                _ => return,
            }
        }
        self.failures.push(failure);
    }

    fn fail(&mut self, reason: &'static str, renditions: usize) {
        *self.failed.entry(reason.into()).or_default() += renditions as u64;
    }
}

/// A word for whoever reads the answer; the log has the sentence.
pub fn reason(error: &EnsureError) -> &'static str {
    match error {
        EnsureError::UnknownSource(_) => "unknown",
        EnsureError::SourceGone(_) => "gone",
        EnsureError::Source(_) | EnsureError::SourceChanged => "source",
        EnsureError::Undecodable(_) | EnsureError::Poison(_) => "not_an_image",
        EnsureError::Watermark(_) | EnsureError::Unplannable(_) => "impossible",
        EnsureError::OverLimit(_) => "over_limit",
        EnsureError::TimedOut { started: true } => "timed_out",
        EnsureError::TimedOut { started: false } | EnsureError::PoolFull => "overloaded",
        EnsureError::WorkersLost(_) | EnsureError::Unwanted => "stopped",
        EnsureError::Store(_) => "store",
        EnsureError::Crashed => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_only_the_first_failures_are_told() {
        let of = |reason: &'static str, number: usize| Failure {
            reference: number.to_string(),
            spec: None,
            reason: reason.into(),
            says: "no such name".into(),
        };
        let failure = |number| of("gone", number);
        let mut all = Warmed { created: 1, present: 2, ..Warmed::default() };
        (0..30).for_each(|number| all.absorb(Warmed::of_failure(failure(number))));
        assert_eq!((all.created, all.present, all.failed["gone"]), (1, 2, 30));
        assert_eq!(all.failures.len(), Warmed::MOST_FAILURES);
        assert_eq!(all.failures[19].reference, "19");
        let mut alike = Warmed::default();
        (0..3).for_each(|_| alike.absorb(Warmed::of_failure(failure(1))));
        assert_eq!((alike.failed["gone"], alike.failures.len()), (3, 1), "counted each, told once");
        // Another reason that comes late has its example, once.
        (50..60).for_each(|number| all.absorb(Warmed::of_failure(of("source", number))));
        assert_eq!((all.failed["source"], all.failures.len()), (10, Warmed::MOST_FAILURES));
        assert_eq!((all.failures[18].reference.as_str(), all.failures[19].reference.as_str()), ("18", "50"));
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Warmed>(&text).unwrap(), all);
        // What nothing failed of says so as it always has.
        let text = serde_json::to_string(&Warmed { created: 3, ..Warmed::default() }).unwrap();
        assert_eq!(text, r#"{"created":3,"present":0,"failed":{}}"#);
    }
}
