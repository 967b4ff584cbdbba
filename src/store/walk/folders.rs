//! A walk through folders, on a thread of its own. Nothing outside of the root is ever looked at: every folder is opened
//! beneath its parent, and no link is followed.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::{Errno, retry_on_intr},
};

use super::{Depth, Found, ImageFolder, Kind, RenditionFile, Unfinished, Walk, Walked};
use crate::{
    model::{SourceKey, key::LAYOUT},
    store::{DRAFTS, RECORD, RECORD_BYTES, SourceRecord, StoreError},
};

/// Begins a walk through the folder of a store.
pub(in crate::store) fn of_folders(root: PathBuf, depth: Depth) -> Walk {
    let (found, walk) = Walk::begin();
    tokio::task::spawn_blocking(move || {
        let walker = Walker { found, depth };
        // Nobody wants the rest.
        let Err(Dropped) = walker.root(root) else { return };
    });
    walk
}

/// Whoever took what was found has gone.
struct Dropped;

struct Walker {
    found: Found,
    depth: Depth,
}

/// A folder that is open, and its path below the root.
struct Folder {
    fd: OwnedFd,
    path: String,
}

impl Folder {
    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

impl Walker {
    fn tell(&self, found: Result<Walked, StoreError>) -> Result<(), Dropped> {
        self.found.blocking_send(found).map_err(|_| Dropped)
    }

    fn root(&self, root: PathBuf) -> Result<(), Dropped> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match retry_on_intr(|| rustix::fs::open(root.join(LAYOUT), flags | OFlags::NOFOLLOW, Mode::empty())) {
            // Nothing was stored yet.
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return self.tell(Err(StoreError::new("open a folder", &error.into()))),
            Ok(fd) => fd,
        };
        let layout = Folder { fd, path: LAYOUT.to_owned() };
        self.entries(&layout, |name| match name {
            DRAFTS => self.below(&layout, name, |drafts| self.drafts(drafts)),
            _ if name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                self.below(&layout, name, |level| self.level(level, name))
            }
            _ => self.tell(Ok(Walked::Foreign(layout.path_of(name)))),
        })
    }

    /// The source images whose keys begin with these two digits.
    fn level(&self, level: &Folder, digits: &str) -> Result<(), Dropped> {
        self.entries(level, |name| match SourceKey::of_directory_name(name).filter(|_| name.starts_with(digits)) {
            Some(key) => self.below(level, name, |folder| self.image(folder, key)),
            None => self.tell(Ok(Walked::Foreign(level.path_of(name)))),
        })
    }

    fn image(&self, folder: &Folder, key: SourceKey) -> Result<(), Dropped> {
        let mut image = ImageFolder::new(key);
        self.entries(folder, |name| {
            let Some(stat) = self.stat(folder, name)? else { return Ok(()) };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            match Kind::of(name) {
                Kind::Record if is_file => image.recorded = Some(changed(&stat)),
                Kind::Rendition(name_says) if is_file => image.renditions.push(RenditionFile {
                    path: folder.path_of(name),
                    bytes: stat.st_size.unsigned_abs(),
                    published: changed(&stat),
                    generation: name_says.generation,
                    format: name_says.format,
                }),
                _ => self.tell(Ok(Walked::Foreign(folder.path_of(name))))?,
            }
            Ok(())
        })?;
        if self.depth == Depth::Records && image.recorded.is_some() {
            match record(&folder.fd) {
                Ok(record) => image.record = record,
                Err(error) => self.tell(Err(StoreError::new("read a record", &error)))?,
            }
        }
        self.tell(Ok(Walked::Image(image)))
    }

    fn drafts(&self, folder: &Folder) -> Result<(), Dropped> {
        self.entries(folder, |name| {
            let Some(stat) = self.stat(folder, name)? else { return Ok(()) };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let path = folder.path_of(name);
            // Drafts, leases, and what `check` writes.
            let found = match is_file && name.starts_with('.') {
                true => Walked::Unfinished(Unfinished { path, bytes: stat.st_size.unsigned_abs() }),
                false => Walked::Foreign(path),
            };
            self.tell(Ok(found))
        })
    }

    /// Opens a folder in another one; what is no folder is nothing that we made, and what is gone is nothing.
    fn below(
        &self,
        parent: &Folder,
        name: &str,
        look: impl FnOnce(&Folder) -> Result<(), Dropped>,
    ) -> Result<(), Dropped> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = parent.path_of(name);
        match retry_on_intr(|| rustix::fs::openat(&parent.fd, name, flags, Mode::empty())) {
            Ok(fd) => look(&Folder { fd, path }),
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => self.tell(Ok(Walked::Foreign(path))),
            Err(error) => self.tell(Err(StoreError::new("open a folder", &error.into()))),
        }
    }

    fn entries(&self, folder: &Folder, mut each: impl FnMut(&str) -> Result<(), Dropped>) -> Result<(), Dropped> {
        let failed = |error: Errno| self.tell(Err(StoreError::new("read a folder", &error.into())));
        let mut entries = match Dir::read_from(&folder.fd) {
            Ok(entries) => entries,
            Err(error) => return failed(error),
        };
        while let Some(entry) = entries.read() {
            match entry {
                // Removed while it was read.
                Err(Errno::NOENT) => break,
                Err(error) => return failed(error),
                Ok(entry) => match entry.file_name().to_str() {
                    Ok("." | "..") => {}
                    Ok(name) => each(name)?,
                    Err(_) => {
                        let name = entry.file_name().to_string_lossy().into_owned();
                        self.tell(Ok(Walked::Foreign(folder.path_of(&name))))?;
                    }
                },
            }
        }
        Ok(())
    }

    /// `None` for what is gone.
    fn stat(&self, folder: &Folder, name: &str) -> Result<Option<Stat>, Dropped> {
        match retry_on_intr(|| rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => self.tell(Err(StoreError::new("stat a file", &error.into()))).map(|()| None),
        }
    }
}

