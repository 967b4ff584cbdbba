//! Renditions in an S3-compatible object store: a local file without a name, then one PUT.
//!
//! An object is there whole or not at all, so nobody meets half an image; a PUT that fails leaves nothing to be seen. There are
//! no multipart uploads: nothing is left behind of one that breaks off. What has to be swept are the leases of gates that were
//! killed.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{
    DRAFTS, Depth, Draft, Pending, RECORD, RECORD_BYTES, Removed, RenditionFile, SourceRecord, Store, StoreError,
    StoredRendition, Walk, sweep, walk,
};
use crate::{
    model::{RenditionKey, SourceKey, key::LAYOUT},
    random::random_name,
    remote::s3::{Bucket, Object, S3Error, S3ErrorKind},
    unnamed::unnamed_file,
};

/// Longest rendition that is read back, to see whether it is whole.
const MAX_RENDITION_BYTES: u64 = 1 << 30;

/// A store in a bucket.
pub struct S3Store {
    bucket: Arc<Bucket>,
    /// Where renditions are written to before they are put: a folder of this machine.
    drafts: PathBuf,
    /// Leases without a sign of life for so long are nobody's.
    abandoned_after: Duration,
}

impl S3Store {
    /// The renditions of a bucket; on their way there they are in files without names in a local folder. A sweep removes what
    /// has not changed for `abandoned_after`, by the store's clock against ours: many times as long as a lease lasts without
    /// a sign of life.
    pub fn new(bucket: Arc<Bucket>, drafts: PathBuf, abandoned_after: Duration) -> Self {
        Self { bucket, drafts, abandoned_after }
    }

    async fn look(&self, key: &RenditionKey) -> Result<Option<StoredRendition>, StoreError> {
        let found =
            self.bucket.head(key.path()).await.map_err(|error| StoreError::of_s3("look up a rendition", &error))?;
        // An empty object is none of ours.
        Ok(found.filter(|object| object.bytes > 0).map(|object| StoredRendition::new(key, object.bytes)))
    }

    fn begin(&self, key: &RenditionKey) -> Result<Box<dyn Draft>, StoreError> {
        Ok(Box::new(S3Draft { file: self.nameless()?, key: key.clone(), bucket: self.bucket.clone() }))
    }

    async fn recorded(&self, source: &SourceKey) -> Result<Option<SourceRecord>, StoreError> {
        let read = read_record(&self.bucket, source).await;
        read.map_err(|error| StoreError::of_s3("read a record", &error))
    }

    async fn take_away(&self, source: &SourceKey) -> Result<Removed, StoreError> {
        let listed = self.bucket.list(&source.directory()).await;
        let listed = listed.map_err(|error| StoreError::of_s3("list a source image's objects", &error))?;
        let keys: Vec<String> = listed.iter().map(|(key, _)| key.clone()).collect();
        self.bucket.delete_all(&keys).await.map_err(|error| StoreError::of_s3("remove objects", &error))?;
        // What begins with a dot, the record, is no rendition.
        let is_rendition = |key: &str| !key.rsplit('/').next().unwrap_or(key).starts_with('.');
        let renditions = listed.iter().filter(|(key, _)| is_rendition(key));
        Ok(renditions.fold(Removed::default(), |all, (_, bytes)| all + Removed { files: 1, bytes: *bytes }))
    }

    async fn fetch(&self, key: &str) -> Result<Option<File>, StoreError> {
        let copy = self.bucket.get(key, self.nameless()?, MAX_RENDITION_BYTES).await;
        match copy {
            Ok((object, _)) if object.bytes > MAX_RENDITION_BYTES => {
                let error = io::Error::other(format!("it has more than {MAX_RENDITION_BYTES} bytes"));
                Err(StoreError::new("read a rendition", &error))
            }
            Ok((_, file)) => Ok(Some(file)),
            Err(error) if error.kind == S3ErrorKind::NoSuchKey => Ok(None),
            Err(error) => Err(StoreError::of_s3("read a rendition", &error)),
        }
    }

