//! What a Wagtail site of some version has where its settings are silent.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::model::ImageFormat;

/// A release of Wagtail, 5.0 or later: `"8"`, `"7.3"`, `"6.4.1"`.
///
/// The numbers are the defaults in `wagtail.images.models.Filter.run` of the releases named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WagtailVersion {
    major: u32,
    minor: u32,
}

impl WagtailVersion {
    const FIRST: Self = Self::new(5, 0);
    /// The release that the defaults follow.
    pub const LATEST: Self = Self::new(8, 0);

    const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// `WAGTAILIMAGES_JPEG_QUALITY`: 85, since 7.3 76.
    pub fn jpeg_quality(self) -> u8 {
        if self < Self::new(7, 3) { 85 } else { 76 }
    }

    /// `WAGTAILIMAGES_WEBP_QUALITY`: 85 in 5.0, since 5.1 80.
    pub fn webp_quality(self) -> u8 {
        if self < Self::new(5, 1) { 85 } else { 80 }
    }

    /// `WAGTAILIMAGES_AVIF_QUALITY`: 80, since 7.3 61. (5.0 has no AVIF.)
    pub fn avif_quality(self) -> u8 {
        if self < Self::new(7, 3) { 80 } else { 61 }
    }

    /// The conversions that `WAGTAILIMAGES_FORMAT_CONVERSIONS` adds to: WebP and AVIF are kept since 8.0. That a still GIF
    /// becomes PNG is said elsewhere, for it depends on the file. HEIC becomes JPEG in all of them, for 5.0 has none.
    pub fn conversions(self) -> BTreeMap<ImageFormat, ImageFormat> {
        let mut conversions =
            BTreeMap::from([(ImageFormat::Bmp, ImageFormat::Png), (ImageFormat::Heic, ImageFormat::Jpeg)]);
        if self < Self::new(8, 0) {
            conversions.extend([ImageFormat::Webp, ImageFormat::Avif].map(|format| (format, ImageFormat::Png)));
        }
        conversions
    }
}

impl FromStr for WagtailVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
        let version = match (parts.next().flatten(), parts.next()) {
            (Some(major), None) => Some(Self::new(major, 0)),
            (Some(major), Some(Some(minor))) => Some(Self::new(major, minor)),
            _ => None,
        };
        let known = version.filter(|version| *version >= Self::FIRST && parts.all(|part| part.is_some()));
        known.ok_or_else(|| format!("{text:?} is not a version of Wagtail from 5.0 on, such as \"8\" or \"7.3\""))
    }
}

impl fmt::Display for WagtailVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl<'de> Deserialize<'de> for WagtailVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> WagtailVersion {
        text.parse().unwrap()
    }

    #[test]
    fn defaults_of_the_releases() {
        for (text, jpeg, webp, avif, keeps_webp) in [
            ("5", 85, 85, 80, false),
            ("5.2", 85, 80, 80, false),
            ("7.2.1", 85, 80, 80, false),
            ("7.3", 76, 80, 61, false),
            ("8.0.1", 76, 80, 61, true),
            ("9", 76, 80, 61, true),
        ] {
            let found = version(text);
            assert_eq!(
                (found.jpeg_quality(), found.webp_quality(), found.avif_quality()),
                (jpeg, webp, avif),
                "{text}"
            );
            assert_eq!(!found.conversions().contains_key(&ImageFormat::Webp), keeps_webp, "{text}");
        }
        for text in ["", "4.2", "8.x", "latest", "8.0.b"] {
            assert!(text.parse::<WagtailVersion>().is_err(), "{text}");
        }
    }
}
