//! All originals that there are: the rows of a catalogue, the images among the files of a source.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;

use crate::{
    catalogue::{self, Catalogue, CatalogueError},
    config::{Config, SourceKind},
    model::{ImageFormat, ImageId, MediaPath},
    source::{self, Source, SourceError},
};

/// A walk under way: what is met, or why something was not.
pub type Walk<T, E> = BoxStream<'static, Result<T, E>>;

/// Attempts to read a page, and the pause between them: a database that restarts is back by then.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Files met that nobody has taken yet.
const AHEAD: usize = 256;

/// All rows, in the order of ids. It ends with an error where the catalogue is away for longer than a moment.
pub fn rows(catalogue: Arc<dyn Catalogue>) -> Walk<catalogue::Listed, CatalogueError> {
    let pages = stream::unfold(Some(None), move |after: Option<Option<ImageId>>| {
        let catalogue = catalogue.clone();
        async move {
            let after = after?;
            match page(&*catalogue, after).await {
                Ok(rows) => {
                    let next = rows.last().map(|(id, _)| Some(*id));
                    (!rows.is_empty()).then(|| (rows.into_iter().map(Ok).collect::<Vec<_>>(), next))
                }
                Err(error) => Some((vec![Err(error)], None)),
            }
        }
    });
    pages.flat_map(stream::iter).boxed()
}

async fn page(catalogue: &dyn Catalogue, after: Option<ImageId>) -> Result<Vec<catalogue::Listed>, CatalogueError> {
    let mut attempt = 1;
    loop {
        match catalogue.list(after).await {
            Err(error) if error.is_absence() && attempt < ATTEMPTS => {
                tracing::debug!(%error, "a page of the catalogue is asked for again");
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// All images among a source's files; `None` where nobody can tell which files there are.
pub fn files(source: Arc<dyn Source>, candidates: Candidates) -> Option<Walk<source::Listed, SourceError>> {
    // Asked for here, so that who cannot be walked is known before anything is begun.
    drop(source.list()?);
    let (met, taken) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let Some(mut files) = source.list() else { return };
        while let Some(file) = files.next().await {
            let wanted = file.as_ref().map_or(true, |file| candidates.takes(&file.path));
            if wanted && met.send(file).await.is_err() {
                return;
            }
        }
    });
    Some(stream::unfold(taken, |mut taken| async move { taken.recv().await.map(|file| (file, taken)) }).boxed())
}

/// Which files of a source are images, by their names: a media folder has others beside them, and nobody wants to be told of
/// each that it is none.
#[derive(Clone, Debug)]
pub struct Candidates {
    has_svg: bool,
    /// Folders of our own that lie below the source's root.
    own: Vec<PathBuf>,
}

impl Candidates {
    /// Those of a source of the config.
    pub fn new(config: &Config, source: &str) -> Self {
        let Some(section) = config.sources.get(source) else { return Self { has_svg: false, own: Vec::new() } };
        let below = |folder: &Path| match section.kind {
            SourceKind::Fs => folder.strip_prefix(&section.root).ok().map(Path::to_owned),
            SourceKind::Http | SourceKind::S3 => None,
        };
        let own = [&config.store.root, &config.originals.root].into_iter().filter_map(|folder| below(folder)).collect();
        Self { has_svg: section.svg, own }
    }

    /// Whether this is one: a name with an image's extension, no part of which is hidden, as unfinished files are.
    pub fn takes(&self, path: &MediaPath) -> bool {
        let path = path.as_str();
        let is_hidden = || path.split('/').any(|part| part.starts_with('.'));
        let is_own = || self.own.iter().any(|folder| Path::new(path).starts_with(folder));
        let is_read = |format: ImageFormat| format != ImageFormat::Svg || self.has_svg;
        ImageFormat::of_file_name(path).is_some_and(is_read) && !is_hidden() && !is_own()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SourceConfig;

    #[test]
    fn images_are_told_by_their_names_and_renditions_are_none() {
        let mut config = Config::default();
        config.store.root = "/srv/media/renditions".into();
        let source = |svg| SourceConfig { svg, ..SourceConfig::folder("/srv/media".into()) };
        config.sources = [("media".to_owned(), source(false)), ("drawings".to_owned(), source(true))].into();
        let takes =
            |name: &str, path: &str| Candidates::new(&config, name).takes(&MediaPath::parse(path).expect("a path"));
        for path in ["a.jpg", "a.apng", "b/c.JPEG", "b.c/d.webp", "renditions.png", "x/renditions/a.png"] {
            assert!(takes("media", path), "{path}");
        }
        for path in ["a.pdf", "jpg", "a.jpg.tmp", ".a.jpg", ".thumbs/a.jpg", "renditions/r1/a.jpg", "a.svg", "b.jpg/c"]
        {
            assert!(!takes("media", path), "{path}");
        }
        assert!(takes("drawings", "a.svg"));
    }
}
