//! A short memory before any catalogue, and a long one for when it is away.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use moka::{future, sync};

use super::{Catalogue, CatalogueError, Finding, Found};
use crate::{
    at_once::at_once,
    model::{ImageId, SourceImage},
};

/// Rows remembered at most.
const CAPACITY: u64 = 100_000;

/// Wraps a catalogue: answers are reused for `cache_seconds`, asked once for all who wait, and known rows keep serving for
/// `stale_seconds` when the catalogue is away.
pub struct Cached {
    inner: Box<dyn Catalogue>,
    fresh: future::Cache<ImageId, Option<Arc<SourceImage>>>,
    known: sync::Cache<ImageId, Arc<SourceImage>>,
}

impl Cached {
    /// Wraps `inner`.
    pub fn new(inner: Box<dyn Catalogue>, fresh_for: Duration, stale_for: Duration) -> Self {
        Self {
            inner,
            fresh: future::Cache::builder().max_capacity(CAPACITY).time_to_live(fresh_for).build(),
            known: sync::Cache::builder().max_capacity(CAPACITY).time_to_live(stale_for).build(),
        }
    }

    async fn look_up(&self, id: ImageId) -> Found {
        // Hot path: one look-up in memory, no lock that another request would wait for.
        if let Some(answer) = self.fresh.get(&id).await {
            return Ok(answer);
        }
        match self.fresh.try_get_with(id, self.inner.find(id)).await {
            Ok(answer) => Ok(self.learn(id, answer)),
            Err(error) => self.last_known(id, &error),
        }
    }

    async fn look_up_afresh(&self, id: ImageId) -> Found {
        let answer = self.inner.find(id).await?;
        // Whoever asks from now on shall not be told of an older row.
        self.fresh.insert(id, answer.clone()).await;
        Ok(self.learn(id, answer))
    }

    fn learn(&self, id: ImageId, answer: Option<Arc<SourceImage>>) -> Option<Arc<SourceImage>> {
        match &answer {
            Some(image) => self.known.insert(id, image.clone()),
            None => self.known.invalidate(&id),
        }
        answer
    }

    /// A row known from before, when the catalogue is away. A bad row is an answer, not an absence.
    fn last_known(&self, id: ImageId, error: &CatalogueError) -> Found {
        let away = matches!(error, CatalogueError::Unavailable(_) | CatalogueError::TimedOut);
        match self.known.get(&id).filter(|_| away) {
            Some(image) => {
                tracing::warn!(image.id = %id, %error, "serving a row known from before");
                Ok(Some(image))
            }
            None => Err(error.clone()),
        }
    }
}

impl Catalogue for Cached {
    fn find(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.look_up(id))
    }

    fn find_now(&self, id: ImageId) -> Option<Arc<SourceImage>> {
        at_once(self.fresh.get(&id)).flatten().flatten()
    }

    fn find_afresh(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.look_up_afresh(id))
    }

    fn recall(&self, id: ImageId) -> Option<Arc<SourceImage>> {
        self.known.get(&id)
    }

    fn probe(&self) -> Pin<Box<dyn Future<Output = Result<String, CatalogueError>> + Send + '_>> {
        self.inner.probe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MediaPath, SourceRef};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

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
                Ok((id.0 == 1).then(|| Arc::new(SourceImage { location, file_hash: None, focal_point: None })))
            })
        }

        fn probe(&self) -> Pin<Box<dyn Future<Output = Result<String, CatalogueError>> + Send + '_>> {
            Box::pin(async { Ok(String::new()) })
        }
    }

    #[tokio::test]
    async fn asked_once_for_all_and_served_from_memory_when_away() {
        let inner = Switchable::default();
        let (away, asked) = (inner.away.clone(), inner.asked.clone());
        let cached = Cached::new(Box::new(inner), Duration::from_millis(50), Duration::from_secs(60));
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
        let cached = Cached::new(Box::new(inner), Duration::from_secs(60), Duration::from_secs(60));
        assert_eq!(cached.recall(ImageId(1)), None);
        cached.find(ImageId(1)).await.unwrap();
        cached.find_afresh(ImageId(1)).await.unwrap();
        cached.find(ImageId(1)).await.unwrap();
        assert_eq!(asked.load(SeqCst), 2);
        assert!(cached.recall(ImageId(1)).is_some() && cached.recall(ImageId(2)).is_none());
        away.store(true, SeqCst);
        assert_eq!(cached.find_afresh(ImageId(1)).await, Err(CatalogueError::TimedOut));
    }
}
