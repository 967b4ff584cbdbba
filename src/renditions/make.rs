//! Makes a rendition: one flight in this process, one turn among gates, one render.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tracing::Instrument as _;

use super::{
    EnsureError, Ensured, How, Renditions,
    flight::{Audience, Role},
    planned::Planned,
};
use crate::{
    coordination::{Event, Turn},
    model::{RenditionKey, SourceRef, SourceVersion},
    source::{OpenSource, Stat},
    store::StoredRendition,
    traces::{self, part},
    workers::{Coming, Files, Lane, Wanted},
};

/// What a flight came to.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub stored: StoredRendition,
    /// Whether this gate rendered it, and not another one.
    pub here: bool,
}

impl Renditions {
    /// Renders, or joins the render that is under way.
    pub(super) async fn render(
        self: &Arc<Self>,
        location: &SourceRef,
        planned: &Arc<Planned>,
        lane: Lane,
        deadline: Instant,
        mut coming: Option<Coming>,
    ) -> Result<Ensured, EnsureError> {
        // Between giving a render up and taking it up again: whoever is in a hurry shall be there first.
        const GIVE_WAY: Duration = Duration::from_millis(10);
        loop {
            let era = self.era();
            if lane != Lane::Warm {
                self.renders.hurry(&planned.key);
            }
            // One that joins another's render does not come to the queue: its notice is dropped with the closure.
            let coming = coming.take();
            let render = |audience: Audience<_>| {
                let (this, location, planned) = (self.clone(), location.clone(), planned.clone());
                async move {
                    let wanted = Wanted { lane, deadline, coming };
                    this.make(&location, &planned, wanted, unwanted(audience, lane)).await
                }
            };
            let (result, role) = self.renders.join(&planned.key, render).await?;
            match result {
                // It was given up at the moment when this request came, or for it.
                Err(EnsureError::Unwanted) if Instant::now() < deadline => {
                    if lane == Lane::Warm {
                        tokio::time::sleep(GIVE_WAY).await;
                    }
                }
                result => {
                    let (Made { stored, here }, planned) = (result?, planned.clone());
                    self.note(&planned, Some(stored.bytes), era);
                    let how = if here && role == Role::Leader { How::Rendered } else { How::Joined };
                    return Ok(Ensured { stored, planned, how });
                }
            }
        }
    }

    /// Renders and stores, unless another gate does: the work of one flight.
    async fn make(
        &self,
        location: &SourceRef,
        planned: &Planned,
        wanted: Wanted,
        unwanted: impl Future<Output = ()>,
    ) -> Result<Made, EnsureError> {
        let Wanted { lane, deadline, .. } = wanted;
        let mut unwanted = pin!(unwanted);
        let lease = match self.turn(&planned.key, deadline, unwanted.as_mut()).await? {
            Turn::Make(lease) => lease,
            Turn::Made(stored) => return Ok(Made { stored, here: false }),
            Turn::Late => return Err(EnsureError::TimedOut { started: false }),
            Turn::GivenUp => return Err(EnsureError::Unwanted),
        };
        let mut result = self.render_and_store(location, planned, wanted, unwanted.as_mut()).await;
        if has_no_room(&result) && self.budget.make_room(deadline).await {
            let wanted = Wanted { lane, deadline, coming: None };
            result = self.render_and_store(location, planned, wanted, unwanted).await;
        }
        // Given back behind the answer.
        drop(lease);
        let outcome = match &result {
            Ok(stored) => {
                self.budget.note_made(&planned.noted, &planned.key, stored.bytes, planned.terms.preset);
                self.coordination.tell(Event::Made { path: stored.path.clone(), bytes: stored.bytes });
                "rendered"
            }
            Err(EnsureError::Unwanted) => "unwanted",
            Err(error) => {
                self.memory.note(planned.key.path(), error);
                "failed"
            }
        };
        self.metrics.render(outcome, planned.key.format().name());
        result.map(|stored| Made { stored, here: true })
    }

