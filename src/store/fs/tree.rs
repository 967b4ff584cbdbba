//! The store's folders: opened beneath its root, and made with the modes that the config says.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags},
    io::{Errno, retry_on_intr},
};

use crate::config::StoreConfig;

/// The folders of a store. Paths are below its root.
pub(crate) struct Tree {
    root: PathBuf,
    dir_mode: Mode,
}

impl Tree {
    /// The tree at `store.root`. The folder need not be there yet.
    pub fn new(config: &StoreConfig) -> Self {
        Self { root: config.root.clone(), dir_mode: Mode::from_raw_mode(config.dir_mode.0) }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a folder below the root, following no link.
    pub fn open_dir(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = retry_on_intr(|| rustix::fs::open(&self.root, flags, Mode::empty()))?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(retry_on_intr(|| rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve))?)
    }

    /// As [`Self::open_dir`], making what is missing. The root itself is made too, but not its parents.
    pub fn make_dir(&self, path: &str) -> io::Result<OwnedFd> {
        match self.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        self.make_one(rustix::fs::CWD, &self.root)?;
        let mut made = String::new();
        for segment in path.split('/') {
            let parent = self.open_dir(if made.is_empty() { "." } else { &made })?;
            self.make_one(&parent, Path::new(segment))?;
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(segment);
        }
        self.open_dir(path)
    }

    /// Makes one folder, unless it is there.
    fn make_one(&self, parent: impl AsFd, path: &Path) -> io::Result<()> {
        match retry_on_intr(|| rustix::fs::mkdirat(&parent, path, self.dir_mode)) {
            // The umask may have taken bits that nginx needs.
            Ok(()) => Ok(retry_on_intr(|| rustix::fs::chmodat(&parent, path, self.dir_mode, AtFlags::empty()))?),
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
