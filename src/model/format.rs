//! Image formats: how each is recognised, named and announced.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a file's head that [`ImageFormat::detect`] wants to see.
pub const SNIFF_BYTES: usize = 512;

/// A format that sources come in or renditions are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // each variant is its format's name
pub enum ImageFormat {
    Jpeg,
    Png,
    Gif,
    Webp,
    Avif,
    Heic,
    Bmp,
    Tiff,
    Ico,
    Svg,
}

/// What becomes of an animated source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Animation {
    /// It stays animated in the formats that can be.
    #[default]
    Keep,
    /// Its first frame is taken, as Wagtail does where it only has Pillow.
    FirstFrame,
}

impl ImageFormat {
    const ALL: [Self; 10] = [
        Self::Jpeg,
        Self::Png,
        Self::Gif,
        Self::Webp,
        Self::Avif,
        Self::Heic,
        Self::Bmp,
        Self::Tiff,
        Self::Ico,
        Self::Svg,
    ];

    /// Recognises a format by its magic bytes; a file's name is never asked.
    ///
    /// The ISO-BMFF brands are those of the AVIF 1.1 and HEIF (ISO/IEC 23008-12) specifications.
    pub fn detect(head: &[u8]) -> Option<Self> {
        match head {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => detect_bmff(brand),
            [b'B', b'M', ..] => Some(Self::Bmp),
            [b'I', b'I', 0x2A, 0, ..] | [b'M', b'M', 0, 0x2A, ..] => Some(Self::Tiff),
            [0, 0, 1, 0, ..] => Some(Self::Ico),
            _ => looks_like_svg(head).then_some(Self::Svg),
        }
    }

    /// The name used in filter specs, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Gif => "gif",
            Self::Webp => "webp",
            Self::Avif => "avif",
            Self::Heic => "heic",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
            Self::Ico => "ico",
            Self::Svg => "svg",
        }
    }

    /// The file extension of a rendition in this format, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            other => other.name(),
        }
    }

    /// The format whose renditions have this extension.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }

    /// What files in this format are called by whoever made them, without the dot, in small letters.
    pub fn file_extensions(self) -> &'static [&'static str] {
        match self {
            Self::Jpeg => &["jpg", "jpeg", "jpe", "jfif"],
            Self::Png => &["png", "apng"],
            Self::Gif => &["gif"],
            Self::Webp => &["webp"],
            Self::Avif => &["avif"],
            Self::Heic => &["heic", "heif"],
            Self::Bmp => &["bmp"],
            Self::Tiff => &["tif", "tiff"],
            Self::Ico => &["ico"],
            Self::Svg => &["svg"],
        }
    }

    /// The format that a file's name says it is in: what it is [its bytes tell](Self::detect).
    pub fn of_file_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        let is_called =
            |format: &Self| format.file_extensions().iter().any(|known| known.eq_ignore_ascii_case(extension));
        Self::ALL.into_iter().find(is_called)
    }

    /// The media type (IANA registry) that goes into `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
            Self::Avif => "image/avif",
            Self::Heic => "image/heic",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
            Self::Ico => "image/x-icon",
            Self::Svg => "image/svg+xml",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn detect_bmff(brand: &[u8]) -> Option<ImageFormat> {
    match brand.get(..4)? {
        b"avif" | b"avis" => Some(ImageFormat::Avif),
        b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" => Some(ImageFormat::Heic),
        // The structural brands say only "HEIF": the codec's own brand follows among the compatible ones.
        b"mif1" | b"msf1" => brand.get(8..)?.chunks_exact(4).find_map(|compatible| match compatible {
            b"avif" | b"avis" => Some(ImageFormat::Avif),
            b"heic" | b"heix" | b"hevc" | b"hevx" => Some(ImageFormat::Heic),
            _ => None,
        }),
        _ => None,
    }
}

/// Whether the text starts like an SVG document: a root element, or what may stand before one.
fn looks_like_svg(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    let names_svg = || head.windows(4).any(|window| window.eq_ignore_ascii_case(b"<svg"));
    head.starts_with(b"<svg")
        || ((head.starts_with(b"<?xml") || head.starts_with(b"<!--") || head.starts_with(b"<!DOCTYPE")) && names_svg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_bytes_decide() {
        assert_eq!(ImageFormat::detect(b"\xFF\xD8\xFF\xE0"), Some(ImageFormat::Jpeg));
        assert_eq!(ImageFormat::detect(b"RIFF\0\0\0\0WEBPVP8 "), Some(ImageFormat::Webp));
        assert_eq!(ImageFormat::detect(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic"), Some(ImageFormat::Heic));
        assert_eq!(ImageFormat::detect(b"\0\0\0\x1cftypavif\0\0\0\0"), Some(ImageFormat::Avif));
        assert_eq!(ImageFormat::detect(b"  <?xml version='1.0'?><svg"), Some(ImageFormat::Svg));
        assert_eq!(ImageFormat::detect(b"<html><body>"), None);
        assert_eq!(ImageFormat::detect(b"%PDF-1.4"), None);
        assert_eq!(ImageFormat::detect(b""), None);
    }

    #[test]
    fn a_name_says_what_a_file_may_be() {
        for (name, format) in [
            ("a.jpg", Some(ImageFormat::Jpeg)),
            ("a.b/c.JFIF", Some(ImageFormat::Jpeg)),
            ("a.apng", Some(ImageFormat::Png)),
            ("a.heif", Some(ImageFormat::Heic)),
            ("a.svg", Some(ImageFormat::Svg)),
            ("jpg", None),
            ("a.jpg.tmp", None),
            ("a.jpg/b", None),
            ("a.", None),
            ("", None),
        ] {
            assert_eq!(ImageFormat::of_file_name(name), format, "{name}");
        }
        let of_extension = |format: &ImageFormat| ImageFormat::of_extension(format.extension());
        assert!(ImageFormat::ALL.iter().all(|format| of_extension(format) == Some(*format)));
    }
}
