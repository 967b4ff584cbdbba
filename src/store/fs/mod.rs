//! Our own tree in a folder that nginx reads: temporary file, fsync, rename.
//!
//! nginx never meets half an image: a name appears only once its bytes are on the disk. Without the fsync a crash of the
//! machine leaves empty or NUL-filled files under final names, on ext4 and on xfs; without one of the directory the name
//! may be missing, and the rendition is made again.

mod draft;
mod record;
mod removal;
mod tree;

use std::{
    fs::File,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::{Errno, retry_on_intr},
};

use self::draft::FsDraft;
pub(crate) use self::tree::Tree;
use super::{
    Candidate, Depth, Draft, Evicted, Owner, Pending, Removed, RenditionFile, SourceRecord, Space, Store, StoreError,
    StoredRendition, Walk, evict, sweep, walk,
};
use crate::{
    config::StoreConfig,
    model::{RenditionKey, SourceKey, key::LAYOUT},
};

/// The folder of unfinished files and of leases, below the layout's own: a sweep looks here and nowhere else.
pub(crate) const DRAFTS: &str = ".tmp-drafts";

/// A store in a folder.
pub struct FsStore {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Tree,
    file_mode: Mode,
    owner: Owner,
    counter: AtomicU64,
}

impl FsStore {
    /// A store at `store.root`. The folder need not be there yet.
    pub fn new(config: &StoreConfig) -> Self {
        let inner = Inner {
            tree: Tree::new(config),
            file_mode: Mode::from_raw_mode(config.file_mode.0),
            owner: Owner::this_process(),
            counter: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl Inner {
    /// Hot path: one `stat` gives the length. An empty file, which no encoder makes, and anything that is no file count as
    /// absent and are replaced by the next render.
    fn look(&self, key: &RenditionKey) -> io::Result<Option<u64>> {
        let path = self.tree.root().join(key.path());
        match uninterrupted(|| std::fs::symlink_metadata(&path)) {
            Ok(metadata) if metadata.is_file() && metadata.size() > 0 => Ok(Some(metadata.size())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, path: &str, max_bytes: u64) -> io::Result<Option<Bytes>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(max_bytes + 1).read_to_end(&mut bytes)?;
        Ok((read as u64 <= max_bytes).then(|| bytes.into()))
    }

    /// The room of the root's file system; its parent's, while it is not there yet.
    fn space(&self) -> io::Result<Space> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
        let folder = match open(self.tree.root()) {
            Err(Errno::NOENT) => open(self.tree.root().parent().unwrap_or(self.tree.root()))?,
            result => result?,
        };
        evict::space(folder)
    }

    /// Opens a file below the root for reading, if it is there. No link is followed, and a FIFO is not waited for.
    fn open(&self, path: &str) -> io::Result<Option<File>> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = self
            .tree
            .open_dir(folder)
            .and_then(|folder| Ok(retry_on_intr(|| rustix::fs::openat(&folder, name, flags, Mode::empty()))?));
        match opened {
            Ok(file) => Ok(Some(file.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn probe(self: &Arc<Self>) -> io::Result<String> {
        use io::Write as _;
        let mut temporary = self.temporary()?;
        temporary.file.write_all(b"sendimage was here")?;
        temporary.file.sync_all()?;
        let name = format!("{}-renamed", temporary.name.as_deref().unwrap_or_default());
        let folder = temporary.folder.try_clone()?;
        temporary.rename(folder.as_fd(), &name)?;
        retry_on_intr(|| rustix::fs::unlinkat(&folder, name.as_str(), AtFlags::empty()))?;
        Ok(format!("folder {} takes, syncs and renames files", self.tree.root().display()))
    }
}

/// Makes a call again that a signal broke off, as [`retry_on_intr`] does: FUSE and network file systems let them through.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Runs a blocking call on the blocking pool. Only misses come here.
fn blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    call: impl FnOnce(&Arc<Inner>) -> Result<T, StoreError> + Send + 'static,
) -> Pending<'static, T> {
    let inner = inner.clone();
    Box::pin(async move {
        let called = tokio::task::spawn_blocking(move || call(&inner)).await;
        called.unwrap_or_else(|error| Err(StoreError::new("end a call", &io::Error::other(error))))
    })
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::new(action, &error)
}

impl Store for FsStore {
    fn find<'a>(&'a self, key: &'a RenditionKey) -> Pending<'a, Option<StoredRendition>> {
        let found = self.inner.look(key).map_err(|error| StoreError::new("look up a rendition", &error));
        Box::pin(std::future::ready(found.map(|bytes| bytes.map(|bytes| StoredRendition::new(key, bytes)))))
    }

    fn find_now(&self, key: &RenditionKey) -> Option<u64> {
        self.inner.look(key).ok().flatten()
    }

    fn read<'a>(&'a self, stored: &'a StoredRendition, max_bytes: u64) -> Pending<'a, Option<Bytes>> {
        let path = stored.path.clone();
        blocking(&self.inner, move |inner| inner.read(&path, max_bytes).map_err(failed("read a rendition")))
    }

    fn draft<'a>(&'a self, key: &'a RenditionKey) -> Pending<'a, Box<dyn Draft>> {
        let key = key.clone();
        blocking(&self.inner, move |inner| {
            let temporary = inner.temporary().map_err(failed("begin a file"))?;
            Ok(Box::new(FsDraft { temporary, key, store: inner.clone() }) as Box<dyn Draft>)
        })
    }

    fn record<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, Option<SourceRecord>> {
        let source = source.clone();
        blocking(&self.inner, move |inner| inner.record(&source).map_err(failed("read a record")))
    }

    fn remember<'a>(&'a self, source: &'a SourceKey, record: &'a SourceRecord) -> Pending<'a, ()> {
        let (source, record) = (source.clone(), record.clone());
        blocking(&self.inner, move |inner| inner.remember(&source, &record))
    }

    fn remove<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, Removed> {
        let source = source.clone();
        blocking(&self.inner, move |inner| inner.remove(&source).map_err(failed("remove a source image's folder")))
    }

    fn open<'a>(&'a self, path: &'a str) -> Pending<'a, Option<File>> {
        let path = path.to_owned();
        blocking(&self.inner, move |inner| inner.open(&path).map_err(failed("open a rendition")))
    }

    fn discard<'a>(&'a self, renditions: &'a [RenditionFile]) -> Pending<'a, Removed> {
        let renditions = renditions.to_vec();
        blocking(&self.inner, move |inner| inner.discard(&renditions).map_err(failed("remove renditions")))
    }

    fn tidy<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, bool> {
        let source = source.clone();
        blocking(&self.inner, move |inner| inner.tidy(&source).map_err(failed("remove a record")))
    }

    fn walk(&self, depth: Depth) -> Walk {
        walk::of_folders(self.inner.tree.root().to_owned(), depth)
    }

    fn evict(&self, candidates: Vec<Candidate>) -> Pending<'_, Vec<Evicted>> {
        blocking(&self.inner, move |inner| Ok(inner.evict(&candidates)))
    }

    fn absent(&self, paths: Vec<String>) -> Pending<'_, Vec<String>> {
        blocking(&self.inner, move |inner| {
            let is_gone = |path: &String| {
                let found = uninterrupted(|| std::fs::symlink_metadata(inner.tree.root().join(path)));
                matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound)
            };
            // A store that is not there at all, as its disk may not be mounted, is nothing to conclude from.
            inner.tree.root().join(LAYOUT).metadata().map_err(failed("look at its root"))?;
            Ok(paths.into_iter().filter(is_gone).collect())
        })
    }

    fn space(&self) -> Pending<'_, Option<Space>> {
        blocking(&self.inner, |inner| inner.space().map(Some).map_err(failed("ask for its room")))
    }

    fn probe(&self) -> Pending<'_, String> {
        blocking(&self.inner, |inner| inner.probe().map_err(failed("write a test file")))
    }

    fn sweep(&self, dry_run: bool) -> Pending<'_, u64> {
        blocking(&self.inner, move |inner| {
            sweep::sweep(&inner.tree.root().join(LAYOUT).join(DRAFTS), &inner.owner, dry_run)
                .map_err(failed("sweep leftovers"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ImageFormat, MediaPath, SourceRef, SourceVersion},
        store::RECORD,
    };
    use std::{
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    pub fn key(recipe: &str) -> RenditionKey {
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("a.jpg").unwrap() };
        RenditionKey::new(&location, &version(), recipe, ImageFormat::Webp)
    }

    pub fn version() -> SourceVersion {
        SourceVersion { bytes: 1, modified_ns: 2, etag: None, file_hash: None }
    }

    pub fn store() -> (tempfile::TempDir, FsStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FsStore::new(&StoreConfig { root: folder.path().join("r"), ..StoreConfig::default() });
        (folder, store)
    }

    pub async fn put(store: &FsStore, key: &RenditionKey, bytes: &[u8]) -> Result<StoredRendition, StoreError> {
        let draft = store.draft(key).await?;
        draft.file().write_all(bytes).unwrap();
        draft.publish().await
    }

    pub fn drafts(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path().join("r").join(LAYOUT).join(DRAFTS)).map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn a_published_rendition_is_found_readable_and_dated_by_its_key() {
        let (folder, store) = store();
        let key = key("x");
        assert_eq!(store.find(&key).await, Ok(None));
        let stored = put(&store, &key, b"bytes").await.unwrap();
        assert_eq!(store.find(&key).await, Ok(Some(stored.clone())));
        let metadata = std::fs::metadata(folder.path().join("r").join(&stored.path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
        assert_eq!(metadata.modified().unwrap(), key.modified());
        let parent = folder.path().join("r").join(key.source().directory());
        assert_eq!(std::fs::metadata(parent).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(drafts(&folder), 0);
    }

    #[tokio::test]
    async fn what_is_read_lies_beneath_the_root_and_is_not_waited_for() {
        let (folder, store) = store();
        let key = key("x");
        let stored = put(&store, &key, b"bytes").await.unwrap();
        assert_eq!(store.read(&stored, 5).await.unwrap().as_deref(), Some(&b"bytes"[..]));
        assert_eq!(store.read(&stored, 4).await, Ok(None));
        let (path, outside) = (folder.path().join("r").join(&stored.path), folder.path().join("outside"));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let read = tokio::time::timeout(std::time::Duration::from_secs(5), store.read(&stored, 5)).await;
        assert_ne!(read.expect("an answer at once").unwrap().map(|bytes| bytes.len()), Some(5));
        std::fs::remove_file(&path).unwrap();
        symlink("/etc/hostname", &path).unwrap();
        assert!(store.read(&stored, 1 << 20).await.is_err());
        // A folder that was swapped for a link: neither a rendition nor a record is read through it.
        let directory = path.parent().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(directory, &outside).unwrap();
        std::fs::write(outside.join(path.file_name().unwrap()), "other").unwrap();
        std::fs::write(outside.join(RECORD), "{}").unwrap();
        symlink(&outside, directory).unwrap();
        assert!(store.read(&stored, 5).await.is_err());
        assert!(store.record(key.source()).await.is_err());
    }

    #[tokio::test]
    async fn the_probe_says_what_the_disk_says() {
        let (folder, store) = store();
        assert!(store.probe().await.is_ok());
        assert_eq!(drafts(&folder), 0);
        let missing = StoreConfig { root: folder.path().join("no/such/parent"), ..StoreConfig::default() };
        assert_eq!(FsStore::new(&missing).probe().await.unwrap_err().kind, "enoent");
    }
}