/// When a file was put where it is: nobody can set that, and renaming sets it.
fn changed(stat: &Stat) -> SystemTime {
    let since = Duration::new(stat.st_ctime.try_into().unwrap_or(0), stat.st_ctime_nsec.try_into().unwrap_or(0));
    SystemTime::UNIX_EPOCH + since
}

/// The record in a folder, if there is one that can be understood.
fn record(folder: impl AsFd) -> io::Result<Option<SourceRecord>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match retry_on_intr(|| rustix::fs::openat(&folder, RECORD, flags, Mode::empty())) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(RECORD_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::Path};

    const GENERATIONS: [&str; 2] = ["00000000000a", "00000000000b"];

    fn put(root: &Path, path: &str, text: &str) -> String {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        path.to_owned()
    }

    fn folder(number: u32) -> String {
        format!("r1/{:02x}/{:02x}{number:030x}", number % 256, number % 256)
    }

    async fn all(root: &Path, depth: Depth) -> Vec<Result<Walked, StoreError>> {
        let mut walk = of_folders(root.to_owned(), depth);
        let mut found = Vec::new();
        while let Some(next) = walk.next().await {
            found.push(next);
        }
        found
    }

    #[tokio::test]
    async fn what_is_kept_unfinished_and_nobodys_is_told_apart() {
        let folder_of_root = tempfile::tempdir().unwrap();
        let root = folder_of_root.path().join("r");
        assert_eq!(all(&root, Depth::Records).await, [], "nothing was stored yet");
        let digest = "0".repeat(32);
        let [old, new] = GENERATIONS.map(|generation| format!("{}/{generation}-{digest}.webp", folder(1)));
        put(&root, &old, "12345");
        put(&root, &new, "");
        let record = r#"{"location": {"source": "media", "path": "a.jpg"},
            "version": {"bytes": 1, "modified_ns": 2, "file_hash": null},
            "facts": {"format": "jpeg", "stored_size": {"width": 9, "height": 9}, "orientation": 1, "frames": 1,
                      "bytes_per_pixel": 3, "progressive": false}}"#;
        put(&root, &format!("{}/.source.json", folder(1)), record);
        put(&root, &format!("{}/.source.json", folder(2)), "{");
        let drafts = [put(&root, "r1/.tmp-drafts/.tmp-a-1-2-3", "123"), put(&root, "r1/.tmp-drafts/.lease-a.webp", "")];
        let foreign = [
            put(&root, &format!("{}/{digest}.webp", folder(1)), "no generation"),
            put(&root, &format!("{}/thumb.jpg", folder(1)), "x"),
            put(&root, "r1/readme", "x"),
            put(&root, "r1/3f/readme", "x"),
            put(&root, "r1/.tmp-drafts/readme", "x"),
        ];
        // Not looked into: no folder of ours, and one whose digits are not its parent's.
        put(&root, "r1/lost+found/a.jpg", "x");
        put(&root, &format!("r1/ff/{}/{}-{digest}.webp", "a".repeat(32), GENERATIONS[0]), "x");
        put(&root, "other/a.jpg", "another layout's");
        let outside = folder_of_root.path().join("outside");
        put(&outside, &format!("{}-{digest}.webp", GENERATIONS[0]), "x");
        let links = [format!("r1/ee/{}", "e".repeat(32)), format!("{}/{}-{digest}.png", folder(1), GENERATIONS[0])];
        fs::create_dir_all(root.join("r1/ee")).unwrap();
        for link in &links {
            symlink(&outside, root.join(link)).unwrap();
        }

        let found: Vec<Walked> = all(&root, Depth::Records).await.into_iter().map(Result::unwrap).collect();
        let image = |number: u32| {
            let is_it = |image: &&ImageFolder| image.key.directory() == folder(number);
            let images = found.iter().filter_map(|found| match found {
                Walked::Image(image) => Some(image),
                _ => None,
            });
            images.clone().find(is_it).unwrap()
        };
        let (first, second) = (image(1), image(2));
        assert_eq!(first.record.as_ref().unwrap().location.as_ref().unwrap().to_string(), "media/a.jpg");
        assert!(first.recorded.is_some_and(|at| at.elapsed().is_ok()));
        let renditions: BTreeSet<_> = first.renditions.iter().map(|r| (&r.path, r.bytes)).collect();
        assert_eq!(renditions, BTreeSet::from([(&old, 5), (&new, 0)]));
        assert!(first.renditions.iter().all(|r| r.published.elapsed().is_ok_and(|age| age.as_secs() < 3600)));
        assert_ne!(first.renditions[0].generation, first.renditions[1].generation);
        assert!(second.record.is_none() && second.recorded.is_some() && second.renditions.is_empty());

        let unfinished = |found: &Walked| match found {
            Walked::Unfinished(Unfinished { path, .. }) => Some(path.clone()),
            _ => None,
        };
        assert_eq!(found.iter().filter_map(unfinished).collect::<BTreeSet<_>>(), BTreeSet::from(drafts));
        let nobodys = |found: &Walked| match found {
            Walked::Foreign(path) => Some(path.clone()),
            _ => None,
        };
        let more = ["r1/lost+found".to_owned(), format!("r1/ff/{}", "a".repeat(32))];
        let expected: BTreeSet<String> = foreign.into_iter().chain(more).chain(links).collect();
        assert_eq!(found.iter().filter_map(nobodys).collect::<BTreeSet<_>>(), expected);

        let names = all(&root, Depth::Names).await;
        let without_records = |found: &Result<Walked, StoreError>| match found {
            Ok(Walked::Image(image)) => image.record.is_none(),
            _ => true,
        };
        assert!(names.len() == found.len() && names.iter().all(without_records));
    }

    /// Folders come and go under two walks, and neither has an error or misses what stays.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_walk_beside_purges_and_another_walk_finds_what_stays() {
        let root = tempfile::tempdir().unwrap();
        let name = |number: u32| format!("{}/{}-{:032x}.jpg", folder(number), GENERATIONS[0], number);
        (0..300).for_each(|number| drop(put(root.path(), &name(number), "x")));
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let purges = {
            let (root, done) = (root.path().to_owned(), done.clone());
            std::thread::spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for number in (0..300).filter(|number| number % 3 == 0) {
                        let _ = fs::remove_dir_all(root.join(folder(number)));
                        put(&root, &name(number), "x");
                    }
                }
            })
        };
        for _ in 0..10 {
            let (one, other) = tokio::join!(all(root.path(), Depth::Records), all(root.path(), Depth::Records));
            for found in [one, other] {
                let found: Vec<Walked> = found.into_iter().map(|found| found.expect("no error")).collect();
                let mut paths = BTreeSet::new();
                for found in found {
                    let Walked::Image(image) = found else { panic!("{found:?}") };
                    paths.extend(image.renditions.into_iter().map(|rendition| rendition.path));
                }
                assert!((0..300).filter(|number| number % 3 != 0).all(|number| paths.contains(&name(number))));
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        purges.join().unwrap();
    }

    #[tokio::test]
    async fn a_walk_waits_for_its_reader_and_ends_without_one() {
        let root = tempfile::tempdir().unwrap();
        (0..500).for_each(|number| drop(put(root.path(), &format!("{}/.source.json", folder(number)), "{}")));
        let mut walk = of_folders(root.path().to_owned(), Depth::Names);
        assert!(walk.next().await.is_some());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(walk.found.len() <= super::super::AHEAD, "{}", walk.found.len());
        // The runtime's end waits for threads of its pool: this test ends, so the walk does.
        drop(walk);
    }
}
