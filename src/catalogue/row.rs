//! A catalogue row as any backend has it, checked into a [`SourceImage`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Deserialize;

use super::CatalogueError;
use crate::{
    config::Config,
    model::{FocalPoint, ImageId, MediaPath, RemoteUrl, SourceImage, SourceRef},
};

/// The sources that rows may name.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    /// That of a row which names none.
    usual: Option<String>,
    /// All that there are, and whether a row may name a URL there.
    takes_urls: BTreeMap<String, bool>,
}

impl Sources {
    /// Those of the config.
    pub fn new(config: &Config) -> Self {
        let takes_urls = config.sources.iter().map(|(name, source)| (name.clone(), source.takes_urls())).collect();
        Self { usual: config.catalogue.source.clone(), takes_urls }
    }

    /// One, whose files have paths.
    pub fn local(name: &str) -> Self {
        Self { usual: Some(name.to_owned()), takes_urls: BTreeMap::from([(name.to_owned(), false)]) }
    }

    /// The source of a row that names this one, and whether it takes URLs.
    fn find(&self, named: Option<&str>) -> Result<(&str, bool), String> {
        let name = named.filter(|name| !name.is_empty()).or(self.usual.as_deref());
        let name = name.ok_or("it names no source, and there is no catalogue.source")?;
        let (name, takes_urls) =
            self.takes_urls.get_key_value(name).ok_or_else(|| format!("there is no [sources.{name}]"))?;
        Ok((name, *takes_urls))
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.usual {
            Some(name) => write!(f, "its paths are in the source {name:?}"),
            None => f.write_str("each row names its source"),
        }
    }
}

/// The columns, named as in Wagtail's table, and the source. The focal point counts only when all four of its numbers are
/// there (`wagtail.images.models.AbstractImage.get_focal_point`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    pub file: String,
    pub source: Option<String>,
    pub file_hash: Option<String>,
    pub focal_point_x: Option<f64>,
    pub focal_point_y: Option<f64>,
    pub focal_point_width: Option<f64>,
    pub focal_point_height: Option<f64>,
}

impl Row {
    pub fn into_image(self, id: ImageId, sources: &Sources) -> Result<Arc<SourceImage>, CatalogueError> {
        let location = self.location(sources).map_err(|problem| CatalogueError::BadRow { id, problem })?;
        let focal_point =
            match (self.focal_point_x, self.focal_point_y, self.focal_point_width, self.focal_point_height) {
                (Some(x), Some(y), Some(width), Some(height)) => Some(FocalPoint { x, y, width, height }),
                _ => None,
            };
        Ok(Arc::new(SourceImage {
            location,
            file_hash: self.file_hash.filter(|hash| !hash.is_empty()),
            focal_point: focal_point.filter(|f| [f.x, f.y, f.width, f.height].iter().all(|n| n.is_finite())),
        }))
    }

    fn location(&self, sources: &Sources) -> Result<SourceRef, String> {
        let (source, takes_urls) = sources.find(self.source.as_deref())?;
        // No path has two slashes in a row. Whether the URL may be fetched, the source decides.
        let path = match self.file.contains("://") {
            true if !takes_urls => Err(format!("the source {source:?} takes no URLs"))?,
            true => RemoteUrl::parse(&self.file).map_err(|error| error.to_string())?.into(),
            false => MediaPath::parse(&self.file).map_err(|error| error.to_string())?,
        };
        Ok(SourceRef { source: source.to_owned(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(file: &str) -> Row {
        Row { file: file.into(), ..Row::default() }
    }

    #[test]
    fn rows_are_not_trusted() {
        let sources = Sources::local("media");
        for file in [
            "../etc/passwd",
            "/etc/passwd",
            "",
            "a\0b",
            "file:///etc/passwd/../x",
            "https://images.example/a.jpg",
            "file:///etc/passwd",
        ] {
            assert!(
                matches!(row(file).into_image(ImageId(1), &sources), Err(CatalogueError::BadRow { .. })),
                "{file:?}"
            );
        }
    }

    #[test]
    fn a_row_may_name_its_source() {
        let takes_urls = [("media", false), ("old", false), ("web", true)].map(|(name, is)| (name.to_owned(), is));
        let sources = Sources { usual: Some("media".into()), takes_urls: takes_urls.into() };
        let place = |file: &str, source: Option<&str>| {
            let row = Row { source: source.map(str::to_owned), ..row(file) };
            row.into_image(ImageId(1), &sources).map(|image| image.location.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(place("a.jpg", None).as_deref(), Ok("media/a.jpg"));
        assert_eq!(place("a.jpg", Some("")).as_deref(), Ok("media/a.jpg"));
        assert_eq!(place("a.jpg", Some("old")).as_deref(), Ok("old/a.jpg"));
        assert_eq!(
            place("https://Images.example/a b.jpg", Some("web")).as_deref(),
            Ok("web/https/images.example/a%20b.jpg")
        );
        for (file, source, needle) in [
            ("a.jpg", "nowhere", "there is no [sources.nowhere]"),
            ("a.jpg", "../media", "there is no [sources.../media]"),
            ("https://images.example/a.jpg", "old", "takes no URLs"),
            ("https://anna@images.example/a.jpg", "web", "names a user"),
            ("ftp://images.example/a.jpg", "web", "http or https"),
        ] {
            let error = place(file, Some(source)).unwrap_err();
            assert!(error.contains(needle), "{error}");
        }
        let none = Sources { usual: None, ..sources };
        assert!(row("a.jpg").into_image(ImageId(1), &none).is_err());
    }

    #[test]
    fn a_focal_point_needs_all_four_numbers() {
        let sources = Sources::local("m");
        let mut row = Row { focal_point_x: Some(1.0), ..row("a.jpg") };
        row.focal_point_y = Some(2.0);
        row.focal_point_width = Some(3.0);
        assert_eq!(row.clone().into_image(ImageId(1), &sources).expect("a row").focal_point, None);
        row.focal_point_height = Some(0.0);
        assert!(row.clone().into_image(ImageId(1), &sources).expect("a row").focal_point.is_some());
        row.focal_point_height = Some(f64::NAN);
        assert_eq!(row.into_image(ImageId(1), &sources).expect("a row").focal_point, None);
    }
}
