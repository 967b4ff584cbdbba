//! `[store]`: where renditions are kept, and for how long.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{Bytes, Mode, S3Config, Share, Span, values};

/// `[store]`: where renditions are kept.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Which backend.
    #[serde(deserialize_with = "values::one_of")]
    pub kind: StoreKind,
    /// `fs`: the folder that nginx streams from; there is no default.
    pub root: PathBuf,
    /// `s3`: the bucket.
    pub s3: Option<S3Config>,
    /// Permission bits of stored files; nginx must be able to read them.
    pub file_mode: Mode,
    /// Permission bits of the folders; nginx must be able to enter them.
    pub dir_mode: Mode,
    /// How sure sendimage makes that a rendition is there before it hands it over. Whatever it believes, nginx finds out,
    /// and asks again.
    #[serde(deserialize_with = "values::one_of")]
    pub existence: Existence,
    /// `existence = "remember"`: for how long a rendition that was there counts as there.
    pub remember_seconds: f64,
    /// The same by preset: these are looked for in their own way. A filter spec that is spelled out as the preset's counts as it.
    #[serde(deserialize_with = "values::one_of_each")]
    pub existence_by_preset: BTreeMap<String, Existence>,
    /// `gc` leaves what is out of date alone for so long: nginx, or a client that was redirected, may still be asking for it.
    pub gc_grace_seconds: f64,
    /// Bytes that renditions may take.
    pub max_bytes: Option<Bytes>,
    /// How many renditions there may be.
    pub max_files: Option<u64>,
    /// Bytes, or a percentage, of the file system to keep free.
    pub min_free: Share,
    /// Inodes, or a percentage, of the file system to keep free.
    pub min_free_inodes: Share,
    /// Renditions that nobody has asked for in so long go.
    pub max_idle: Span,
    /// A rendition that was made or asked for less than so long ago never goes.
    pub eviction_grace_seconds: f64,
    /// Preset sets whose renditions never go.
    #[serde(deserialize_with = "values::list")]
    pub pinned: Vec<String>,
    /// The file that sizes and last uses are kept in: on a local disk, shared by the gates of one host.
    pub index: Option<PathBuf>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Fs,
            root: PathBuf::new(),
            s3: None,
            file_mode: Mode(0o644),
            dir_mode: Mode(0o755),
            existence: Existence::Check,
            remember_seconds: 60.0,
            existence_by_preset: BTreeMap::new(),
            gc_grace_seconds: 3600.0,
            max_bytes: None,
            max_files: None,
            min_free: Share::default(),
            min_free_inodes: Share::default(),
            max_idle: Span(0),
            eviction_grace_seconds: 300.0,
            pinned: Vec::new(),
            index: None,
        }
    }
}

/// How sure sendimage makes that a rendition exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Existence {
    /// Look every time.
    Check,
    /// Look once in `remember_seconds`.
    Remember,
    /// Look once in a process's life.
    Assume,
}

impl StoreConfig {
    /// For how long a rendition that was there counts as there.
    pub fn trust(&self, existence: Existence) -> Duration {
        match existence {
            Existence::Check => Duration::ZERO,
            Existence::Remember => Duration::from_secs_f64(self.remember_seconds),
            Existence::Assume => Duration::MAX,
        }
    }

    /// Whether any rendition counts as there without being looked for.
    pub fn believes(&self) -> bool {
        self.existence_by_preset.values().chain([&self.existence]).any(|existence| *existence != Existence::Check)
    }
}

/// A store backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A folder.
    Fs,
    /// A bucket in an S3-compatible object store.
    S3,
}
