//! A walk over all files beneath a folder.

use std::{
    fs::{DirEntry, ReadDir},
    path::{Path, PathBuf},
};

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc;

use super::{Listed, Listing, SourceError, fs};
use crate::model::MediaPath;

/// Files found that nobody has taken yet.
const AHEAD: usize = 1024;

/// All files beneath a root, as they are met. A thread reads the folders, no further ahead than [`AHEAD`] files; it ends when
/// the stream is dropped. What is held is an open folder for each level.
pub(super) fn walk(root: PathBuf) -> Listing<'static> {
    let (found, taken) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        for file in Files::below(root) {
            if found.blocking_send(file).is_err() {
                return;
            }
        }
    });
    stream::unfold(taken, |mut taken| async move { taken.recv().await.map(|file| (file, taken)) }).boxed()
}

/// The files, folder by folder.
struct Files {
    root: PathBuf,
    open: Vec<ReadDir>,
    /// What is said before anything else.
    problem: Option<SourceError>,
}

impl Files {
    fn below(root: PathBuf) -> Self {
        match std::fs::read_dir(&root) {
            Ok(folder) => Self { root, open: vec![folder], problem: None },
            Err(error) => Self { problem: Some(unavailable(&root, &error)), root, open: Vec::new() },
        }
    }

    /// A file, nothing for what is none, or a folder to go on with.
    fn look(&mut self, entry: &DirEntry) -> Result<Option<Listed>, SourceError> {
        let path = entry.path();
        let failed = |error: std::io::Error| unavailable(&path, &error);
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            self.open.push(std::fs::read_dir(&path).map_err(failed)?);
            return Ok(None);
        }
        // A link to a folder leads round in circles, or outside. One to a file is opened like any other name.
        let Some(metadata) = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file) else { return Ok(None) };
        // No URL can name it otherwise.
        let below = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        let path = below.and_then(|below| MediaPath::parse(below).ok());
        Ok(path.map(|path| Listed { path, stat: fs::stat_of(&metadata) }))
    }
}

impl Iterator for Files {
    type Item = Result<Listed, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(problem) = self.problem.take() {
            return Some(Err(problem));
        }
        loop {
            let entry = match self.open.last_mut()?.next() {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    // A folder that cannot be read on says so again and again.
                    self.open.pop();
                    return Some(Err(unavailable(&self.root, &error)));
                }
                None => {
                    self.open.pop();
                    continue;
                }
            };
            if let Some(file) = self.look(&entry).transpose() {
                return Some(file);
            }
        }
    }
}

fn unavailable(path: &Path, error: &std::io::Error) -> SourceError {
    SourceError::Unavailable(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, os::unix::fs::symlink};

    use super::*;

    #[tokio::test]
    async fn every_file_is_met_once_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("media");
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("empty")).unwrap();
        let mut names: BTreeSet<String> = (0..3000).map(|number| format!("a/b/{number}.jpg")).collect();
        names.extend(["top.png".to_owned(), "a/b/c/deep name.jpg".to_owned()]);
        for name in &names {
            fs::write(root.join(name), name).unwrap();
        }
        symlink("top.png", root.join("link.png")).unwrap();
        names.insert("link.png".to_owned());
        symlink("..", root.join("a/up")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        fs::write(root.join("a\nb.jpg"), "no path of a URL").unwrap();
        let found: Vec<Listed> = walk(root.clone()).map(Result::unwrap).collect().await;
        assert_eq!(found.len(), names.len());
        assert_eq!(found.iter().map(|file| file.path.as_str().to_owned()).collect::<BTreeSet<_>>(), names);
        assert!(found.iter().all(|file| file.stat.bytes > 0 && file.stat.modified_ns > 0));

        let missing: Vec<_> = walk(folder.path().join("not-mounted")).collect().await;
        assert!(matches!(&missing[..], [Err(SourceError::Unavailable(text))] if text.contains("not-mounted")));
    }
}
