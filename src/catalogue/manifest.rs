//! A CSV or JSON file that lists images: for sites without a database.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::Deserialize;

use super::{
    Catalogue, CatalogueError, Finding, Found, Listing, MAX_MATCHES, Match, PAGE_ROWS, Pending, Searching, Sources,
    row::Row,
};
use crate::model::{ImageId, SourceImage};

/// A manifest, read whole into memory and read again when the file changes.
///
/// CSV has a header line; JSON is an array of objects. The columns are `id`, `file`, and where wanted `file_hash`,
/// `source`, `focal_point_x`, `focal_point_y`, `focal_point_width`, `focal_point_height`; others are ignored.
pub struct Manifest {
    inner: Arc<Inner>,
}

struct Inner {
    file: PathBuf,
    sources: Sources,
    table: Mutex<Table>,
    /// Held by whoever reads the changed file, off the runtime; the others wait for it there.
    reading: Mutex<()>,
}

struct Table {
    stamp: Stamp,
    images: Arc<Images>,
}

/// What a search looks through: the place and the id, in small letters.
fn haystack(listed: &Match) -> String {
    format!("{}\n{}", listed.image.location, listed.id).to_lowercase()
}

/// All images of a manifest.
pub type Images = HashMap<ImageId, Arc<SourceImage>>;

/// What tells a changed file from an unchanged one.
type Stamp = (u64, Option<SystemTime>);

#[derive(Deserialize)]
struct Entry {
    id: u64,
    #[serde(flatten)]
    row: Row,
}

impl Manifest {
    /// Reads a manifest whose files are in these sources.
    ///
    /// # Errors
    /// When the file cannot be read, an entry is malformed or an id occurs twice: the message names file and entry.
    pub fn open(file: &Path, sources: Sources) -> Result<Self, CatalogueError> {
        let stamp = stamp(file).map_err(|error| unavailable(file, &error))?;
        let bytes = std::fs::read(file).map_err(|error| unavailable(file, &error))?;
        let images = Arc::new(parse(file, &bytes, &sources)?);
        let (table, reading) = (Mutex::new(Table { stamp, images }), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { file: file.to_owned(), sources, table, reading }) })
    }

    /// Reads a manifest's bytes: JSON if they begin with a bracket, else CSV.
    ///
    /// # Errors
    /// When they are malformed, a row cannot be used or an id occurs twice.
    pub fn parse(bytes: &[u8], sources: &Sources) -> Result<Images, CatalogueError> {
        let is_json = bytes.trim_ascii_start().starts_with(b"[");
        let entries = if is_json { json(bytes) } else { csv(bytes) };
        let mut images = Images::new();
        for entry in entries.map_err(CatalogueError::Unavailable)? {
            let id = ImageId(entry.id);
            if images.insert(id, entry.row.into_image(id, sources)?).is_some() {
                return Err(CatalogueError::Unavailable(format!("the id {id} occurs twice")));
            }
        }
        Ok(images)
    }

    /// The present table.
    async fn images(&self) -> Arc<Images> {
        let (images, changed) = self.inner.known();
        if changed.is_none() {
            return images;
        }
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || inner.read()).await.unwrap_or(images)
    }
}

impl Inner {
    /// Reads the changed file. One that is gone or has become unusable leaves the last good table in place.
    fn read(&self) -> Arc<Images> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (images, changed) = self.known();
        // Somebody else has read it meanwhile.
        let Some(stamp) = changed else { return images };
        let images = match std::fs::read(&self.file) {
            // Nothing was seen of what it says: the next one tries again.
            Err(error) => {
                self.warn(&error);
                return images;
            }
            Ok(bytes) => match parse(&self.file, &bytes, &self.sources) {
                Ok(images) => Arc::new(images),
                Err(error) => {
                    tracing::warn!(%error, "the changed manifest is not usable; the last good one stays");
                    images
                }
            },
        };
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Table { stamp, images: images.clone() };
        images
    }

    /// The table that was read last, and the file's stamp if it is another one by now.
    fn known(&self) -> (Arc<Images>, Option<Stamp>) {
        let stamp = stamp(&self.file).inspect_err(|error| self.warn(error)).ok();
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        (table.images.clone(), stamp.filter(|stamp| *stamp != table.stamp))
    }

    fn warn(&self, error: &std::io::Error) {
        tracing::warn!(file = %self.file.display(), %error, "the manifest cannot be read; the last good one stays");
    }
}

impl Catalogue for Manifest {
    fn find(&self, id: ImageId) -> Finding<'_> {
        Box::pin(async move { Found::Ok(self.images().await.get(&id).cloned()) })
    }

    fn list(&self, after: Option<ImageId>) -> Listing<'_> {
        Box::pin(async move {
            let images = self.images().await;
            let mut ids: Vec<ImageId> =
                images.keys().copied().filter(|id| after.is_none_or(|after| *id > after)).collect();
            if ids.len() > PAGE_ROWS {
                ids.select_nth_unstable(PAGE_ROWS);
                ids.truncate(PAGE_ROWS);
            }
            ids.sort_unstable();
            Ok(ids.into_iter().filter_map(|id| Some((id, Ok(images.get(&id)?.clone())))).collect())
        })
    }

    fn search<'a>(&'a self, text: &'a str) -> Searching<'a> {
        Box::pin(async move {
            let (images, text) = (self.images().await, text.to_lowercase());
            let mut found: Vec<Match> = images
                .iter()
                .map(|(id, image)| Match { id: *id, title: None, image: image.clone() })
                .filter(|listed| haystack(listed).contains(&text))
                .collect();
            found.sort_unstable_by_key(|listed| std::cmp::Reverse(listed.id));
            found.truncate(MAX_MATCHES);
            Ok(Some(found))
        })
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async { Ok(format!("manifest with {} images; {}", self.images().await.len(), self.inner.sources)) })
    }
}