    /// A bucket does not say what it has removed: what a walk has found counts.
    async fn delete(&self, renditions: &[RenditionFile]) -> Result<Removed, StoreError> {
        let keys: Vec<String> = renditions.iter().map(|rendition| rendition.path.clone()).collect();
        self.bucket.delete_all(&keys).await.map_err(|error| StoreError::of_s3("remove objects", &error))?;
        let of = |rendition: &RenditionFile| Removed { files: 1, bytes: rendition.bytes };
        Ok(renditions.iter().map(of).fold(Removed::default(), |all, one| all + one))
    }

    /// A bucket has no folders: between the listing and the removal a rendition may be published, and has no record then. The
    /// next request for its image after a restart writes one.
    async fn take_lone_record(&self, source: &SourceKey) -> Result<bool, StoreError> {
        let listed = self.bucket.list(&source.directory()).await;
        let listed = listed.map_err(|error| StoreError::of_s3("list a source image's objects", &error))?;
        let [(key, _)] = listed.as_slice() else { return Ok(false) };
        if *key != record_key(source) {
            return Ok(false);
        }
        self.bucket.delete(key).await.map_err(|error| StoreError::of_s3("remove a record", &error))?;
        Ok(true)
    }

    /// Removes abandoned leases, or with `dry_run` only counts them: how many.
    async fn take_leases(&self, dry_run: bool) -> Result<u64, StoreError> {
        let listing = format!("{LAYOUT}/{DRAFTS}");
        let (mut objects, mut removed) = (pin!(self.bucket.list_pages(&listing)), 0);
        while let Some(object) = objects.next().await {
            let (key, object) = object.map_err(|error| StoreError::of_s3("list the leases", &error))?;
            let is_ours = key.rsplit('/').next().is_some_and(sweep::is_unfinished);
            if is_ours && self.is_abandoned(&object) && (dry_run || self.take_lease(&key).await?) {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes one, unless it was taken over since it was listed.
    async fn take_lease(&self, key: &str) -> Result<bool, StoreError> {
        let found = self.bucket.head(key).await.map_err(|error| StoreError::of_s3("look up a lease", &error))?;
        let is_left = found.is_some_and(|object| self.is_abandoned(&object));
        if is_left {
            self.bucket.delete(key).await.map_err(|error| StoreError::of_s3("remove a lease", &error))?;
        }
        Ok(is_left)
    }

    fn is_abandoned(&self, object: &Object) -> bool {
        let changed = u64::try_from(object.modified_ns).map_or(Duration::ZERO, Duration::from_nanos);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
        age.is_ok_and(|age| age > self.abandoned_after)
    }

    /// A file of this machine without a name.
    fn nameless(&self) -> Result<File, StoreError> {
        unnamed_file(&self.drafts).map_err(|error| StoreError::new("make a file in originals.root", &error))
    }

    async fn try_out(&self) -> Result<String, StoreError> {
        let key = format!("{LAYOUT}/.tmp-probe-{}", random_name());
        let said = Bytes::from_static(b"sendimage was here");
        let put = self.bucket.put(&key, said.clone(), "text/plain").await;
        put.map_err(|error| self.here("put an object", &error))?;
        let read = self.bucket.read(&key, RECORD_BYTES).await;
        // Removed whether it could be read or not.
        let removed = self.bucket.delete(&key).await;
        let read = read.map_err(|error| self.here("get an object", &error))?;
        removed.map_err(|error| self.here("delete an object", &error))?;
        if read.as_ref() != Some(&said) {
            return Err(StoreError::new("get what it has just put", &io::Error::other(self.bucket.to_string())));
        }
        let creates = self.bucket.creates_only(&key).await.map_err(|error| self.here("create an object", &error))?;
        let leases = match creates {
            true => "creates only what is not there",
            false => "overwrites what is there though asked not to, so it cannot keep leases",
        };
        Ok(format!("{} takes, gives and deletes objects; it {leases}", self.bucket))
    }

    /// A failure with the bucket's name, for whoever looks for the cause.
    fn here(&self, action: &'static str, error: &S3Error) -> StoreError {
        let message = format!("{}: {error}", self.bucket);
        StoreError { message, ..StoreError::of_s3(action, error) }
    }
}

/// What a bucket remembers about a source image; a record that cannot be understood counts as none.
pub(super) async fn read_record(bucket: &Bucket, source: &SourceKey) -> Result<Option<SourceRecord>, S3Error> {
    let text = bucket.read(&record_key(source), RECORD_BYTES).await?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

fn record_key(source: &SourceKey) -> String {
    format!("{}/{RECORD}", source.directory())
}

struct S3Draft {
    file: File,
    key: RenditionKey,
    bucket: Arc<Bucket>,
}

impl S3Draft {
    async fn put(self) -> Result<StoredRendition, StoreError> {
        let Self { file, key, bucket } = self;
        let bytes = blocking(move || whole(&file)).await?;
        if bytes.is_empty() {
            let error = io::Error::other("the rendition has no bytes");
            return Err(StoreError::new("publish an empty file", &error));
        }
        let length = bytes.len() as u64;
        let put = bucket.put(key.path(), bytes, key.format().media_type()).await;
        put.map_err(|error| StoreError::of_s3("put a rendition", &error))?;
        Ok(StoredRendition::new(&key, length))
    }
}

/// All bytes of a file, wherever its offset is: the worker that wrote them shares it.
fn whole(file: &File) -> Result<Bytes, StoreError> {
    let read = || {
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.into())
    };
    read().map_err(|error| StoreError::new("read a finished file", &error))
}

/// Runs a blocking call on the blocking pool.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let called = tokio::task::spawn_blocking(call).await;
    called.unwrap_or_else(|error| Err(StoreError::new("end a call", &io::Error::other(error))))
}

impl Draft for S3Draft {
    fn file(&self) -> &File {
        &self.file
    }

    fn publish(self: Box<Self>) -> Pending<'static, StoredRendition> {
        Box::pin(self.put())
    }
}

impl Store for S3Store {
    fn find<'a>(&'a self, key: &'a RenditionKey) -> Pending<'a, Option<StoredRendition>> {
        Box::pin(self.look(key))
    }

