//! Our own tree in a folder that nginx reads: temporary file, fsync, rename.
//!
//! nginx never meets half an image: a name appears only once its bytes are on the disk. Without the fsync a crash of the
//! machine leaves empty or NUL-filled files under final names, on ext4 and on xfs; without one of the directory the name
//! may be missing, and the rendition is made again.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps},
    io::{Errno, retry_on_intr},
};

use super::{
    Candidate, Depth, Draft, Evicted, Owner, Pending, RECORD, RECORD_BYTES, Removed, RenditionFile, SourceRecord,
    Space, Store, StoreError, StoredRendition, Tree, Walk, evict, sweep, walk,
};
use crate::{
    config::StoreConfig,
    model::{RenditionKey, SourceKey, key::LAYOUT},
};

/// The folder of unfinished files and of leases, below the layout's own: a sweep looks here and nowhere else.
pub(crate) const DRAFTS: &str = ".tmp-drafts";
/// How often a folder is made anew that is removed before a file gets into it.
const FOLDER_ATTEMPTS: u32 = 16;

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

    /// A new file with a temporary name.
    fn temporary(self: &Arc<Self>) -> io::Result<Temporary> {
        let folder = self.tree.make_dir(&format!("{LAYOUT}/{DRAFTS}"))?;
        let name = sweep::draft_name(&self.owner, self.counter.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = retry_on_intr(|| rustix::fs::openat(&folder, name.as_str(), flags, mode))?;
        Ok(Temporary { file: File::from(file), folder, name: Some(name) })
    }

    fn publish(&self, draft: &mut FsDraft) -> Result<StoredRendition, StoreError> {
        let file = &draft.temporary.file;
        let bytes = uninterrupted(|| file.metadata()).map_err(failed("stat a finished file"))?.len();
        if bytes == 0 {
            let error = io::Error::other("the rendition has no bytes");
            return Err(StoreError::new("publish an empty file", &error));
        }
        retry_on_intr(|| rustix::fs::fchmod(file, self.file_mode))
            .map_err(|e| failed("set a file's mode")(e.into()))?;
        let modified = timespec(draft.key.modified());
        let times = Timestamps { last_access: modified, last_modification: modified };
        retry_on_intr(|| rustix::fs::futimens(file, &times)).map_err(|e| failed("set a file's time")(e.into()))?;
        file.sync_all().map_err(failed("fsync"))?;
        let path = draft.key.path().to_owned();
        let name = path.rsplit('/').next().unwrap_or(&path);
        self.settle(&mut draft.temporary, draft.key.source(), name)?;
        Ok(StoredRendition::new(&draft.key, bytes))
    }

    /// Gives a file its name in a source image's folder. A purge may remove the folder after it was made and before the file
    /// is in it: then it is made again.
    fn settle(&self, temporary: &mut Temporary, source: &SourceKey, name: &str) -> Result<(), StoreError> {
        let settle = |temporary: &mut Temporary| {
            let directory = self.tree.make_dir(&source.directory()).map_err(|error| ("make a folder", error))?;
            temporary.rename(directory.as_fd(), name).map_err(|error| ("rename", error))
        };
        let mut attempts = FOLDER_ATTEMPTS;
        loop {
            attempts -= 1;
            match settle(temporary) {
                Err((_, error)) if error.kind() == io::ErrorKind::NotFound && attempts > 0 => {}
                result => return result.map_err(|(action, error)| StoreError::new(action, &error)),
            }
        }
    }

    /// Removes a source image's folder. Names that begin with a dot, the record's, are no renditions and not counted.
    fn remove(&self, source: &SourceKey) -> io::Result<Removed> {
        let path = source.directory();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let mut removed = Removed::default();
        let parent = match self.tree.open_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
            result => result?,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match retry_on_intr(|| rustix::fs::openat(&parent, name, flags, Mode::empty())) {
            Err(Errno::NOENT) => return Ok(removed),
            result => result?,
        };
        let mut entries = Dir::read_from(&folder)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match retry_on_intr(|| rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            match retry_on_intr(|| rustix::fs::unlinkat(&folder, name, AtFlags::empty())) {
                // Another purge was quicker; a folder is nothing that we made, and stays.
                Err(Errno::NOENT | Errno::ISDIR) => continue,
                result => result?,
            }
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && !name.to_bytes().starts_with(b".") {
                removed = removed + Removed { files: 1, bytes: stat.st_size.unsigned_abs() };
            }
        }
        match retry_on_intr(|| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)) {
            // Something was published meanwhile.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(removed),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes single renditions, and what is left of their folders when they were the last.
    fn evict(self: &Arc<Self>, candidates: &[Candidate]) -> Vec<Evicted> {
        let evict = |Candidate { path, made_before }: &Candidate| {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let folder = match self.tree.open_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Evicted::Absent),
                result => result?,
            };
            let evicted = evict::evict(&folder, name, *made_before)?;
            let image = directory.rsplit_once('/').and_then(|(_, name)| SourceKey::of_directory_name(name));
            // A store that keeps neither records nor folders of what nobody wants stays small. What cannot go is for `gc`.
            if let (Evicted::Removed { .. }, Some(image)) = (&evicted, image) {
                let _ = self.tidy(&image);
            }
            Ok(evicted)
        };
        let failed = |error| Evicted::Failed(StoreError::new("remove a rendition", &error));
        candidates.iter().map(|candidate| evict(candidate).unwrap_or_else(failed)).collect()
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

    fn discard(&self, renditions: &[RenditionFile]) -> io::Result<Removed> {
        let mut removed = Removed::default();
        for RenditionFile { path, bytes, .. } in renditions {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let unlinked = self
                .tree
            .open_dir(folder)
                .and_then(|folder| Ok(retry_on_intr(|| rustix::fs::unlinkat(&folder, name, AtFlags::empty()))?));
            match unlinked {
                Ok(()) => removed = removed + Removed { files: 1, bytes: *bytes },
                // A purge or another gc was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn tidy(self: &Arc<Self>, source: &SourceKey) -> io::Result<bool> {
        let path = source.directory();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let (parent, folder) = match self.tree.open_dir(parent).and_then(|parent| Ok((parent, self.tree.open_dir(&path)?))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        let mut entries = Dir::read_from(&retry_on_intr(|| {
            rustix::fs::openat(&folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        })?)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && name != RECORD.as_bytes() {
                return Ok(false);
            }
        }
        let record = self.record_text(source)?;
        match retry_on_intr(|| rustix::fs::unlinkat(&folder, RECORD, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match retry_on_intr(|| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                // Something was published meanwhile, by a process that believes in the record.
                if let Some(text) = record {
                    self.put_back(folder.as_fd(), &text)?;
                }
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a source image's folder its record back, unless it has another one by now.
    fn put_back(self: &Arc<Self>, folder: BorrowedFd<'_>, text: &[u8]) -> io::Result<()> {
        use io::Write as _;
        let mut temporary = self.temporary()?;
        temporary.file.write_all(text)?;
        let Some(name) = &temporary.name else { return Ok(()) };
        let (from, flags) = (&temporary.folder, RenameFlags::NOREPLACE);
        // Where it cannot be, the next request for the image writes one.
        if retry_on_intr(|| rustix::fs::renameat_with(from, name.as_str(), folder, RECORD, flags)).is_ok() {
            temporary.name = None;
        }
        Ok(())
    }

    fn record(&self, source: &SourceKey) -> io::Result<Option<SourceRecord>> {
        Ok(self.record_text(source)?.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    fn record_text(&self, source: &SourceKey) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(&format!("{}/{RECORD}", source.directory()))? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(RECORD_BYTES).read_to_end(&mut text)?;
        Ok(Some(text))
    }

    /// Not synced to the disk: a record lost or torn by a power cut is no record, and the next request probes again.
    fn remember(self: &Arc<Self>, source: &SourceKey, record: &SourceRecord) -> Result<(), StoreError> {
        use io::Write as _;
        let written = self.temporary().and_then(|mut temporary| {
            temporary.file.write_all(&serde_json::to_vec(record)?)?;
            Ok(temporary)
        });
        let mut temporary = written.map_err(|error| StoreError::new("write a record", &error))?;
        self.settle(&mut temporary, source, RECORD)
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

/// A file with a temporary name, removed when dropped before it is renamed.
struct Temporary {
    file: File,
    folder: OwnedFd,
    name: Option<String>,
}

impl Temporary {
    fn rename(&mut self, folder: impl AsFd, name: &str) -> io::Result<()> {
        let Some(old) = &self.name else { return Err(io::Error::other("the file has its name already")) };
        retry_on_intr(|| rustix::fs::renameat(&self.folder, old.as_str(), &folder, name))?;
        self.name = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Removing needs no space, so this works on a full disk too; what it cannot remove the sweep will.
            let _ = retry_on_intr(|| rustix::fs::unlinkat(&self.folder, name.as_str(), AtFlags::empty()));
        }
    }
}

struct FsDraft {
    temporary: Temporary,
    key: RenditionKey,
    store: Arc<Inner>,
}

impl Draft for FsDraft {
    fn file(&self) -> &File {
        &self.temporary.file
    }

    fn publish(mut self: Box<Self>) -> Pending<'static, StoredRendition> {
        let store = self.store.clone();
        blocking(&store, move |store| store.publish(&mut self))
    }
}

fn timespec(time: SystemTime) -> Timespec {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timespec { tv_sec: since.as_secs() as i64, tv_nsec: 0 }
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
    use crate::model::{ImageFormat, MediaPath, Orientation, Size, SourceFacts, SourceRef, SourceVersion};
    use crate::store::{ImageFolder, Walked};
    use std::{
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    fn key(recipe: &str) -> RenditionKey {
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("a.jpg").unwrap() };
        RenditionKey::new(&location, &version(), recipe, ImageFormat::Webp)
    }

    fn version() -> SourceVersion {
        SourceVersion { bytes: 1, modified_ns: 2, etag: None, file_hash: None }
    }

    fn store() -> (tempfile::TempDir, FsStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FsStore::new(&StoreConfig { root: folder.path().join("r"), ..StoreConfig::default() });
        (folder, store)
    }

    async fn put(store: &FsStore, key: &RenditionKey, bytes: &[u8]) -> Result<StoredRendition, StoreError> {
        let draft = store.draft(key).await?;
        draft.file().write_all(bytes).unwrap();
        draft.publish().await
    }

    fn drafts(folder: &tempfile::TempDir) -> usize {
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
    async fn what_is_not_published_leaves_nothing() {
        let (folder, store) = store();
        let draft = store.draft(&key("x")).await.unwrap();
        draft.file().write_all(b"half").unwrap();
        assert_eq!(drafts(&folder), 1);
        drop(draft);
        assert_eq!(drafts(&folder), 0);
        assert!(put(&store, &key("x"), b"").await.is_err(), "an empty rendition is never published");
        assert_eq!((drafts(&folder), store.find(&key("x")).await), (0, Ok(None)));
    }

    #[tokio::test]
    async fn empty_files_and_links_are_absent_and_get_replaced() {
        let (folder, store) = store();
        let key = key("x");
        let stored = put(&store, &key, b"bytes").await.unwrap();
        let path = folder.path().join("r").join(&stored.path);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(store.find(&key).await, Ok(None));
        std::fs::remove_file(&path).unwrap();
        symlink("/etc/hostname", &path).unwrap();
        assert_eq!(store.find(&key).await, Ok(None));
        put(&store, &key, b"again").await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"again");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(put(&store, &key, b"again").await.unwrap_err().kind, "eisdir");
        assert_eq!(drafts(&folder), 0);
    }

    #[tokio::test]
    async fn a_swapped_in_link_leads_nowhere() {
        let (folder, store) = store();
        let outside = folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let key = key("x");
        let directory = folder.path().join("r").join(key.source().directory());
        std::fs::create_dir_all(directory.parent().unwrap()).unwrap();
        symlink(&outside, &directory).unwrap();
        assert!(put(&store, &key, b"bytes").await.is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_record_that_is_a_link_or_a_fifo_is_neither_followed_nor_waited_for() {
        let (folder, store) = store();
        let source = key("x").source().clone();
        let directory = folder.path().join("r").join(source.directory());
        std::fs::create_dir_all(&directory).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.join(RECORD), Mode::RUSR | Mode::WUSR).unwrap();
        let read = tokio::time::timeout(std::time::Duration::from_secs(5), store.record(&source)).await;
        assert_eq!(read.expect("an answer at once"), Ok(None));
        std::fs::remove_file(directory.join(RECORD)).unwrap();
        symlink("/etc/hostname", directory.join(RECORD)).unwrap();
        assert!(store.record(&source).await.is_err());
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
    async fn records_are_remembered_and_broken_ones_are_none() {
        let (folder, store) = store();
        let key = key("x");
        assert_eq!(store.record(key.source()).await, Ok(None));
        let facts = SourceFacts {
            format: ImageFormat::Jpeg,
            stored_size: Size::new(3, 2),
            orientation: Orientation::Rotate90,
            frames: 1,
            bytes_per_pixel: 3,
            progressive: false,
            document: None,
        };
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("a.jpg").unwrap() };
        let mut record = SourceRecord::new(location, version(), facts);
        store.remember(key.source(), &record).await.unwrap();
        assert_eq!(store.record(key.source()).await, Ok(Some(record.clone())));
        // One that an earlier version wrote.
        record.location = None;
        assert!(!serde_json::to_string(&record).unwrap().contains("location"));
        store.remember(key.source(), &record).await.unwrap();
        assert_eq!(store.record(key.source()).await, Ok(Some(record)));
        std::fs::write(folder.path().join("r").join(key.source().directory()).join(RECORD), "{").unwrap();
        assert_eq!(store.record(key.source()).await, Ok(None));
    }

    #[tokio::test]
    async fn a_purged_source_image_leaves_nothing_and_its_neighbours_stay() {
        let (folder, store) = store();
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("b.jpg").unwrap() };
        let other = RenditionKey::new(&location, &version(), "x", ImageFormat::Webp);
        assert_eq!(store.remove(other.source()).await, Ok(Removed::default()), "nothing is there yet");
        for (key, bytes) in [(key("x"), &b"12345"[..]), (key("y"), b"123"), (other.clone(), b"1")] {
            put(&store, &key, bytes).await.unwrap();
        }
        let directory = folder.path().join("r").join(key("x").source().directory());
        std::fs::write(directory.join(RECORD), "{}").unwrap();
        symlink("/etc/hostname", directory.join("link.jpg")).unwrap();
        assert_eq!(store.remove(key("x").source()).await, Ok(Removed { files: 2, bytes: 8 }));
        assert!(!directory.exists() && Path::new("/etc/hostname").exists());
        assert!(store.find(&other).await.unwrap().is_some());
        std::fs::create_dir_all(directory.join("ours-not")).unwrap();
        assert_eq!(store.remove(key("x").source()).await, Ok(Removed::default()), "what nobody made stays");
        put(&store, &key("x"), b"again").await.unwrap();
    }

    async fn walked(store: &FsStore) -> Vec<ImageFolder> {
        let (mut walk, mut folders) = (store.walk(Depth::Records), Vec::new());
        while let Some(found) = walk.next().await {
            if let Walked::Image(folder) = found.unwrap() {
                folders.push(folder);
            }
        }
        folders
    }

    #[tokio::test]
    async fn what_a_walk_finds_can_be_read_and_discarded_once() {
        use std::io::Read as _;
        let (folder, store) = store();
        put(&store, &key("x"), b"12345").await.unwrap();
        put(&store, &key("y"), b"123").await.unwrap();
        let found = walked(&store).await.remove(0).renditions;
        let mut text = String::new();
        let path = found.iter().find(|found| found.bytes == 5).unwrap().path.clone();
        store.open(&path).await.unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "12345");
        assert!(!store.tidy(key("x").source()).await.unwrap(), "renditions keep their folder");
        assert_eq!(store.discard(&found).await, Ok(Removed { files: 2, bytes: 8 }));
        assert_eq!(store.discard(&found).await, Ok(Removed::default()), "a second one finds nothing");
        assert!(store.open(&path).await.unwrap().is_none());
        let record = folder.path().join("r").join(key("x").source().directory()).join(RECORD);
        std::fs::write(&record, "{}").unwrap();
        assert!(store.tidy(key("x").source()).await.unwrap());
        assert!(!record.parent().unwrap().exists());
        assert!(!store.tidy(key("x").source()).await.unwrap());
        // Nothing outside of the root, whatever a path says.
        let outside = folder.path().join("outside");
        std::fs::write(&outside, "x").unwrap();
        let odd = RenditionFile { path: "../outside".into(), ..found[0].clone() };
        assert!(store.discard(std::slice::from_ref(&odd)).await.is_err() && outside.exists());
        assert!(store.open(&odd.path).await.is_err());
    }

    /// Says that a thread may end, also when the test fails.
    struct Ends<'a>(&'a std::sync::atomic::AtomicBool);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_rendition_that_is_published_beside_a_tidying_keeps_its_record() {
        let (folder, store) = store();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let record = folder.path().join("r").join(key("x").source().directory()).join(RECORD);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ends = Ends(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.inner.tidy(key("x").source()).unwrap();
                }
            });
            for round in 0..200 {
                std::fs::create_dir_all(record.parent().unwrap()).unwrap();
                let was_written = std::fs::write(&record, "{}").is_ok();
                runtime.block_on(put(&store, &key("x"), b"bytes")).unwrap();
                // Taken away before the rendition was published, it is gone with its folder; after that it comes back.
                if was_written && record.exists() {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                    let back = (0..5000).any(|_| {
                        let is_there = record.exists();
                        if !is_there {
                            std::thread::sleep(std::time::Duration::from_millis(1));
                        }
                        is_there
                    });
                    assert!(back, "{round}");
                }
                runtime.block_on(store.remove(key("x").source())).unwrap();
            }
            drop(ends);
        });
    }

    /// A folder that goes away between being made and being filled costs nobody an error.
    #[test]
    fn publishing_beside_a_purge_never_fails() {
        let (_folder, store) = store();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let removed = std::thread::scope(|scope| {
            let purger = scope.spawn(|| {
                let mut removed = Removed::default();
                while !done.load(Ordering::Relaxed) {
                    removed = removed + store.inner.remove(key("x").source()).unwrap();
                }
                removed
            });
            for round in 0..400 {
                let stored = runtime.block_on(put(&store, &key(&format!("{round}")), b"bytes"));
                assert!(stored.is_ok(), "{round}: {stored:?}");
            }
            done.store(true, Ordering::Relaxed);
            purger.join().unwrap()
        });
        assert!(removed.files > 0, "they have met");
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
