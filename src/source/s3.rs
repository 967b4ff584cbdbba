//! Originals in an S3-compatible object store: a file's path is its key, below the section's prefix.
//!
//! A version is what a HEAD says: `ETag`, length, `Last-Modified`. The bytes come with the same three in their own answer, so
//! they are of the version that is said with them, whatever was asked for before.

use std::fs::File;

use futures_util::stream::StreamExt as _;

use super::{Answer, Backend, Listed, Listing, Pending, SourceError, Stat, Validators};
use crate::{
    model::{EntityTag, MediaPath},
    remote::s3::{Bucket, Object, S3Error, S3ErrorKind},
};

/// A bucket that originals are in.
pub struct S3Source {
    bucket: Bucket,
    /// The longest original.
    max_bytes: u64,
}

impl S3Source {
    /// The originals of a bucket, of so many bytes at most.
    pub fn new(bucket: Bucket, max_bytes: u64) -> Self {
        Self { bucket, max_bytes }
    }

    /// There is no such object. A HEAD is told the same where the bucket is missing: then nothing is known about the file.
    async fn gone(&self) -> SourceError {
        match self.bucket.is_there().await {
            Ok(()) => SourceError::Gone("the store has no such object"),
            Err(error) => said(&error),
        }
    }

    async fn see(&self, path: &MediaPath) -> Result<Answer, SourceError> {
        match self.bucket.head(path.as_str()).await {
            Ok(Some(object)) => {
                let validators = Validators { etag: object.etag.clone(), last_modified: None };
                Ok(Answer::Version { stat: stat(&object), validators, copy: None })
            }
            Ok(None) => Err(self.gone().await),
            Err(error) => Err(said(&error)),
        }
    }

    async fn copy(&self, path: &MediaPath, copy: File) -> Result<(Stat, File), SourceError> {
        match self.bucket.get(path.as_str(), copy, self.max_bytes).await {
            Ok((object, _)) if object.bytes > self.max_bytes => Err(SourceError::TooLong(self.max_bytes)),
            Ok((object, copy)) => Ok((stat(&object), copy)),
            Err(error) if error.kind == S3ErrorKind::NoSuchKey => Err(self.gone().await),
            Err(error) => Err(said(&error)),
        }
    }
}

fn stat(object: &Object) -> Stat {
    let etag = object.etag.as_deref().map(|etag| EntityTag::of(&[etag.as_bytes()]));
    Stat { bytes: object.bytes, modified_ns: object.modified_ns, etag }
}

fn said(error: &S3Error) -> SourceError {
    let message = error.to_string();
    match error.kind {
        S3ErrorKind::NoSuchBucket | S3ErrorKind::Busy | S3ErrorKind::Unreachable => SourceError::Unavailable(message),
        S3ErrorKind::TimedOut => SourceError::TimedOut(message),
        S3ErrorKind::NoSuchKey
        | S3ErrorKind::Denied
        | S3ErrorKind::Precondition
        | S3ErrorKind::NotSupported
        | S3ErrorKind::Failed => SourceError::Failed(message),
    }
}

impl Backend for S3Source {
    fn ask<'a>(&'a self, path: &'a MediaPath, _: Option<&'a Validators>) -> Pending<'a, Answer> {
        Box::pin(self.see(path))
    }

    fn fetch<'a>(&'a self, path: &'a MediaPath, copy: File) -> Pending<'a, (Stat, File)> {
        Box::pin(self.copy(path, copy))
    }

    fn list(&self) -> Option<Listing<'_>> {
        let file = |found: Result<(String, Object), S3Error>| match found {
            // No URL can name a key that is no path: a folder's own, say, which ends in a slash.
            Ok((key, object)) => Some(Ok(Listed { path: MediaPath::parse(&key).ok()?, stat: stat(&object) })),
            Err(error) => Some(Err(said(&error))),
        };
        Some(self.bucket.list_pages("").filter_map(move |found| std::future::ready(file(found))).boxed())
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async move {
            match self.bucket.is_there().await {
                Ok(()) => Ok(format!("{} can be read", self.bucket)),
                Err(error) => Err(said(&S3Error { message: format!("{}: {error}", self.bucket), ..error })),
            }
        })
    }
}