fn stamp(file: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(file)?;
    Ok((metadata.len(), metadata.modified().ok()))
}

/// As [`Manifest::parse`], with the file's name in the message.
fn parse(file: &Path, bytes: &[u8], sources: &Sources) -> Result<Images, CatalogueError> {
    Manifest::parse(bytes, sources).map_err(|error| match error {
        CatalogueError::Unavailable(problem) => unavailable(file, &problem),
        other => other,
    })
}

fn json(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn csv(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    /// As [`Entry`], without `flatten`, which loses CSV's types.
    #[derive(Deserialize)]
    struct Line {
        id: u64,
        file: String,
        #[serde(default)]
        source: Option<String>,
        #[serde(default)]
        file_hash: Option<String>,
        #[serde(default)]
        focal_point_x: Option<f64>,
        #[serde(default)]
        focal_point_y: Option<f64>,
        #[serde(default)]
        focal_point_width: Option<f64>,
        #[serde(default)]
        focal_point_height: Option<f64>,
    }
    ::csv::ReaderBuilder::new()
        .trim(::csv::Trim::All)
        .from_reader(bytes)
        .deserialize()
        .map(|line| {
            let line: Line = line.map_err(|error| error.to_string())?;
            let row = Row {
                file: line.file,
                source: line.source,
                file_hash: line.file_hash,
                focal_point_x: line.focal_point_x,
                focal_point_y: line.focal_point_y,
                focal_point_width: line.focal_point_width,
                focal_point_height: line.focal_point_height,
            };
            Ok(Entry { id: line.id, row })
        })
        .collect()
}

fn unavailable(file: &Path, problem: &dyn std::fmt::Display) -> CatalogueError {
    CatalogueError::Unavailable(format!("{}: {problem}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Manifest, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Manifest::open(file.path(), Sources::local("media")).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn csv_and_json_say_the_same() {
        let csv = open(
            "id,file,focal_point_x,focal_point_y,focal_point_width,focal_point_height,title\n\
             1,a.jpg,10,20,30,40,x\n2, b/c.png ,,,,,\n",
        )
        .unwrap();
        let json = open(
            r#"[{"id":1,"file":"a.jpg","focal_point_x":10,"focal_point_y":20,"focal_point_width":30,
                 "focal_point_height":40,"title":"x"},{"id":2,"file":"b/c.png"}]"#,
        )
        .unwrap();
        let (csv, json) = (csv.images().await, json.images().await);
        assert_eq!(csv, json);
        assert_eq!(csv[&ImageId(1)].focal_point.map(|f| f.width), Some(30.0));
        assert_eq!(csv[&ImageId(2)].location.to_string(), "media/b/c.png");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, needle) in [
            ("id,file\n1,a.jpg\n1,b.jpg\n", "the id 1 occurs twice"),
            ("id,file\n1,../a.jpg\n", "dot segment"),
            ("id,file\nx,a.jpg\n", "line: 2"),
            ("[{\"id\":1}]", "cannot be used"),
            ("[{]", "line 1"),
        ] {
            let error = open(text).err().unwrap_or_default();
            assert!(error.contains(needle), "{needle:?} is not in {error:?}");
        }
    }

    #[tokio::test]
    async fn a_search_finds_parts_of_names_and_ids() {
        let manifest = open("id,file\n1,Beach.jpg\n22,b/100%_c.png\n3,b/d.png\n").unwrap();
        let find = async |text| {
            let found = manifest.search(text).await.unwrap().unwrap();
            found.into_iter().map(|listed| listed.id.0).collect::<Vec<_>>()
        };
        assert_eq!(find("").await, [22, 3, 1]);
        assert_eq!(find("beach").await, [1]);
        assert_eq!(find("B/").await, [22, 3]);
        assert_eq!(find("%_").await, [22]);
        assert_eq!(find("22").await, [22]);
        assert_eq!(find("nothing").await, [0; 0]);
    }

    #[tokio::test]
    async fn a_changed_file_is_seen_and_a_broken_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "id,file\n1,a.jpg\n").unwrap();
        let manifest = Manifest::open(file.path(), Sources::local("media")).unwrap();
        std::fs::write(file.path(), "id,file\n1,a.jpg\n2,b.jpg\n").unwrap();
        assert!(manifest.find(ImageId(2)).await.unwrap().is_some());
        std::fs::write(file.path(), "id,file\nbroken").unwrap();
        assert!(manifest.find(ImageId(2)).await.unwrap().is_some());
    }
    /// Root reads whatever it likes, but not a folder: what could not be read is read as soon as it can be.
    #[tokio::test]
    async fn a_file_that_could_not_be_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.csv");
        std::fs::write(&file, "id,file\n1,a.jpg\n").unwrap();
        let manifest = Manifest::open(&file, Sources::local("media")).unwrap();
        let (aside, changed) = (folder.path().join("aside"), "id,file\n1,a.jpg\n2,b.jpg\n");
        std::fs::write(&aside, changed).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(manifest.find(ImageId(1)).await.unwrap().is_some());
        let unread = stamp(&file).unwrap();
        assert_ne!(manifest.inner.table.lock().unwrap().stamp, unread, "nothing is known of it");
        std::fs::remove_dir(&file).unwrap();
        std::fs::rename(&aside, &file).unwrap();
        assert!(manifest.find(ImageId(2)).await.unwrap().is_some());
    }
}
