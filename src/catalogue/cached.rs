//! A short memory before any catalogue, and a long one for when it is away.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use moka::{future, sync};

use super::{Catalogue, CatalogueError, Change, Finding, Found, Hearer, Listing, Pending, Searching};
use crate::{
    at_once::at_once,
    metrics::Metrics,
    model::{ImageId, SourceImage},
};

/// Rows remembered at most.
const CAPACITY: u64 = 100_000;
/// Ids share so many counters of changes: who shares one with a changed row is asked for once more.
const COUNTERS: usize = 1024;
/// How often a question is joined that may have been asked before a change, until one is asked of our own.
const JOINS: usize = 3;

/// Wraps a catalogue: answers are reused for `cache_seconds`, asked once for all who wait, and known rows keep serving for
/// `stale_seconds` when the catalogue is away.
pub struct Cached {
    inner: Box<dyn Catalogue>,
    fresh: future::Cache<ImageId, Answer>,
    known: sync::Cache<ImageId, Arc<SourceImage>>,
    /// How often a row of these ids has changed, as far as we were told.
    changes: Box<[AtomicU64]>,
    metrics: Arc<Metrics>,
}

/// What the catalogue said, and how many changes were known when it was asked: an answer from before a change does not count,
/// even if it comes after the news of it.
#[derive(Clone)]
struct Answer {
    changes: u64,
    image: Option<Arc<SourceImage>>,
}

impl Cached {
    /// Wraps `inner`.
    pub fn new(inner: Box<dyn Catalogue>, fresh_for: Duration, stale_for: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            fresh: future::Cache::builder().max_capacity(CAPACITY).time_to_live(fresh_for).build(),
            known: sync::Cache::builder().max_capacity(CAPACITY).time_to_live(stale_for).build(),
            changes: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            metrics,
        }
    }

    /// Whoever asks for this image from now on is told what the catalogue says then. Its row still counts as known.
    pub fn forget(&self, id: ImageId) {
        self.counter(id).fetch_add(1, SeqCst);
    }

    /// The same for all images.
    pub fn forget_all(&self) {
        self.changes.iter().for_each(|counter| _ = counter.fetch_add(1, SeqCst));
    }

    fn counter(&self, id: ImageId) -> &AtomicU64 {
        &self.changes[id.0 as usize % COUNTERS]
    }

    fn is_current(&self, id: ImageId, answer: &Answer) -> bool {
        answer.changes == self.counter(id).load(SeqCst)
    }

    async fn look_up(&self, id: ImageId) -> Found {
        for _ in 0..JOINS {
            // Hot path: one look-up in memory, no lock that another request would wait for.
            match self.fresh.get(&id).await {
                Some(answer) if self.is_current(id, &answer) => return Ok(answer.image),
                Some(_) => self.fresh.invalidate(&id).await,
                None => {}
            }
            let known_by_now = self.counter(id).load(SeqCst);
            match self.fresh.try_get_with(id, self.ask(id)).await {
                Ok(answer) if answer.changes >= known_by_now => return Ok(self.learn(id, answer.image)),
                // Joined somebody whose question was asked before the change that we know of.
                Ok(_) => {}
                Err(error) => return self.last_known(id, &error),
            }
        }
        self.look_up_afresh(id).await.or_else(|error| self.last_known(id, &error))
    }

    async fn look_up_afresh(&self, id: ImageId) -> Found {
        let answer = self.ask(id).await?;
        // Whoever asks from now on shall not be told of an older row.
        self.fresh.insert(id, answer.clone()).await;
        Ok(self.learn(id, answer.image))
    }

    async fn ask(&self, id: ImageId) -> Result<Answer, CatalogueError> {
        let changes = self.counter(id).load(SeqCst);
        let started = Instant::now();
        let found = self.inner.find(id).await;
        self.metrics.catalogue_seconds.observe(started.elapsed().as_secs_f64());
        self.note(found.as_ref().err());
        Ok(Answer { changes, image: found? })
    }

    /// Whether the catalogue is there. A bad row is an answer.
    fn note(&self, error: Option<&CatalogueError>) {
        self.metrics.catalogue_up.set(i64::from(!error.is_some_and(CatalogueError::is_absence)));
    }

    fn learn(&self, id: ImageId, image: Option<Arc<SourceImage>>) -> Option<Arc<SourceImage>> {
        match &image {
            Some(image) => self.known.insert(id, image.clone()),
            None => self.known.invalidate(&id),
        }
        image
    }

    /// A row known from before, when the catalogue is away.
    fn last_known(&self, id: ImageId, error: &CatalogueError) -> Found {
        match self.known.get(&id).filter(|_| error.is_absence()) {
            Some(image) => {
                tracing::warn!(image.id = %id, %error, "serving a row known from before");
                Ok(Some(image))
            }
            None => Err(error.clone()),
        }
    }
}

impl Catalogue for Cached {
    fn forget(&self, id: Option<ImageId>) {
        match id {
            Some(id) => Self::forget(self, id),
            None => self.forget_all(),
        }
    }

    fn find(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.look_up(id))
    }

    fn find_now(&self, id: ImageId) -> Option<Arc<SourceImage>> {
        at_once(self.fresh.get(&id)).flatten().filter(|answer| self.is_current(id, answer))?.image
    }

    fn find_afresh(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.look_up_afresh(id))
    }

    fn recall(&self, id: ImageId) -> Option<Arc<SourceImage>> {
        self.known.get(&id)
    }

    /// Past every memory: who walks a catalogue would fill it with rows that nobody asks for.
    fn list(&self, after: Option<ImageId>) -> Listing<'_> {
        Box::pin(async move {
            let listed = self.inner.list(after).await;
            self.note(listed.as_ref().err());
            listed
        })
    }

    fn search<'a>(&'a self, text: &'a str) -> Searching<'a> {
        self.inner.search(text)
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async {
            let probed = self.inner.probe().await;
            self.note(probed.as_ref().err());
            probed
        })
    }
}

