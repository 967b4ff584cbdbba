//! A catalogue row as any backend has it, checked into a [`SourceImage`].

use std::sync::Arc;

use serde::Deserialize;

use super::CatalogueError;
use crate::model::{FocalPoint, ImageId, MediaPath, SourceImage, SourceRef};

/// The columns, named as in Wagtail's table. The focal point counts only when all four of its numbers are there
/// (`wagtail.images.models.AbstractImage.get_focal_point`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    pub file: String,
    pub file_hash: Option<String>,
    pub focal_point_x: Option<f64>,
    pub focal_point_y: Option<f64>,
    pub focal_point_width: Option<f64>,
    pub focal_point_height: Option<f64>,
}

impl Row {
    pub fn into_image(self, id: ImageId, source: &str) -> Result<Arc<SourceImage>, CatalogueError> {
        let path =
            MediaPath::parse(&self.file).map_err(|error| CatalogueError::BadRow { id, problem: error.to_string() })?;
        let focal_point =
            match (self.focal_point_x, self.focal_point_y, self.focal_point_width, self.focal_point_height) {
                (Some(x), Some(y), Some(width), Some(height)) => Some(FocalPoint { x, y, width, height }),
                _ => None,
            };
        Ok(Arc::new(SourceImage {
            location: SourceRef { source: source.to_owned(), path },
            file_hash: self.file_hash.filter(|hash| !hash.is_empty()),
            focal_point: focal_point.filter(|f| [f.x, f.y, f.width, f.height].iter().all(|n| n.is_finite())),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_not_trusted() {
        for file in ["../etc/passwd", "/etc/passwd", "", "a\0b", "file:///etc/passwd/../x"] {
            let row = Row { file: file.into(), ..Row::default() };
            assert!(matches!(row.into_image(ImageId(1), "media"), Err(CatalogueError::BadRow { .. })), "{file:?}");
        }
    }

    #[test]
    fn a_focal_point_needs_all_four_numbers() {
        let mut row = Row { file: "a.jpg".into(), focal_point_x: Some(1.0), ..Row::default() };
        row.focal_point_y = Some(2.0);
        row.focal_point_width = Some(3.0);
        assert_eq!(row.clone().into_image(ImageId(1), "m").expect("a row").focal_point, None);
        row.focal_point_height = Some(0.0);
        assert!(row.clone().into_image(ImageId(1), "m").expect("a row").focal_point.is_some());
        row.focal_point_height = Some(f64::NAN);
        assert_eq!(row.into_image(ImageId(1), "m").expect("a row").focal_point, None);
    }
}
