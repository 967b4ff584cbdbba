//! Whose turn it is to make a rendition.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{RwLock, broadcast};

use super::{Away, Claim, Coordinator, Event, Lease, Watch};
use crate::{metrics::Metrics, model::RenditionKey};

/// Between two looks whether the other gate has finished: from this, growing, to that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// After a coordinator did not answer, it is left alone for so long: a render must not wait for it each time.
const LEFT_ALONE_MS: u64 = 2_000;
/// A process that ends waits so long for its leases to be given back.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How this gate agrees with others.
pub struct Coordination {
    by: Option<Arc<dyn Coordinator>>,
    metrics: Arc<Metrics>,
    started: Instant,
    /// Until when the coordinator is left alone, in milliseconds since the start.
    alone_until_ms: AtomicU64,
    /// Read by each lease that is out.
    out: Arc<RwLock<()>>,
}

/// What a gate does about a rendition that is not there.
pub enum Turn<T> {
    /// It makes it, under a lease where there is a coordinator.
    Make(Option<Lease>),
    /// Another gate has made it.
    Made(T),
    /// Another gate has not made it in time.
    Late,
    /// Nobody waits for it any more.
    GivenUp,
}

/// A turn of this gate's own: under a lease where there are such, and what the metric calls it.
struct Own {
    lease: Option<Lease>,
    outcome: Option<&'static str>,
}

impl Coordination {
    /// Agreement by a coordinator; without one each gate goes alone.
    pub fn new(by: Option<Arc<dyn Coordinator>>, metrics: Arc<Metrics>) -> Self {
        Self { by, metrics, started: Instant::now(), alone_until_ms: AtomicU64::new(0), out: Arc::default() }
    }

    /// Waits until all leases are given back, for a moment at most: what a process leaves behind, nobody may come to take over.
    pub async fn settled(&self) {
        if tokio::time::timeout(LAST_WORDS, self.out.write()).await.is_err() {
            tracing::info!("a lease was not given back: it ends when it gives no sign of life");
        }
    }

