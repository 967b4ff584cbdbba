//! A bucket in an S3-compatible object store: signed requests, bounded in time, by the `object_store` crate.
//!
//! Who asks is what the config says. Nothing is taken from the environment, and no metadata service is asked for credentials.
//! Bodies that are put are signed with their digest, so the store refuses bytes that were damaged on the way.

mod client;
mod error;

use std::{
    fmt,
    fs::File,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use hyper::Method;
use object_store::{
    Attribute, Attributes, BackoffConfig, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    PutOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut},
    path::Path,
    signer::{SignedUrlOptions, Signer as _},
};
use thiserror::Error;
use tokio::{io::AsyncWriteExt as _, sync::OnceCell};

pub use error::{S3Error, S3ErrorKind};

use self::client::{Client, Connector};
use super::RemoteError;
use crate::{config::S3Config, random::random_name};

/// Attempts after the first, with a growing pause of a random length before each, all within `timeout_seconds`.
const RETRIES: usize = 2;
/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// One attempt's share of `timeout_seconds`: a lost one leaves room for another.
const ATTEMPT_SHARE: f64 = 0.4;
/// What a missing object is looked for by, to learn whether the bucket is there.
const NOTHING: &str = ".sendimage-nothing";

/// An object as the store describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its length.
    pub bytes: u64,
    /// `ETag`, quotes and all.
    pub etag: Option<String>,
    /// `Last-Modified`, in nanoseconds since the epoch; stores say whole seconds.
    pub modified_ns: i128,
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Self {
        let modified_ns = i128::from(meta.last_modified.timestamp()) * 1_000_000_000;
        Self { bytes: meta.size, etag: meta.e_tag, modified_ns }
    }
}

/// How creating an object went that may not be there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It is there now, by this call.
    Created,
    /// Somebody else's is there.
    Exists,
    /// The store does not look whether one is there. Nothing was written.
    Unsupported,
}

/// A bucket, and what all of its keys begin with. Keys below are without that prefix.
pub struct Bucket {
    name: String,
    endpoint: String,
    prefix: String,
    timeout: Duration,
    store: AmazonS3,
    /// The same, removing objects one by one.
    plain: AmazonS3,
    removes_in_bulk: AtomicBool,
    creates_only: OnceCell<bool>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({self})")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, endpoint, prefix, .. } = self;
        match prefix.as_str() {
            "" => write!(f, "bucket {name} at {endpoint}"),
            prefix => write!(f, "bucket {name} at {endpoint}, below {prefix}"),
        }
    }
}

