//! Files that appear or change in a folder and the folders below it, as the kernel tells (inotify).
//!
//! What is told of a file is only that it may have changed: whoever asks for its renditions finds out which version it has. So
//! what counts is that no change is missed, and that a file is let alone until it is written: it is named when whoever wrote it
//! has closed it, or has moved it in, or has been quiet for a while.

use std::{
    collections::HashMap,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use notify::{
    Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode},
};
use tokio::sync::mpsc;

use super::Candidates;
use crate::model::MediaPath;

/// A file that was closed or moved in: editors do both, one after the other.
const CLOSED: Duration = Duration::from_millis(50);
/// One that is written to, or was made by a link: its writer may be slow, and may never close it.
const OPEN: Duration = Duration::from_secs(2);
/// A new folder is looked through once its own watch is in place, and once more for what a slow machine missed.
const LOOKS: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(5)];
/// Events that wait; more are as good as lost, and everything is looked through.
const WAITING: usize = 16_384;
/// The folder may be another one by now, mounted over it or moved to its name.
const SAME: Duration = Duration::from_secs(2);

/// What is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// This file may be new or changed.
    File(MediaPath),
    /// Any may be: events were lost, or the folder is another one.
    Any,
}

/// Why a folder cannot be watched.
#[derive(Debug)]
pub enum WatchError {
    /// The kernel's `fs.inotify.max_user_watches` or `max_user_instances` is too low for so many folders.
    TooMany,
    /// It is not there, or may not be read.
    Away(String),
}

/// A folder that is watched.
pub struct Folder {
    root: PathBuf,
    candidates: Candidates,
    identity: (u64, u64),
    events: mpsc::Receiver<Event>,
    lost: Arc<AtomicBool>,
    /// Files to be named, and when.
    files: HashMap<MediaPath, Instant>,
    /// Folders to be looked through, and when.
    folders: Vec<(PathBuf, Instant)>,
    _watcher: RecommendedWatcher,
}

impl Folder {
    /// Begins to watch. Takes as long as it takes to list all folders.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub async fn watch(root: PathBuf, candidates: Candidates) -> Result<Self, WatchError> {
        let begun = tokio::task::spawn_blocking(move || Self::begin(root, candidates)).await;
        begun.unwrap_or_else(|error| Err(WatchError::Away(error.to_string())))
    }

    fn begin(root: PathBuf, candidates: Candidates) -> Result<Self, WatchError> {
        let away = |error: &dyn std::fmt::Display| WatchError::Away(format!("{}: {error}", root.display()));
        // The names in events begin with the root as it was given.
        let identity = identity(&root).map_err(|error| away(&error))?;
        let (told, events) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicBool::new(false));
        let overflow = lost.clone();
        let handler = move |event: notify::Result<Event>| {
            let event = event.unwrap_or_else(|_| Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan));
            // Reading is nobody's news, and there is a lot of it.
            if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
                return;
            }
            if event.need_rescan() || told.try_send(event).is_err() {
                overflow.store(true, Relaxed);
            }
        };
        let failed = |error: notify::Error| match error.kind {
            ErrorKind::MaxFilesWatch => WatchError::TooMany,
            ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => WatchError::TooMany,
            kind => away(&format!("{kind:?}")),
        };
        let config = Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(handler, config).map_err(failed)?;
        watcher.watch(&root, RecursiveMode::Recursive).map_err(failed)?;
        let (files, folders) = (HashMap::new(), Vec::new());
        Ok(Self { root, candidates, identity, events, lost, files, folders, _watcher: watcher })
    }

    /// Waits for what is told next. `None`: the folder is gone, or another one, and has to be watched anew.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if self.lost.swap(false, Relaxed) {
                return Some(Told::Any);
            }
            while let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
            let now = Instant::now();
            if let Some(file) = self.files.iter().find(|(_, due)| **due <= now).map(|(file, _)| file.clone()) {
                self.files.remove(&file);
                return Some(Told::File(file));
            }
            if let Some(at) = self.folders.iter().position(|(_, due)| *due <= now) {
                let (folder, _) = self.folders.swap_remove(at);
                self.look_through(&folder);
                continue;
            }
            if identity(&self.root).ok() != Some(self.identity) {
                return None;
            }
            let soonest = self.files.values().chain(self.folders.iter().map(|(_, due)| due)).min().copied();
            let wake = soonest.unwrap_or(now + SAME).min(now + SAME);
            tokio::select! {
                event = self.events.recv() => self.note(event?),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn note(&mut self, event: Event) {
        use EventKind::{Access, Create, Modify, Remove};
        let wait = match event.kind {
            Access(AccessKind::Close(AccessMode::Write)) => CLOSED,
            Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => CLOSED,
            // Its date is part of its version.
            Modify(ModifyKind::Metadata(_)) => CLOSED,
            Create(CreateKind::File | CreateKind::Any | CreateKind::Other) | Modify(ModifyKind::Data(_)) => OPEN,
            Create(CreateKind::Folder) => CLOSED,
            Remove(RemoveKind::File) | Modify(ModifyKind::Name(RenameMode::From)) => {
                for path in event.paths.iter().filter_map(|path| self.path(path)).collect::<Vec<_>>() {
                    self.files.remove(&path);
                }
                return;
            }
            _ => return,
        };
        // Of a rename within, the second name is the new one.
        let Some(path) = event.paths.last() else { return };
        if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            if !matches!(event.kind, Modify(ModifyKind::Metadata(_))) {
                let now = Instant::now();
                self.folders.extend(LOOKS.map(|wait| (path.clone(), now + wait)));
            }
        } else if let Some(path) = self.path(path) {
            let due = Instant::now() + wait;
            // A file that is written to waits for its end, whatever else is told of it.
            let is_written = wait == OPEN || matches!(event.kind, Access(_));
            let slot = self.files.entry(path).or_insert(due);
            *slot = if is_written { due } else { (*slot).max(due) };
        }
    }

    /// The images below a new folder, which was filled before it was watched.
    fn look_through(&mut self, folder: &Path) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        let now = Instant::now();
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                self.look_through(&entry.path());
            } else if let Some(path) = self.path(&entry.path()) {
                // One that is still written to is told of, again and again.
                self.files.entry(path).or_insert(now + CLOSED);
            }
        }
    }

    /// The path of an image below the root.
    fn path(&self, path: &Path) -> Option<MediaPath> {
        let below = MediaPath::parse(path.strip_prefix(&self.root).ok()?.to_str()?).ok()?;
        self.candidates.takes(&below).then_some(below)
    }
}

fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(folder)?;
    match metadata.is_dir() {
        true => Ok((metadata.dev(), metadata.ino())),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn told(folder: &mut Folder) -> Option<Told> {
        tokio::time::timeout(Duration::from_secs(20), folder.next()).await.expect("something is told")
    }

    /// Waits until a file is told of. One told of before may be again: its events came one by one on a slow machine.
    async fn told_of(folder: &mut Folder, path: &str, before: &mut Vec<String>) {
        loop {
            match told(folder).await {
                Some(Told::File(found)) if found.as_str() == path => break,
                Some(Told::File(found)) if before.iter().any(|known| known == found.as_str()) => {}
                other => panic!("{other:?}, not {path}"),
            }
        }
        before.push(path.to_owned());
    }

    #[tokio::test]
    async fn every_way_in_is_told_of() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("media");
        fs::create_dir_all(root.join("a")).unwrap();
        let all = Candidates::new(&crate::config::Config::default(), "media");
        let mut folder = Folder::watch(root.clone(), all.clone()).await.unwrap();
        let mut before = Vec::new();

        fs::write(root.join("a/new.jpg"), "1").unwrap();
        told_of(&mut folder, "a/new.jpg", &mut before).await;
        // As editors replace files.
        fs::write(root.join("a/.new.jpg.swp"), "2").unwrap();
        fs::rename(root.join("a/.new.jpg.swp"), root.join("a/new.jpg")).unwrap();
        told_of(&mut folder, "a/new.jpg", &mut before).await;
        fs::write(root.join("notes.txt"), "no image").unwrap();
        fs::write(place.path().join("in.png"), "3").unwrap();
        fs::rename(place.path().join("in.png"), root.join("in.png")).unwrap();
        told_of(&mut folder, "in.png", &mut before).await;
        fs::create_dir_all(place.path().join("album/deep")).unwrap();
        fs::write(place.path().join("album/deep/x.webp"), "4").unwrap();
        fs::rename(place.path().join("album"), root.join("album")).unwrap();
        told_of(&mut folder, "album/deep/x.webp", &mut before).await;
        // What comes into it later is told of by its own watch.
        fs::write(root.join("album/deep/y.gif"), "5").unwrap();
        told_of(&mut folder, "album/deep/y.gif", &mut before).await;

        fs::rename(&root, place.path().join("elsewhere")).unwrap();
        while let Some(told) = told(&mut folder).await {
            assert!(matches!(told, Told::File(_)), "{told:?}");
        }
        assert!(matches!(Folder::watch(root, all).await, Err(WatchError::Away(_))));
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_let_alone() {
        let root = tempfile::tempdir().unwrap();
        let all = Candidates::new(&crate::config::Config::default(), "media");
        let mut folder = Folder::watch(root.path().to_owned(), all).await.unwrap();
        let mut writer = fs::File::create(root.path().join("slow.jpg")).unwrap();
        let closing = Arc::new(AtomicBool::new(false));
        let says = closing.clone();
        std::thread::spawn(move || {
            for _ in 0..8 {
                io::Write::write_all(&mut writer, b"more").unwrap();
                std::thread::sleep(Duration::from_millis(100));
            }
            says.store(true, Relaxed);
        });
        assert_eq!(told(&mut folder).await, Some(Told::File(MediaPath::parse("slow.jpg").expect("a path"))));
        assert!(closing.load(Relaxed), "it was named before it was closed");
    }

    #[tokio::test]
    async fn lost_events_are_said() {
        let root = tempfile::tempdir().unwrap();
        let all = Candidates::new(&crate::config::Config::default(), "media");
        let mut folder = Folder::watch(root.path().to_owned(), all).await.unwrap();
        // More than wait for whoever does not listen.
        for number in 0..WAITING {
            fs::write(root.path().join(format!("{}.jpg", number % 4000)), "x").unwrap();
        }
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < end, "nothing was said to be lost");
            if told(&mut folder).await == Some(Told::Any) {
                return;
            }
        }
    }
}