    fn read<'a>(&'a self, stored: &'a StoredRendition, max_bytes: u64) -> Pending<'a, Option<Bytes>> {
        Box::pin(async move {
            if stored.bytes > max_bytes {
                return Ok(None);
            }
            let read = self.bucket.read(&stored.path, max_bytes).await;
            read.map_err(|error| StoreError::of_s3("read a rendition", &error))
        })
    }

    fn draft<'a>(&'a self, key: &'a RenditionKey) -> Pending<'a, Box<dyn Draft>> {
        Box::pin(std::future::ready(self.begin(key)))
    }

    fn record<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, Option<SourceRecord>> {
        Box::pin(self.recorded(source))
    }

    fn remember<'a>(&'a self, source: &'a SourceKey, record: &'a SourceRecord) -> Pending<'a, ()> {
        Box::pin(async move {
            let text = serde_json::to_vec(record)
                .map_err(|error| StoreError::new("write a record", &io::Error::other(error)))?;
            let put = self.bucket.put(&record_key(source), text.into(), "application/json").await;
            put.map_err(|error| StoreError::of_s3("write a record", &error))
        })
    }

    fn remove<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, Removed> {
        Box::pin(self.take_away(source))
    }

    fn open<'a>(&'a self, path: &'a str) -> Pending<'a, Option<File>> {
        Box::pin(self.fetch(path))
    }

    fn discard<'a>(&'a self, renditions: &'a [RenditionFile]) -> Pending<'a, Removed> {
        Box::pin(self.delete(renditions))
    }

    fn tidy<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, bool> {
        Box::pin(self.take_lone_record(source))
    }

    fn walk(&self, depth: Depth) -> Walk {
        walk::of_objects(self.bucket.clone(), depth)
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(self.try_out())
    }

    /// Renditions have no name before they are whole, but leases have.
    fn sweep(&self, dry_run: bool) -> Pending<'_, u64> {
        Box::pin(self.take_leases(dry_run))
    }
}
