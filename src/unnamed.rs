//! A file that has no name: whatever becomes of this process, the kernel removes it.

use std::{fs::File, io, path::Path};

use rustix::fs::{Mode, OFlags};

/// An empty file in a folder, to be read and written by whoever has it open.
///
/// # Errors
/// When the folder is not there, or its file system has no such files or no room.
pub fn unnamed_file(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}
