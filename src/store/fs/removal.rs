//! What is taken out: a source image's folder, single renditions, and records that nothing is left of.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags},
    io::{Errno, retry_on_intr},
};

use super::Inner;
use crate::{
    model::SourceKey,
    store::{Candidate, Evicted, RECORD, Removed, RenditionFile, StoreError, evict},
};

impl Inner {
    /// Removes a source image's folder. Names that begin with a dot, the record's, are no renditions and not counted.
    pub(super) fn remove(&self, source: &SourceKey) -> io::Result<Removed> {
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
    pub(super) fn evict(self: &Arc<Self>, candidates: &[Candidate]) -> Vec<Evicted> {
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

    pub(super) fn discard(&self, renditions: &[RenditionFile]) -> io::Result<Removed> {
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

    pub(super) fn tidy(self: &Arc<Self>, source: &SourceKey) -> io::Result<bool> {
        let path = source.directory();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let (parent, folder) =
            match self.tree.open_dir(parent).and_then(|parent| Ok((parent, self.tree.open_dir(&path)?))) {
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
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{key, put, store, version},
        *,
    };
    use crate::{
        model::{ImageFormat, MediaPath, RenditionKey, SourceRef},
        store::{Depth, FsStore, ImageFolder, Store as _, Walked},
    };
    use std::{os::unix::fs::symlink, path::Path, sync::atomic::Ordering};

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
}