    /// Whether this gate makes a rendition: another one that shares the store may have been quicker, or be at it.
    async fn turn(
        &self,
        key: &RenditionKey,
        deadline: Instant,
        unwanted: impl Future<Output = ()>,
    ) -> Result<Turn<StoredRendition>, EnsureError> {
        let look = || async { self.store.find(key).await.map_err(|error| self.store_failed(error)) };
        self.coordination.turn(key, deadline, unwanted, look).await
    }

    async fn render_and_store(
        &self,
        location: &SourceRef,
        planned: &Planned,
        wanted: Wanted,
        unwanted: impl Future<Output = ()>,
    ) -> Result<StoredRendition, EnsureError> {
        let Planned { plan, key, .. } = planned;
        let open = self.open(location, planned.version()).await?;
        // The facts may be remembered from a time with wider limits.
        self.limits.check_bytes(open.stat.bytes)?;
        self.limits.check_source(&plan.source)?;
        let draft = self.store.draft(key).await.map_err(|error| self.store_failed(error))?;
        let files = Files { source: &open.file, output: draft.file(), mark: self.marks.of(plan) };
        let span = part!("render");
        let render = self.pool.render_unless(files, plan, open.stat.bytes, wanted, unwanted);
        let rendered = render.instrument(span.clone()).await;
        let report = rendered.map_err(|error| match EnsureError::from(error) {
            EnsureError::Store(error) => self.store_failed(error),
            other => other,
        })?;
        traces::stages(&span, &report.times);
        drop(span);
        // Bytes of two versions mixed, under the name of one, must never be stored.
        if !open.is_unchanged()? {
            return Err(EnsureError::SourceChanged);
        }
        let started = Instant::now();
        let stored = draft.publish().instrument(part!("store")).await.map_err(|error| self.store_failed(error))?;
        self.metrics.render_stage("store", started.elapsed());
        Ok(stored)
    }

    /// Opens a source image and sees that it is the version that was planned for.
    pub(super) async fn open(&self, location: &SourceRef, version: &SourceVersion) -> Result<OpenSource, EnsureError> {
        if let Some(rest) = settles_in(version, SystemTime::now()) {
            tokio::time::sleep(rest).await;
        }
        let open = self.source(location)?.open(&location.path).await?;
        if open.stat == Stat::from(version) { Ok(open) } else { Err(EnsureError::SourceChanged) }
    }
}

/// Ends when a render that has not begun need not begin: nobody waits for it, or it waits behind everybody else's and now
/// somebody asks for it who does not.
async fn unwanted<V>(audience: Audience<V>, lane: Lane) {
    tokio::select! {
        () = audience.left() => {}
        () = audience.hurried(), if lane == Lane::Warm => {}
    }
}

/// Whether a render was lost for want of room: bytes, inodes or a quota.
fn has_no_room(result: &Result<StoredRendition, EnsureError>) -> bool {
    matches!(result, Err(EnsureError::Store(error)) if matches!(error.kind, "enospc" | "edquot"))
}

/// How long a source image that was written a moment ago has to be left alone.
///
/// Linux before 6.13 dates files by its tick, of 10 ms at most, and some file systems still do: two writes within one leave two
/// contents with the same date. What is read once the tick is over is the last of them, and any later one has another date.
fn settles_in(version: &SourceVersion, now: SystemTime) -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(20);
    let modified = u64::try_from(version.modified_ns).ok().map(Duration::from_nanos)?;
    // A date in the future says nothing about when the file was written.
    let age = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(modified)?;
    TICK.checked_sub(age).filter(|rest| !rest.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_just_now_has_to_settle() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let written = |at: Duration| {
            settles_in(
                &SourceVersion { bytes: 1, modified_ns: at.as_nanos() as i128, etag: None, file_hash: None },
                now,
            )
        };
        assert_eq!(written(Duration::from_millis(999_995)), Some(Duration::from_millis(15)));
        for settled in [Duration::ZERO, Duration::from_millis(999_980), Duration::from_millis(1_000_001)] {
            assert_eq!(written(settled), None);
        }
    }
}
