//! A walk through a bucket: its listing, page by page. Stores list keys in order, so what is of one source image comes together;
//! from one that does not, an image may come in several parts.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;

use super::{Depth, Found, ImageFolder, Kind, RenditionFile, Unfinished, Walk, Walked};
use crate::{
    model::{SourceKey, key::LAYOUT},
    remote::s3::{Bucket, Object},
    store::{StoreError, s3::read_record},
};

/// Begins a walk through the bucket of a store.
pub(in crate::store) fn of_objects(bucket: Arc<Bucket>, depth: Depth) -> Walk {
    let (found, walk) = Walk::begin();
    // It ends when nobody takes what it finds.
    tokio::spawn(async move { Walker { bucket, depth, found }.walk().await });
    walk
}

struct Walker {
    bucket: Arc<Bucket>,
    depth: Depth,
    found: Found,
}

impl Walker {
    /// `None` when nobody wants the rest.
    async fn walk(&self) -> Option<()> {
        let mut objects = pin!(self.bucket.list_pages(LAYOUT));
        let mut image: Option<ImageFolder> = None;
        while let Some(object) = objects.next().await {
            let (key, object) = match object {
                Ok(object) => object,
                Err(error) => {
                    self.tell(Err(StoreError::of_s3("list the objects", &error))).await?;
                    break;
                }
            };
            let Some((of, name)) = place(&key) else {
                let is_unfinished = key.split('/').skip(1).any(|segment| segment.starts_with('.'));
                let found = match is_unfinished {
                    true => Walked::Unfinished(Unfinished { path: key, bytes: object.bytes }),
                    false => Walked::Foreign(key),
                };
                self.tell(Ok(found)).await?;
                continue;
            };
            if image.as_ref().is_none_or(|image| image.key != of) {
                self.finish(image.replace(ImageFolder::new(of))).await?;
            }
            let Some(image) = &mut image else { continue };
            match Kind::of(name) {
                Kind::Record => image.recorded = Some(put_at(&object)),
                Kind::Rendition(name_says) => image.renditions.push(RenditionFile {
                    bytes: object.bytes,
                    published: put_at(&object),
                    generation: name_says.generation,
                    format: name_says.format,
                    path: key,
                }),
                Kind::Foreign => self.tell(Ok(Walked::Foreign(key))).await?,
            }
        }
        self.finish(image).await
    }

    async fn finish(&self, image: Option<ImageFolder>) -> Option<()> {
        let Some(mut image) = image else { return Some(()) };
        if self.depth == Depth::Records {
            match read_record(&self.bucket, &image.key).await {
                Ok(record) => image.record = record,
                Err(error) => self.tell(Err(StoreError::of_s3("read a record", &error))).await?,
            }
        }
        self.tell(Ok(Walked::Image(image))).await
    }

    async fn tell(&self, found: Result<Walked, StoreError>) -> Option<()> {
        self.found.send(found).await.ok()
    }
}

/// The source image and the name of an object in its folder; `None` for one that is in no image's folder.
fn place(key: &str) -> Option<(SourceKey, &str)> {
    let (folder, name) = key.rsplit_once('/')?;
    let of = SourceKey::of_directory_name(folder.rsplit('/').next()?)?;
    (of.directory() == folder).then_some((of, name))
}

fn put_at(object: &Object) -> SystemTime {
    let since = u64::try_from(object.modified_ns).map_or(Duration::ZERO, Duration::from_nanos);
    SystemTime::UNIX_EPOCH + since
}