    /// Waits until it is this gate's turn to make a rendition, or another has made it: `look` says so. While another is at it,
    /// this ends when `unwanted` does; a claim under way is not broken off, for it would leave a lease that nobody has.
    ///
    /// # Errors
    /// The look's own.
    pub async fn turn<T, E, F>(
        &self,
        key: &RenditionKey,
        deadline: Instant,
        unwanted: impl Future<Output = ()>,
        look: impl Fn() -> F,
    ) -> Result<Turn<T>, E>
    where
        F: Future<Output = Result<Option<T>, E>>,
    {
        let (mut watch, mut unwanted) = (Watch::default(), pin!(unwanted));
        let mut news = self.by.as_ref().and_then(|by| by.news());
        let (mut pause, longest) = PAUSES;
        loop {
            let claimed = self.claim(key, &mut watch).await;
            // Between this request's look and its turn another gate may have had one; and while it has, it may be done.
            match (look().await, claimed) {
                (Ok(None), Some(turn)) => {
                    if let Some(outcome) = turn.outcome {
                        self.metrics.lease(outcome);
                    }
                    return Ok(Turn::Make(turn.lease));
                }
                (Ok(None), None) => {}
                (Ok(Some(found)), _) => {
                    self.metrics.lease("waited");
                    return Ok(Turn::Made(found));
                }
                (Err(error), _) => return Err(error),
            }
            let now = Instant::now();
            if now >= deadline {
                self.metrics.lease("late");
                return Ok(Turn::Late);
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(deadline - now)) => {}
                () = told(&mut news, key) => {}
                () = &mut unwanted => return Ok(Turn::GivenUp),
            }
            pause = (pause * 3 / 2).min(longest);
        }
    }

    /// This gate's turn; `None` while it is another's.
    async fn claim(&self, key: &RenditionKey, watch: &mut Watch) -> Option<Own> {
        let alone = Own { lease: None, outcome: Some("alone") };
        let Some(by) = &self.by else { return Some(Own { outcome: None, ..alone }) };
        if self.now_ms() < self.alone_until_ms.load(Relaxed) {
            return Some(alone);
        }
        let claimed = by.claim(key, watch).await;
        self.metrics.coordination_up.set(claimed.is_ok().into());
        match claimed {
            Ok(Claim::Mine(lease)) => {
                let outcome = if lease.taken_over { "taken_over" } else { "led" };
                let lease = lease.counted(self.out.clone().try_read_owned().ok());
                Some(Own { lease: Some(lease), outcome: Some(outcome) })
            }
            Ok(Claim::Theirs) => None,
            Ok(Claim::Nobodys) => Some(alone),
            Err(away) => {
                tracing::warn!(reason = %away, "rendering without asking the other gates");
                // From now on: the question itself may have taken longer than that.
                self.alone_until_ms.store(self.now_ms() + LEFT_ALONE_MS, Relaxed);
                Some(alone)
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Tells the other gates, behind whoever asks.
    pub fn tell(&self, event: Event) {
        let Some(by) = self.by.clone() else { return };
        tokio::spawn(async move { tell(&*by, &event).await });
    }

    /// Tells the other gates, and returns when they have been told: not yet when they have heard.
    pub async fn tell_now(&self, event: &Event) {
        if let Some(by) = &self.by {
            tell(&**by, event).await;
        }
    }

    /// What other gates tell, where they can.
    pub fn news(&self) -> Option<broadcast::Receiver<Event>> {
        self.by.as_ref()?.news()
    }

    /// Asks whether the coordinator is there: a sentence about it.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn probe(&self) -> Result<String, Away> {
        match &self.by {
            None => Ok("each gate renders for itself".into()),
            Some(by) => {
                let probed = by.probe().await;
                self.metrics.coordination_up.set(probed.is_ok().into());
                probed
            }
        }
    }
}

async fn tell(by: &dyn Coordinator, event: &Event) {
    if let Err(away) = by.tell(event).await {
        tracing::warn!(reason = %away, "the other gates were not told");
    }
}

/// Returns when another gate tells that it has made this rendition; never, where none tells.
async fn told(news: &mut Option<broadcast::Receiver<Event>>, key: &RenditionKey) {
    if let Some(news) = news {
        loop {
            match news.recv().await {
                Ok(Event::Made { path, .. }) if path == key.path() => return,
                Ok(_) => {}
                // More than fits was told: better look.
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
    }
    std::future::pending().await
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        at_once::at_once,
        config::StoreConfig,
        coordination::{LeaseFiles, Pending},
        model::{ImageFormat, MediaPath, SourceRef, SourceVersion},
    };
    use std::{
        convert::Infallible,
        future::pending,
        path::Path,
        sync::atomic::{AtomicBool, Ordering::SeqCst},
    };

    pub async fn eventually(is_so: impl Fn() -> bool) {
        for _ in 0..200 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within four seconds");
    }

    fn key() -> RenditionKey {
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("a.jpg").unwrap() };
        let version = SourceVersion { bytes: 1, modified_ns: 2, etag: None, file_hash: None };
        RenditionKey::new(&location, &version, "x", ImageFormat::Webp)
    }

    pub fn store(root: &Path) -> StoreConfig {
        StoreConfig { root: root.to_owned(), ..StoreConfig::default() }
    }

    fn gate(folder: &tempfile::TempDir) -> Coordination {
        let leases = LeaseFiles::new(&store(folder.path()), Duration::from_secs(60));
        Coordination::new(Some(Arc::new(leases)), Arc::new(Metrics::new()))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn one_makes_it_and_the_others_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let (key, made) = (key(), Arc::new(AtomicBool::new(false)));
        let look = || async { Ok::<_, Infallible>(made.load(SeqCst).then_some(())) };
        let gates: Vec<_> = (0..5).map(|_| gate(&folder)).collect();
        let Ok(Turn::Make(Some(lease))) = gates[0].turn(&key, soon(), pending(), look).await else {
            panic!("nobody else")
        };
        let (others, ()) = tokio::join!(
            futures_util::future::join_all(gates[1..].iter().map(|gate| gate.turn(&key, soon(), pending(), look))),
            async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                made.store(true, SeqCst);
                lease.release().await;
            }
        );
        assert!(others.into_iter().all(|turn| matches!(turn, Ok(Turn::Made(())))));
    }

    #[tokio::test]
    async fn when_one_fails_the_next_tries_and_nobody_waits_beyond_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let (key, here, there) = (key(), gate(&folder), gate(&folder));
        let look = || async { Ok::<_, Infallible>(None::<()>) };
        let Ok(Turn::Make(Some(lease))) = here.turn(&key, soon(), pending(), look).await else { panic!("nobody else") };
        let late = there.turn(&key, Instant::now() + Duration::from_millis(100), pending(), look).await;
        assert!(matches!(late, Ok(Turn::Late)));
        lease.release().await;
        assert!(matches!(there.turn(&key, soon(), pending(), look).await, Ok(Turn::Make(Some(_)))));
    }

    #[tokio::test]
    async fn without_a_coordinator_each_goes_alone() {
        let look = || async { Ok::<_, Infallible>(None::<()>) };
        let alone = Coordination::new(None, Arc::new(Metrics::new()));
        assert!(matches!(alone.turn(&key(), soon(), pending(), look).await, Ok(Turn::Make(None))));
        let away: Arc<dyn Coordinator> =
            Arc::new(LeaseFiles::new(&store("/proc/nowhere".as_ref()), Duration::from_secs(1)));
        let lost = Coordination::new(Some(away), Arc::new(Metrics::new()));
        for _ in 0..2 {
            assert!(matches!(lost.turn(&key(), soon(), pending(), look).await, Ok(Turn::Make(None))));
        }
        assert!(at_once(lost.claim(&key(), &mut Watch::default())).is_some(), "for a while it is not even asked");
    }

    /// A coordinator whose silence takes longer than it is left alone.
    struct Silent;

    impl Coordinator for Silent {
        fn claim<'a>(&'a self, _: &'a RenditionKey, _: &'a mut Watch) -> Pending<'a, Claim> {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(LEFT_ALONE_MS + 50)).await;
                Err(Away("no answer in time".into()))
            })
        }

        fn probe(&self) -> Pending<'_, String> {
            Box::pin(std::future::ready(Err(Away("no answer in time".into()))))
        }
    }

    #[tokio::test]
    async fn a_silent_coordinator_is_left_alone_from_the_end_of_its_silence() {
        let lost = Coordination::new(Some(Arc::new(Silent)), Arc::new(Metrics::new()));
        assert!(lost.claim(&key(), &mut Watch::default()).await.is_some());
        assert!(at_once(lost.claim(&key(), &mut Watch::default())).is_some(), "it is not asked again at once");
    }
}
