//! What is remembered about a source image, in a file beside its renditions.

use std::{
    io::{self, Read as _},
    sync::Arc,
};

use super::Inner;
use crate::{
    model::SourceKey,
    store::{RECORD, RECORD_BYTES, SourceRecord, StoreError},
};

impl Inner {
    pub(super) fn record(&self, source: &SourceKey) -> io::Result<Option<SourceRecord>> {
        Ok(self.record_text(source)?.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    pub(super) fn record_text(&self, source: &SourceKey) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(&format!("{}/{RECORD}", source.directory()))? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(RECORD_BYTES).read_to_end(&mut text)?;
        Ok(Some(text))
    }

    /// Not synced to the disk: a record lost or torn by a power cut is no record, and the next request probes again.
    pub(super) fn remember(self: &Arc<Self>, source: &SourceKey, record: &SourceRecord) -> Result<(), StoreError> {
        use io::Write as _;
        let written = self.temporary().and_then(|mut temporary| {
            temporary.file.write_all(&serde_json::to_vec(record)?)?;
            Ok(temporary)
        });
        let mut temporary = written.map_err(|error| StoreError::new("write a record", &error))?;
        self.settle(&mut temporary, source, RECORD)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{key, store, version},
        *,
    };
    use crate::{
        model::{ImageFormat, MediaPath, Orientation, Size, SourceFacts, SourceRef},
        store::Store as _,
    };
    use rustix::fs::Mode;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn a_record_that_is_a_link_or_a_fifo_is_neither_followed_nor_waited_for() {
        let (folder, store) = store();
        let source = key("x").source().clone();
        let directory = folder.path().join("r").join(source.directory());
        std::fs::create_dir_all(&directory).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.join(RECORD), Mode::RUSR | Mode::WUSR).unwrap();
        let read = tokio::time::timeout(std::time::Duration::from_secs(5), store.record(&source)).await;
        assert_eq!(read.expect("an answer at once"), Ok(None));
        std::fs::remove_file(directory.join(RECORD)).unwrap();
        symlink("/etc/hostname", directory.join(RECORD)).unwrap();
        assert!(store.record(&source).await.is_err());
    }

    #[tokio::test]
    async fn records_are_remembered_and_broken_ones_are_none() {
        let (folder, store) = store();
        let key = key("x");
        assert_eq!(store.record(key.source()).await, Ok(None));
        let facts = SourceFacts {
            format: ImageFormat::Jpeg,
            stored_size: Size::new(3, 2),
            orientation: Orientation::Rotate90,
            frames: 1,
            bytes_per_pixel: 3,
            progressive: false,
            document: None,
        };
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("a.jpg").unwrap() };
        let mut record = SourceRecord::new(location, version(), facts);
        store.remember(key.source(), &record).await.unwrap();
        assert_eq!(store.record(key.source()).await, Ok(Some(record.clone())));
        // One that an earlier version wrote.
        record.location = None;
        assert!(!serde_json::to_string(&record).unwrap().contains("location"));
        store.remember(key.source(), &record).await.unwrap();
        assert_eq!(store.record(key.source()).await, Ok(Some(record)));
        std::fs::write(folder.path().join("r").join(key.source().directory()).join(RECORD), "{").unwrap();
        assert_eq!(store.record(key.source()).await, Ok(None));
    }
}
