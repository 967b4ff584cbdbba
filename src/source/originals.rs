//! Copies of remote originals: fetched once for all renders of a page, and thrown away by a budget.
//!
//! A copy has no name in any folder: what a crash leaves behind the kernel removes, nobody can swap one for another, and there
//! is nothing to sweep. It lives as long as this process has it open.

use std::{fs::File, future::Future, io, os::fd::AsRawFd as _, path::PathBuf, sync::Arc};

use moka::future::Cache;

use super::{OpenSource, SourceError, Stat};
use crate::{config::OriginalsConfig, model::SourceRef, unnamed::unnamed_file};

/// Copies held open at most: each takes a descriptor.
const MAX_COPIES: u64 = 256;

/// Copies by what they are of.
pub struct Originals {
    root: PathBuf,
    copies: Cache<(SourceRef, Stat), Arc<File>>,
}

impl Originals {
    /// A place for copies, in a folder of this machine.
    pub fn new(config: &OriginalsConfig) -> Self {
        let max_kib = (config.max_bytes.0 >> 10).max(1);
        let least_kib = max_kib.div_ceil(MAX_COPIES);
        // What is not small enough for a number of 32 bits would be too large for any budget.
        let kib = move |file: &Arc<File>| {
            let bytes = file.metadata().map_or(u64::MAX, |metadata| metadata.len());
            u32::try_from((bytes >> 10).max(least_kib)).unwrap_or(u32::MAX)
        };
        let copies = Cache::builder().max_capacity(max_kib).weigher(move |_, file| kib(file)).build();
        Self { root: config.root.clone(), copies }
    }

    /// A file without a name to write a copy to.
    ///
    /// # Errors
    /// When the folder is not there or takes no files.
    pub fn empty(&self) -> Result<File, SourceError> {
        unnamed_file(&self.root).map_err(|error| self.unavailable(&error))
    }

    /// Keeps a copy for whoever opens this version next.
    pub async fn keep(&self, location: SourceRef, stat: Stat, copy: File) {
        self.copies.insert((location, stat), Arc::new(copy)).await;
    }

    /// A copy of this version, from the start; fetched first if there is none, once for all who wait.
    ///
    /// # Errors
    /// The fetch's own; none is remembered.
    pub async fn open(
        &self,
        location: SourceRef,
        stat: Stat,
        fetch: impl Future<Output = Result<File, SourceError>>,
    ) -> Result<OpenSource, SourceError> {
        let fetch = async { fetch.await.map(Arc::new) };
        let copy = self.copies.try_get_with((location, stat), fetch).await;
        let copy = copy.map_err(|error| SourceError::clone(&error))?;
        // Another open file: two workers that share an offset would read each other's bytes.
        let file =
            File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).map_err(|error| self.unavailable(&error))?;
        Ok(OpenSource { file, stat, changed_ns: None })
    }

    /// A failure of the folder's own.
    pub fn unavailable(&self, error: &io::Error) -> SourceError {
        SourceError::Unavailable(format!("originals.root, {}: {error}", self.root.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Bytes, model::MediaPath};
    use std::{
        io::{Read as _, Write as _},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    fn at(name: &str) -> SourceRef {
        SourceRef { source: "far".into(), path: MediaPath::parse(name).unwrap() }
    }

    #[tokio::test]
    async fn fetched_once_read_apart_and_kept_within_the_budget() {
        let folder = tempfile::tempdir().unwrap();
        let config = OriginalsConfig { root: folder.path().to_owned(), max_bytes: Bytes(1 << 20) };
        let originals = Originals::new(&config);
        let fetched = AtomicUsize::new(0);
        let open = async |name: &str, kib: usize| {
            let stat = Stat { bytes: (kib << 10) as u64, modified_ns: 0, etag: None };
            let fetch = async {
                fetched.fetch_add(1, SeqCst);
                let mut file = originals.empty()?;
                file.write_all(&vec![7; kib << 10]).unwrap();
                Ok(file)
            };
            originals.open(at(name), stat, fetch).await.unwrap()
        };
        let (mut one, mut other) = (open("a", 300).await, open("a", 300).await);
        let (mut bytes, mut again) = (Vec::new(), Vec::new());
        one.file.read_to_end(&mut bytes).unwrap();
        other.file.read_to_end(&mut again).unwrap();
        assert_eq!((bytes.len(), again.len(), fetched.load(SeqCst)), (300 << 10, 300 << 10, 1));
        assert!(one.is_unchanged().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a copy has no name");

        for number in 0..20 {
            open(&number.to_string(), 300).await;
        }
        originals.copies.run_pending_tasks().await;
        assert!(originals.copies.weighted_size() <= 1 << 10, "{}", originals.copies.weighted_size());
        assert_eq!(again.len(), { one.file.metadata().unwrap().len() as usize }, "whoever has it open goes on reading");
    }

    #[tokio::test]
    async fn a_failed_fetch_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let originals =
            Originals::new(&OriginalsConfig { root: folder.path().to_owned(), ..OriginalsConfig::default() });
        let stat = Stat { bytes: 1, modified_ns: 0, etag: None };
        let failed = originals.open(at("a"), stat, async { Err(SourceError::Failed("x".into())) }).await;
        assert_eq!(failed.unwrap_err(), SourceError::Failed("x".into()));
        assert!(originals.open(at("a"), stat, async { originals.empty() }).await.is_ok());
    }
}