/// Why a bucket cannot be set up.
#[derive(Debug, Error)]
pub enum BucketError {
    /// The secret key cannot be read.
    #[error("secret_access_key: {0}")]
    Secret(std::io::Error),
    /// There is no client.
    #[error(transparent)]
    Client(#[from] RemoteError),
    /// The library refuses what the config's check let through.
    #[error("the object store's settings: {0}")]
    Settings(String),
}

impl Bucket {
    /// The bucket of a section. Nothing is asked yet.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub fn new(config: &S3Config) -> Result<Self, BucketError> {
        let secret = config.secret().map_err(BucketError::Secret)?;
        let timeout = Duration::from_secs_f64(config.timeout_seconds);
        let client = Client::new(&config.bucket, config.is_https(), timeout.mul_f64(ATTEMPT_SHARE))?;
        let connector = Connector(Arc::new(client));
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: PAUSES.0, max_backoff: PAUSES.1, base: 2.0 },
            max_retries: RETRIES,
            retry_timeout: timeout,
        };
        let store = |removes_one_by_one| {
            AmazonS3Builder::new()
                .with_endpoint(config.bucket_endpoint())
                .with_virtual_hosted_style_request(!config.path_style)
                .with_region(&config.region)
                .with_bucket_name(&config.bucket)
                .with_access_key_id(&config.access_key_id)
                .with_secret_access_key(secret.expose())
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_disable_bulk_delete(removes_one_by_one)
                .with_retry(retry.clone())
                .with_http_connector(connector.clone())
                .build()
                .map_err(|error| BucketError::Settings(error.to_string()))
        };
        Ok(Self {
            name: config.bucket.clone(),
            endpoint: config.endpoint.clone(),
            prefix: config.prefix.clone(),
            timeout,
            store: store(false)?,
            plain: store(true)?,
            removes_in_bulk: AtomicBool::new(true),
            creates_only: OnceCell::new(),
        })
    }

    /// The longest time for one call, second attempts included.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn path(&self, key: &str) -> Result<Path, S3Error> {
        Path::parse(format!("{}{key}", self.prefix))
            .map_err(|_| S3Error::new(S3ErrorKind::NoSuchKey, "not a key that an object can have"))
    }

    async fn bounded<T>(&self, call: impl Future<Output = object_store::Result<T>>) -> Result<T, S3Error> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result.map_err(|error| S3Error::of(&error)),
            Err(_) => {
                let message = format!("no answer within {} s", self.timeout.as_secs_f64());
                Err(S3Error::new(S3ErrorKind::TimedOut, message))
            }
        }
    }

    /// What the store says of an object; `None` if there is none, or no bucket.
    ///
    /// # Errors
    /// [`S3Error`].
    pub async fn head(&self, key: &str) -> Result<Option<Object>, S3Error> {
        let path = self.path(key)?;
        match self.bounded(self.store.head(&path)).await {
            Ok(meta) => Ok(Some(meta.into())),
            Err(error) if error.kind == S3ErrorKind::NoSuchKey => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks whether the bucket is there and may be read from.
    ///
    /// # Errors
    /// [`S3Error`].
    pub async fn is_there(&self) -> Result<(), S3Error> {
        let path = self.path(NOTHING)?;
        // A HEAD would be told nothing but the status, and that is the same for a missing bucket.
        match self.bounded(self.store.get_opts(&path, GetOptions::default())).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == S3ErrorKind::NoSuchKey => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes an object to a file that is empty, unless it has more than `max_bytes` bytes: then nothing is written.
    ///
    /// What comes is one version's bytes: the answer that says the version brings them, and an attempt that goes on where
    /// another broke off asks for that version alone (`If-Match`).
    ///
    /// # Errors
    /// [`S3Error`]; an answer that ends too soon is one.
    pub async fn get(&self, key: &str, file: File, max_bytes: u64) -> Result<(Object, File), S3Error> {
        let path = self.path(key)?;
        let call = async {
            let answer = self.store.get_opts(&path, GetOptions::default()).await?;
            let object = Object::from(answer.meta.clone());
            let mut file = tokio::fs::File::from_std(file);
            if object.bytes > max_bytes {
                return Ok((object, Ok(0), file));
            }
            let (mut stream, mut bytes) = (answer.into_stream(), 0);
            while let Some(chunk) = stream.try_next().await? {
                bytes += chunk.len() as u64;
                if let Err(error) = file.write_all(&chunk).await {
                    return Ok((object, Err(error), file));
                }
            }
            let written = file.flush().await.map(|()| bytes);
            Ok((object, written, file))
        };
        let (object, written, file) = self.bounded(call).await?;
        let odd = |message: String| S3Error::new(S3ErrorKind::Failed, message);
        match written {
            Err(error) => Err(odd(format!("the copy cannot be written: {error}"))),
            Ok(_) if object.bytes > max_bytes => Ok((object, file.into_std().await)),
            Ok(bytes) if bytes == object.bytes => Ok((object, file.into_std().await)),
            Ok(bytes) => Err(odd(format!("{bytes} of {} bytes came", object.bytes))),
        }
    }

    /// A small object's bytes, if it is there.
    ///
    /// # Errors
    /// [`S3Error`], also for one of more than `max_bytes` bytes.
    pub async fn read(&self, key: &str, max_bytes: u64) -> Result<Option<Bytes>, S3Error> {
        let path = self.path(key)?;
        let call = async {
            let answer = self.store.get_opts(&path, GetOptions::default()).await?;
            if answer.meta.size > max_bytes {
                return Ok(None);
            }
            answer.bytes().await.map(Some)
        };
        match self.bounded(call).await {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(S3Error::new(S3ErrorKind::Failed, format!("it has more than {max_bytes} bytes"))),
            Err(error) if error.kind == S3ErrorKind::NoSuchKey => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts an object, by one request: it is there whole, or not at all.
    ///
    /// # Errors
    /// [`S3Error`].
    pub async fn put(&self, key: &str, bytes: Bytes, media_type: &'static str) -> Result<(), S3Error> {
        self.put_as(key, bytes, media_type, PutMode::Overwrite).await
    }

    async fn put_as(&self, key: &str, bytes: Bytes, media_type: &'static str, mode: PutMode) -> Result<(), S3Error> {
        let path = self.path(key)?;
        let attributes = Attributes::from_iter([(Attribute::ContentType, media_type)]);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        self.bounded(self.store.put_opts(&path, bytes.into(), options)).await.map(|_| ())
    }

    /// Puts an object unless there is one. Whether the store can is found out first, once: one that does not know
    /// `If-None-Match` overwrites without a word.
    ///
    /// # Errors
    /// [`S3Error`].
    pub async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Creation, S3Error> {
        if !self.creates_only(key).await? {
            return Ok(Creation::Unsupported);
        }
        self.create(key, bytes).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<Creation, S3Error> {
        match self.put_as(key, bytes, "application/octet-stream", PutMode::Create).await {
            Ok(()) => Ok(Creation::Created),
            Err(error) if error.kind == S3ErrorKind::Precondition => Ok(Creation::Exists),
            Err(error) if error.kind == S3ErrorKind::NotSupported => Ok(Creation::Unsupported),
            Err(error) => Err(error),
        }
    }

    /// Whether the store refuses to create what is there: tried with an object of our own beside `key`, and remembered.
    ///
    /// # Errors
    /// [`S3Error`]; then it is tried again.
    pub async fn creates_only(&self, beside: &str) -> Result<bool, S3Error> {
        let trial = async {
            let folder = beside.rfind('/').map_or("", |slash| &beside[..=slash]);
            let key = format!("{folder}.tmp-create-{}", random_name());
            let once = || self.create(&key, Bytes::from_static(b"sendimage was here"));
            let answers = async { Ok::<_, S3Error>((once().await?, once().await?)) }.await;
            let removed = self.delete(&key).await;
            let answers = answers?;
            removed?;
            Ok(answers == (Creation::Created, Creation::Exists))
        };
        self.creates_only.get_or_try_init(|| trial).await.copied()
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// [`S3Error`].
    pub async fn delete(&self, key: &str) -> Result<(), S3Error> {
        let path = self.path(key)?;
        self.remove_plainly(vec![path]).await
    }

    /// Objects whose keys begin with `folder` and a slash: key and length.
    ///
    /// # Errors
    /// [`S3Error`].
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, S3Error> {
        let path = self.path(folder)?;
        let found: Vec<ObjectMeta> = self.bounded(self.store.list(Some(&path)).try_collect()).await?;
        let below = |meta: ObjectMeta| {
            let key = meta.location.as_ref().strip_prefix(&self.prefix)?.to_owned();
            Some((key, meta.size))
        };
        Ok(found.into_iter().filter_map(below).collect())
    }

    /// As [`Self::list`], page by page, for more than fits into memory; of `""` everything. Each page has the time of one call; after a failure there
    /// is no more.
    ///
    /// # Errors
    /// [`S3Error`], as an item.
    pub fn list_pages(&self, folder: &str) -> impl Stream<Item = Result<(String, Object), S3Error>> + Send + '_ {
        // A key that is none lists nothing else than an error. The library wants a folder's name where there is one.
        let path = match folder {
            "" => Ok(Path::parse(self.prefix.trim_end_matches('/')).ok().filter(|path| !path.as_ref().is_empty())),
            _ => self.path(folder).map(Some),
        };
        let pages = path.map(|path| self.store.list(path.as_ref()));
        futures_util::stream::unfold(Some(pages), async move |pages| {
            let mut pages = match pages? {
                Ok(pages) => pages,
                Err(error) => return Some((Err(error), None)),
            };
            loop {
                let next = self.bounded(async { pages.next().await.transpose() }).await;
                match next {
                    Ok(None) => return None,
                    Ok(Some(meta)) => {
                        let Some(key) = meta.location.as_ref().strip_prefix(&self.prefix) else { continue };
                        return Some((Ok((key.to_owned(), meta.into())), Some(Ok(pages))));
                    }
                    Err(error) => return Some((Err(error), None)),
                }
            }
        })
    }

    /// Removes objects: a thousand in a request where the store knows how.
    ///
    /// # Errors
    /// [`S3Error`]; some may be gone by then.
    pub async fn delete_all(&self, keys: &[String]) -> Result<(), S3Error> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>, _>>()?;
        if paths.is_empty() {
            return Ok(());
        }
        if paths.len() == 1 || !self.removes_in_bulk.load(Ordering::Relaxed) {
            return self.remove_plainly(paths).await;
        }
        let stream = futures_util::stream::iter(paths.clone()).map(Ok).boxed();
        let refused = match self.bounded(self.store.delete_stream(stream).try_collect::<Vec<_>>()).await {
            Err(error) if matches!(error.kind, S3ErrorKind::NotSupported | S3ErrorKind::Failed) => error,
            result => return result.map(|_| ()),
        };
        let removed = self.remove_plainly(paths).await;
        // A store that fails at both may only be ill.
        if refused.kind == S3ErrorKind::NotSupported || removed.is_ok() {
            tracing::info!(bucket = %self, error = %refused, "objects are removed one by one");
            self.removes_in_bulk.store(false, Ordering::Relaxed);
        }
        removed
    }

    async fn remove_plainly(&self, paths: Vec<Path>) -> Result<(), S3Error> {
        let stream = futures_util::stream::iter(paths).map(Ok).boxed();
        let mut removed = self.plain.delete_stream(stream);
        let all = async {
            while let Some(one) = removed.next().await {
                match one {
                    // Another one was quicker, and this store says so.
                    Err(error) if S3Error::of(&error).kind == S3ErrorKind::NoSuchKey => {}
                    result => _ = result?,
                }
            }
            Ok(())
        };
        self.bounded(all).await
    }

    /// An address that an object can be asked for at without any credentials, by this method, for a while. `query` is signed
    /// too. Nothing is asked.
    ///
    /// # Errors
    /// [`S3Error`] for what is no key.
    pub async fn presign(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        life: Duration,
    ) -> Result<Presigned, S3Error> {
        let path = self.path(key)?;
        let options = SignedUrlOptions::new().with_query(query.iter().copied());
        let signed = self.store.signed_url_opts(method, &path, life, &options).await;
        let url = signed.map_err(|error| S3Error::of(&error))?;
        Ok(Presigned { query: url.query().unwrap_or_default().to_owned(), url: url.into() })
    }
}

/// An address that is its own permission: whoever has it has the object. It stays out of logs.
pub struct Presigned {
    /// The whole address.
    pub url: String,
    /// What follows its `?`.
    pub query: String,
}
