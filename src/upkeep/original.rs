//! Which original is meant, by whoever names it.

use std::sync::Arc;

use super::find_afresh;
use crate::{
    access::{LinkError, Subject},
    app::App,
    catalogue::{self, CatalogueError},
    model::{SourceImage, SourceRef},
};

/// An original, and how it is called.
#[derive(Clone, Debug)]
pub struct Original {
    reference: String,
    known: Known,
}

/// What is known of it.
#[derive(Clone, Debug)]
enum Known {
    /// What was said: to be looked up.
    Subject(Subject<'static>),
    /// Its row was read a moment ago.
    Row(Arc<SourceImage>),
    /// The same, and cannot be used.
    BadRow(CatalogueError),
    /// It cannot be what it is called.
    Nothing,
}

impl Original {
    /// What a reference means, `42` or `source/path`.
    ///
    /// # Errors
    /// [`LinkError::Reference`] for what is none.
    pub fn of_reference(reference: &str) -> Result<Self, LinkError> {
        let subject = Subject::of_reference(reference)?;
        Ok(Self { reference: reference.to_owned(), known: Known::Subject(subject) })
    }

    /// As [`Self::of_reference`]; of what is no reference, an original that is found nowhere.
    pub fn named(reference: &str) -> Self {
        let nothing = || Self { reference: plain(reference), known: Known::Nothing };
        Self::of_reference(reference).unwrap_or_else(|_| nothing())
    }

    /// That of a row.
    pub fn row((id, image): catalogue::Listed) -> Self {
        let known = image.map_or_else(Known::BadRow, Known::Row);
        Self { reference: id.to_string(), known }
    }

    /// A file in a source.
    pub fn file(location: SourceRef) -> Self {
        let reference = location.to_string();
        Self { reference, known: Known::Row(Arc::new(SourceImage::at(location))) }
    }

    /// How it is called.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The source image, if there is such: by the catalogue's row as it is, and by what the source says from now on.
    pub(super) async fn find(&self, app: &App) -> Result<Option<Arc<SourceImage>>, CatalogueError> {
        let image = match &self.known {
            Known::Subject(subject) => find_afresh(app, subject).await?,
            Known::Row(image) => Some(image.clone()),
            Known::BadRow(error) => return Err(error.clone()),
            Known::Nothing => None,
        };
        if let Some(SourceRef { source, path }) = image.as_ref().map(|image| &image.location)
            && let Some(source) = app.sources.get(source)
        {
            source.forget(path);
        }
        Ok(image)
    }
}

/// What somebody wrote, as it may be printed.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
