//! Takes single renditions out of the store, where room is needed.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::SystemTime,
};

use super::StoreError;
use rustix::{
    fs::AtFlags,
    io::{Errno, retry_on_intr},
};

/// A rendition that may go.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its path below the store's root.
    pub path: String,
    /// It stays if it was made later than this.
    pub made_before: SystemTime,
}

/// What became of a [`Candidate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// It is gone.
    Removed {
        /// Its length.
        bytes: u64,
        /// What it took on the disk.
        disk_bytes: u64,
    },
    /// It was gone before.
    Absent,
    /// It was made again a moment ago.
    Kept {
        /// When, in Unix seconds.
        made_at: i64,
    },
    /// The disk refuses to let go of it.
    Failed(StoreError),
}

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are free for us.
    pub free_bytes: u64,
    /// Inodes in all; 0 where they are made as they are needed.
    pub inodes: u64,
    /// Inodes that are free for us.
    pub free_inodes: u64,
}

/// The room of the file system that a folder is in.
pub(super) fn space(folder: impl AsFd) -> io::Result<Space> {
    let stat = retry_on_intr(|| rustix::fs::fstatvfs(&folder))?;
    Ok(Space {
        bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        free_inodes: stat.f_favail,
    })
}

/// Removes one rendition from its folder, unless it was made lately. Whoever has it open goes on reading.
pub(super) fn evict(folder: &OwnedFd, name: &str, made_before: SystemTime) -> io::Result<Evicted> {
    let stat = match retry_on_intr(|| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Err(Errno::NOENT) => return Ok(Evicted::Absent),
        result => result?,
    };
    // Not when it was modified: every rendition is dated back.
    let before = made_before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if stat.st_ctime > before.try_into().unwrap_or(i64::MAX) {
        return Ok(Evicted::Kept { made_at: stat.st_ctime });
    }
    match retry_on_intr(|| rustix::fs::unlinkat(folder, name, AtFlags::empty())) {
        // Another gate was quicker; a folder is nothing that we made, and stays.
        Err(Errno::NOENT | Errno::ISDIR) => Ok(Evicted::Absent),
        result => {
            result?;
            let disk_bytes = stat.st_blocks.unsigned_abs().saturating_mul(512);
            Ok(Evicted::Removed { bytes: stat.st_size.unsigned_abs(), disk_bytes })
        }
    }
}
