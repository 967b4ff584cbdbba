//! The watermarks of the config, held open for the workers.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{
    config::WatermarkConfig,
    model::hex,
    render::plan::{MAX_WATERMARK_BYTES, Plan, Watermark},
};

/// Every watermark as it was when the config was read: a file changed later changes nothing until the config is read again,
/// for a rendition's name tells its content.
#[derive(Debug, Default)]
pub struct Marks {
    by_name: BTreeMap<String, Watermark>,
    by_digest: BTreeMap<String, File>,
}

/// A watermark that cannot be used.
#[derive(Debug, Error)]
#[error("watermarks.{name}.file: {path}: {problem}", path = path.display())]
pub struct MarkError {
    name: String,
    path: PathBuf,
    problem: io::Error,
}

impl Marks {
    /// Reads the files into memory.
    ///
    /// # Errors
    /// The first that cannot be read or is too long.
    pub fn load(sections: &BTreeMap<String, WatermarkConfig>) -> Result<Self, MarkError> {
        let mut marks = Self::default();
        for (name, section) in sections {
            let failed = |problem| MarkError { name: name.clone(), path: section.file.clone(), problem };
            let bytes = read(&section.file).map_err(failed)?;
            let digest = hex(&Sha256::digest(&bytes));
            marks.by_digest.insert(digest.clone(), in_memory(&bytes).map_err(failed)?);
            marks.by_name.insert(
                name.clone(),
                Watermark {
                    digest,
                    place: section.place,
                    opacity_percent: section.opacity_percent,
                    width_percent: section.width_percent,
                    margin_percent: section.margin_percent,
                },
            );
        }
        Ok(marks)
    }

    /// What plans say about them.
    pub fn by_name(&self) -> &BTreeMap<String, Watermark> {
        &self.by_name
    }

    /// Every watermark's name and file.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        let file = |mark: &Watermark| self.by_digest.get(&mark.digest);
        self.by_name.iter().filter_map(move |(name, mark)| Some((name.as_str(), file(mark)?)))
    }

    /// The file that a plan needs.
    pub fn of(&self, plan: &Plan) -> Option<&File> {
        self.by_digest.get(&plan.watermark.as_ref()?.digest)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_WATERMARK_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= MAX_WATERMARK_BYTES {
        true => Ok(bytes),
        false => Err(io::Error::other(format!("is longer than {MAX_WATERMARK_BYTES} bytes"))),
    }
}

fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let file = rustix::fs::memfd_create(c"watermark", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    Ok(file)
}
