//! Paths inside a media root.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest path accepted, in bytes: Linux's `PATH_MAX`.
const MAX_BYTES: usize = 4096;

/// A relative path that cannot leave the root it is joined to: no empty, `.` or `..` segment, no leading `/`, no `\`, no
/// control character. It is refused rather than repaired: a repaired path is one nobody asked for.
///
/// Symbolic links are the source's business; it opens everything beneath its root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaPath(String);

/// Why a text is not a [`MediaPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MediaPathError {
    /// No text, or two slashes in a row, or one at either end.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A backslash or a control character.
    #[error("the path has a backslash or a control character")]
    Character,
    /// Longer than `PATH_MAX`.
    #[error("the path is longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl MediaPath {
    /// Checks a text.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, MediaPathError> {
        if text.len() > MAX_BYTES {
            return Err(MediaPathError::TooLong);
        }
        if text.chars().any(|c| c == '\\' || c.is_control()) {
            return Err(MediaPathError::Character);
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(MediaPathError::EmptySegment),
                "." | ".." => return Err(MediaPathError::DotSegment),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The path as text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment without its extension: the stem that a download is named after.
    pub fn stem(&self) -> &str {
        let name = self.0.rsplit('/').next().unwrap_or(&self.0);
        match name.rfind('.') {
            Some(dot) if dot > 0 => &name[..dot],
            _ => name,
        }
    }
}

impl TryFrom<String> for MediaPath {
    type Error = MediaPathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<MediaPath> for String {
    fn from(path: MediaPath) -> Self {
        path.0
    }
}

impl fmt::Display for MediaPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_could_leave_the_root() {
        for (text, why) in [
            ("", MediaPathError::EmptySegment),
            ("/etc/passwd", MediaPathError::EmptySegment),
            ("a//b", MediaPathError::EmptySegment),
            ("a/", MediaPathError::EmptySegment),
            (".", MediaPathError::DotSegment),
            ("a/../b", MediaPathError::DotSegment),
            ("..", MediaPathError::DotSegment),
            ("a\\b", MediaPathError::Character),
            ("a\0b", MediaPathError::Character),
            ("a\u{85}b", MediaPathError::Character),
        ] {
            assert_eq!(MediaPath::parse(text), Err(why), "{text:?}");
        }
        assert!(MediaPath::parse("original_images/ünï ...jpg").is_ok());
    }

    #[test]
    fn stems() {
        for (path, stem) in
            [("a/photo.jpg", "photo"), ("noext", "noext"), ("a/.hidden", ".hidden"), ("x.tar.gz", "x.tar")]
        {
            assert_eq!(MediaPath::parse(path).expect("a good path").stem(), stem);
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_beneath(text in "\\PC{0,40}") {
            if let Ok(path) = MediaPath::parse(&text) {
                let joined = std::path::Path::new("/root").join(path.as_str());
                prop_assert!(joined.starts_with("/root"));
                prop_assert!(!joined.components().any(|c| matches!(c, std::path::Component::ParentDir)));
            }
        }
    }
}
