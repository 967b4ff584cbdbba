//! Renditions that are being written: a temporary name, and the final one once all is on the disk.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Timespec, Timestamps},
    io::retry_on_intr,
};

use super::{DRAFTS, Inner, blocking, failed, uninterrupted};
use crate::{
    model::{RenditionKey, SourceKey, key::LAYOUT},
    store::{Draft, Pending, StoreError, StoredRendition, sweep},
};

/// How often a folder is made anew that is removed before a file gets into it.
const FOLDER_ATTEMPTS: u32 = 16;

impl Inner {
    /// A new file with a temporary name.
    pub(super) fn temporary(self: &Arc<Self>) -> io::Result<Temporary> {
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
    pub(super) fn settle(&self, temporary: &mut Temporary, source: &SourceKey, name: &str) -> Result<(), StoreError> {
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
}

/// A file with a temporary name, removed when dropped before it is renamed.
pub(super) struct Temporary {
    pub file: File,
    pub folder: OwnedFd,
    pub name: Option<String>,
}

impl Temporary {
    pub fn rename(&mut self, folder: impl AsFd, name: &str) -> io::Result<()> {
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

pub(super) struct FsDraft {
    pub temporary: Temporary,
    pub key: RenditionKey,
    pub store: Arc<Inner>,
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

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{drafts, key, put, store},
        *,
    };
    use crate::store::{Removed, Store as _};
    use std::{io::Write as _, os::unix::fs::symlink};

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
}
