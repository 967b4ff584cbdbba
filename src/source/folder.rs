//! What is in a folder of a source: for the editors' page, never for a request of the public.

use std::{io, os::fd::OwnedFd};

use rustix::fs::{Dir, FileType};
use serde::Serialize;

use crate::model::ImageFormat;

/// Names looked at in one folder; a larger one is listed in part.
const MAX_NAMES: usize = 20_000;
/// Names listed at most.
const MAX_ENTRIES: usize = 100;

/// Names in a folder, folders first, each in the order of its letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Folder {
    /// What there is.
    pub entries: Vec<Entry>,
    /// Whether there is more.
    pub more: bool,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    /// Whether it is a file, and no folder.
    pub is_file: bool,
    /// Its name.
    pub name: String,
}

/// Reads an open folder: folders, and files that are named as images are. What begins with a dot is nobody's business.
pub(super) fn read(folder: &OwnedFd, begins: &str) -> io::Result<Folder> {
    let begins = begins.to_lowercase();
    let mut listing = Folder::default();
    let mut names = Dir::read_from(folder)?;
    for count in 0.. {
        let Some(entry) = names.read() else { break };
        if count >= MAX_NAMES {
            listing.more = true;
            break;
        }
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let is_file = match entry.file_type() {
            FileType::Directory => false,
            // Some file systems do not say; and a link may lead to a file. Whoever chooses it finds out.
            FileType::RegularFile | FileType::Symlink | FileType::Unknown => true,
            _ => continue,
        };
        let is_shown = !name.starts_with('.') && (!is_file || ImageFormat::of_file_name(name).is_some());
        if is_shown && name.to_lowercase().starts_with(&begins) {
            listing.entries.push(Entry { is_file, name: name.to_owned() });
        }
    }
    listing.entries.sort_unstable();
    listing.more |= listing.entries.len() > MAX_ENTRIES;
    listing.entries.truncate(MAX_ENTRIES);
    Ok(listing)
}