impl Hearer for Weak<Cached> {
    fn is_there(&self) -> bool {
        self.strong_count() > 0
    }

    fn hear(&self, change: Change) {
        let Some(cached) = self.upgrade() else { return };
        match change {
            Change::Row(id) => cached.forget(id),
            Change::Any => cached.forget_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MediaPath, SourceRef};
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    /// A catalogue in memory, itself one more backend, whose absence can be switched.
    #[derive(Default)]
    struct Switchable {
        away: Arc<AtomicBool>,
        asked: Arc<AtomicUsize>,
    }

    impl Catalogue for Switchable {
        fn find(&self, id: ImageId) -> Finding<'_> {
            Box::pin(async move {
                self.asked.fetch_add(1, SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                if self.away.load(SeqCst) {
                    return Err(CatalogueError::TimedOut);
                }
                let path = MediaPath::parse("a.jpg").expect("a path");
                let location = SourceRef { source: "media".into(), path };
                Ok((id.0 == 1).then(|| Arc::new(SourceImage::at(location))))
            })
        }

        fn list(&self, _: Option<ImageId>) -> Listing<'_> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn probe(&self) -> Pending<'_, String> {
            Box::pin(async { Ok(String::new()) })
        }
    }

    #[tokio::test]
    async fn asked_once_for_all_and_served_from_memory_when_away() {
        let inner = Switchable::default();
        let (away, asked) = (inner.away.clone(), inner.asked.clone());
        let cached = Cached::new(Box::new(inner), Duration::from_millis(50), Duration::from_secs(60), Arc::default());
        let finds: Vec<_> = (0..20).map(|_| cached.find(ImageId(1))).collect();
        for find in finds {
            assert!(find.await.unwrap().is_some());
        }
        assert_eq!(cached.find(ImageId(2)).await, Ok(None));
        assert_eq!(asked.load(SeqCst), 2);

        tokio::time::sleep(Duration::from_millis(80)).await;
        away.store(true, SeqCst);
        assert!(cached.find(ImageId(1)).await.unwrap().is_some(), "a known row outlives the catalogue");
        assert_eq!(cached.find(ImageId(2)).await, Err(CatalogueError::TimedOut), "an unknown one is 503, not 404");
        away.store(false, SeqCst);
        assert_eq!(cached.find(ImageId(2)).await, Ok(None), "failures are not remembered");
    }

    #[tokio::test]
    async fn afresh_is_past_every_memory_and_what_was_is_recalled() {
        let inner = Switchable::default();
        let (away, asked) = (inner.away.clone(), inner.asked.clone());
        let cached = Cached::new(Box::new(inner), Duration::from_secs(60), Duration::from_secs(60), Arc::default());
        assert_eq!(cached.recall(ImageId(1)), None);
        cached.find(ImageId(1)).await.unwrap();
        cached.find_afresh(ImageId(1)).await.unwrap();
        cached.find(ImageId(1)).await.unwrap();
        assert_eq!(asked.load(SeqCst), 2);
        assert!(cached.recall(ImageId(1)).is_some() && cached.recall(ImageId(2)).is_none());
        away.store(true, SeqCst);
        assert_eq!(cached.find_afresh(ImageId(1)).await, Err(CatalogueError::TimedOut));
    }
    /// A catalogue whose answer is decided when it is asked, and given a while later.
    struct Slow {
        file: Arc<AtomicUsize>,
    }

    impl Catalogue for Slow {
        fn find(&self, _: ImageId) -> Finding<'_> {
            Box::pin(async move {
                let path = MediaPath::parse(&format!("{}.jpg", self.file.load(SeqCst))).expect("a path");
                tokio::time::sleep(Duration::from_millis(100)).await;
                let location = SourceRef { source: "media".into(), path };
                Ok(Some(Arc::new(SourceImage::at(location))))
            })
        }

        fn list(&self, _: Option<ImageId>) -> Listing<'_> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn probe(&self) -> Pending<'_, String> {
            Box::pin(async { Ok(String::new()) })
        }
    }

    #[tokio::test]
    async fn news_of_a_change_counts_for_questions_under_way() {
        let file = Arc::new(AtomicUsize::new(1));
        let long = Duration::from_secs(60);
        let cached = Arc::new(Cached::new(Box::new(Slow { file: file.clone() }), long, long, Arc::default()));
        let ask = |id| {
            let cached = cached.clone();
            async move { cached.find(ImageId(id)).await.unwrap().unwrap().location.path.as_str().to_owned() }
        };
        let early = tokio::spawn(ask(1));
        tokio::time::sleep(Duration::from_millis(30)).await;
        file.store(2, SeqCst);
        cached.forget(ImageId(1));
        // Asked after the news, while the old question is still under way.
        let late = tokio::spawn(ask(1));
        assert_eq!(early.await.unwrap(), "1.jpg");
        assert_eq!(late.await.unwrap(), "2.jpg");
        assert_eq!(ask(1).await, "2.jpg");
        assert!(cached.find_now(ImageId(1)).is_some());

        ask(2).await;
        file.store(3, SeqCst);
        cached.forget(ImageId(1));
        assert!(cached.find_now(ImageId(1)).is_none() && cached.find_now(ImageId(2)).is_some());
        assert_eq!((ask(1).await.as_str(), ask(2).await.as_str()), ("3.jpg", "2.jpg"));
        cached.forget_all();
        assert_eq!(ask(2).await, "3.jpg");
        assert!(cached.recall(ImageId(2)).is_some());
    }
}
