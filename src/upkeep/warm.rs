//! Renders ahead of time.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet},
};

use super::find_afresh;
use crate::{
    access::Subject,
    app::App,
    model::SourceImage,
    renditions::{EnsureError, How},
    spec::{Accepted, FilterSpec},
};

/// Renditions that one call may ask for.
pub const MAX_RENDITIONS: usize = 10_000;

/// Renditions under way at once, whoever asks for them: enough for the sizes of a photograph to share one decode, and few
/// enough to leave the queue to those who wait.
static PLACES: Semaphore = Semaphore::const_new(8);
/// How long a rendition waits for others than its own deadline lets it: clients go first, for as long as there are any.
const PATIENCE: Duration = Duration::from_secs(300);
/// Before the queue is asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// What a call has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Warmed {
    /// Renditions made.
    pub created: u64,
    /// Renditions that were there.
    pub present: u64,
    /// Those that there are none of, by reason.
    pub failed: BTreeMap<&'static str, u64>,
}

/// One rendition to make of each image.
#[derive(Clone, Debug)]
pub struct Task {
    spec: FilterSpec,
    /// An AVIF too large to make is no failure where another format is served in its place.
    is_optional: bool,
}

impl Task {
    /// What is made, for one kind of client.
    pub fn spec(&self) -> &FilterSpec {
        &self.spec
    }
}

/// What a spec stands for: itself, or for `format-auto` what each kind of client gets.
pub fn tasks(spec: FilterSpec) -> Vec<Task> {
    if !spec.is_auto() {
        return vec![Task { spec, is_optional: false }];
    }
    let (webp, avif) = (true, true);
    let kinds = [Accepted::default(), Accepted { webp, ..Accepted::default() }, Accepted { webp, avif }];
    kinds.map(|kind| Task { spec: spec.accepting(kind), is_optional: kind.avif }).to_vec()
}

/// Makes the renditions that are not there, behind everything that a client waits for. A call that is dropped leaves what has
/// not begun.
pub async fn warm(app: &Arc<App>, subjects: &[(String, Subject<'_>)], tasks: &[Task]) -> Warmed {
    let (mut warmed, mut under_way) = (Warmed::default(), JoinSet::new());
    for (_, subject) in subjects {
        let image = match find_afresh(app, subject).await {
            Ok(Some(image)) => image,
            Ok(None) => {
                warmed.fail("unknown", tasks.len());
                continue;
            }
            Err(error) => {
                tracing::info!(reason = %error, "an image was not rendered ahead");
                warmed.fail("catalogue", tasks.len());
                continue;
            }
        };
        for task in tasks {
            // Closed by nobody.
            let Ok(place) = PLACES.acquire().await else { break };
            let (app, image, task) = (app.clone(), image.clone(), task.clone());
            under_way.spawn(async move {
                let _place = place;
                warm_one(&app, &image, &task).await
            });
            while let Some(ended) = under_way.try_join_next() {
                warmed.count(ended);
            }
        }
    }
    while let Some(ended) = under_way.join_next().await {
        warmed.count(ended);
    }
    app.metrics.warmed("created", warmed.created);
    app.metrics.warmed("present", warmed.present);
    app.metrics.warmed("failed", warmed.failed.values().sum());
    warmed
}

/// `None` for what need not be there.
async fn warm_one(app: &App, image: &SourceImage, task: &Task) -> Option<Result<How, EnsureError>> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match app.renditions.warm(image, &task.spec).await {
            Ok(ensured) => return Some(Ok(ensured.how)),
            Err(EnsureError::OverLimit(_)) if task.is_optional => return None,
            // The queue is full of what somebody waits for.
            Err(EnsureError::PoolFull | EnsureError::TimedOut { started: false }) if Instant::now() < patience => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Some(Err(error)),
        }
    }
}

impl Warmed {
    fn count(&mut self, ended: Result<Option<Result<How, EnsureError>>, JoinError>) {
        match ended {
            Ok(None) => {}
            Ok(Some(Ok(How::Hit))) => self.present += 1,
            Ok(Some(Ok(How::Rendered | How::Joined))) => self.created += 1,
            Ok(Some(Err(error))) => {
                tracing::info!(reason = %error, "a rendition was not made ahead");
                self.fail(reason(&error), 1);
            }
            Err(_) => self.fail("internal", 1),
        }
    }

    fn fail(&mut self, reason: &'static str, renditions: usize) {
        *self.failed.entry(reason).or_default() += renditions as u64;
    }
}

/// A word for whoever reads the answer; the log has the sentence.
fn reason(error: &EnsureError) -> &'static str {
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
