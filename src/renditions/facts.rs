//! What is known of a source image: from memory, from the store's record, else from a worker.

use std::{sync::Arc, time::Instant};

use super::{EnsureError, Renditions};
use crate::{
    model::{FocalPoint, SourceFacts, SourceKey, SourceRef, SourceVersion},
    render::look::Look,
    source::Stat,
    store::SourceRecord,
    workers::Coming,
};

impl Renditions {
    /// What a probe finds in this version of a source image: from memory, from the store's record, else from a worker. The record
    /// may say of the same file which hash the catalogue gives it, where the version does not. Whoever had to wait for it is
    /// expected in the queue, with all others that did.
    pub(super) async fn facts(
        self: &Arc<Self>,
        location: &SourceRef,
        version: &SourceVersion,
        deadline: Instant,
    ) -> Result<(Arc<SourceRecord>, Option<Coming>), EnsureError> {
        if let Some(record) = self.known_of(location, version) {
            return Ok((self.hashed(location, record, version).await, None));
        }
        let key = (location.clone(), version.clone());
        let probe = |_| {
            let (this, (location, version)) = (self.clone(), key.clone());
            async move { this.find_facts(&location, version, deadline).await }
        };
        let coming = self.pool.expect(&key);
        let record = self.probes.join(&key, probe).await?.0?;
        Ok((record, Some(coming)))
    }

    async fn find_facts(
        &self,
        location: &SourceRef,
        version: SourceVersion,
        deadline: Instant,
    ) -> Result<Arc<SourceRecord>, EnsureError> {
        let source_key = SourceKey::new(location);
        // A record that cannot be read is none: the probe decides, and the disk's own trouble shows when it is written to.
        let remembered = self.store.record(&source_key).await.ok().flatten();
        if let Some(record) = remembered.filter(|record| is_same_file(&record.version, &version)) {
            let record = Arc::new(record);
            self.known.insert(location.clone(), record.clone());
            return Ok(self.hashed(location, record, &version).await);
        }
        let memory_key = format!("{} {version:?}", source_key.directory());
        if let Some(error) = self.memory.recall(&memory_key) {
            return Err(error);
        }
        let facts =
            self.probe(location, &version, deadline).await.inspect_err(|error| self.memory.note(&memory_key, error))?;
        // Whoever asked by another kind of URL may have been quicker: what it found stays.
        if let Some(record) = self.known_of(location, &version) {
            return Ok(self.hashed(location, record, &version).await);
        }
        let record = Arc::new(SourceRecord::new(location.clone(), version, facts));
        self.remember(location, &record).await;
        Ok(record)
    }

    /// The record in memory, if it is of the file that has this version.
    fn known_of(&self, location: &SourceRef, version: &SourceVersion) -> Option<Arc<SourceRecord>> {
        self.known.get(location).filter(|record| is_same_file(&record.version, version))
    }

    /// A record of this version's file, with the version's hash in it where it has none.
    async fn hashed(
        &self,
        location: &SourceRef,
        record: Arc<SourceRecord>,
        version: &SourceVersion,
    ) -> Arc<SourceRecord> {
        if record.version.file_hash.is_some() || version.file_hash.is_none() {
            return record;
        }
        let record = Arc::new(SourceRecord { version: version.clone(), ..SourceRecord::clone(&record) });
        self.remember(location, &record).await;
        record
    }

    async fn remember(&self, location: &SourceRef, record: &Arc<SourceRecord>) {
        self.known.insert(location.clone(), record.clone());
        if let Err(error) = self.store.remember(&SourceKey::new(location), record).await {
            // Not this request's business: its rendition may be stored all the same, or fail with its own error.
            tracing::warn!(error = %self.store_failed(error), "a source image's record was not written");
        }
    }

    /// The record with what a look at the pixels finds: once for all who wait.
    pub(super) async fn looked(
        self: &Arc<Self>,
        location: &SourceRef,
        record: &Arc<SourceRecord>,
        look: Look,
        deadline: Instant,
    ) -> Result<Arc<SourceRecord>, EnsureError> {
        let key = (location.clone(), record.version.clone(), look);
        let see = |_| {
            let (this, location, record) = (self.clone(), location.clone(), record.clone());
            async move { this.look(&location, record, look, deadline).await }
        };
        self.looks.join(&key, see).await?.0
    }

    async fn look(
        &self,
        location: &SourceRef,
        record: Arc<SourceRecord>,
        look: Look,
        deadline: Instant,
    ) -> Result<Arc<SourceRecord>, EnsureError> {
        let memory_key = format!("{} {:?} {look:?}", SourceKey::new(location).directory(), record.version);
        if let Some(error) = self.memory.recall(&memory_key) {
            return Err(error);
        }
        let see = async {
            let open = self.open(location, &record.version).await?;
            self.limits.check_source(&record.facts)?;
            let found = self.pool.look(&open.file, &record.facts, look, deadline).await?;
            if open.is_unchanged()? { Ok(found) } else { Err(EnsureError::SourceChanged) }
        };
        let found = see.await.inspect_err(|error| self.memory.note(&memory_key, error))?;
        // Another look may have ended meanwhile: what it found stays.
        let latest = self.known_of(location, &record.version);
        let mut record = SourceRecord::clone(&latest.unwrap_or(record));
        record.findings.note(look, found);
        let record = Arc::new(record);
        self.remember(location, &record).await;
        Ok(record)
    }

    /// Has the record say which focal point renditions of it were planned with.
    pub(super) async fn note_focal_point(&self, location: &SourceRef, record: &Arc<SourceRecord>, point: FocalPoint) {
        // Another request may have noted something meanwhile: it stays.
        let latest = self.known_of(location, &record.version);
        let mut record = SourceRecord::clone(&latest.unwrap_or_else(|| record.clone()));
        if record.note_focal_point(point) {
            self.remember(location, &Arc::new(record)).await;
        }
    }

    async fn probe(
        &self,
        location: &SourceRef,
        version: &SourceVersion,
        deadline: Instant,
    ) -> Result<SourceFacts, EnsureError> {
        let open = self.open(location, version).await?;
        self.limits.check_bytes(open.stat.bytes)?;
        let facts = self.pool.probe(&open.file, deadline).await?;
        if !open.is_unchanged()? {
            return Err(EnsureError::SourceChanged);
        }
        self.limits.check_source(&facts)?;
        Ok(facts)
    }

    pub(super) async fn last_record(&self, location: &SourceRef) -> Result<Option<Arc<SourceRecord>>, EnsureError> {
        if let Some(record) = self.known.get(location) {
            return Ok(Some(record));
        }
        let record = self.store.record(&SourceKey::new(location)).await.map_err(|error| self.store_failed(error))?;
        let record = record.map(Arc::new);
        if let Some(record) = &record {
            self.known.insert(location.clone(), record.clone());
        }
        Ok(record)
    }
}

/// Whether two versions are of one file. The catalogue's hash tells them apart where both have one; a URL that names the path
/// brings none.
fn is_same_file(one: &SourceVersion, other: &SourceVersion) -> bool {
    let hashes_agree = one.file_hash.is_none() || other.file_hash.is_none() || one.file_hash == other.file_hash;
    Stat::from(one) == Stat::from(other) && hashes_agree
}
