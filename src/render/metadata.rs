//! EXIF and XMP, taken from one file into another: `keep-meta`.
//!
//! Without that operation nothing of them leaves this service. The blocks are carried as they are, but for EXIF's
//! orientation: the pixels are upright by then.

use bytes::Bytes;
use img_parts::{
    ImageEXIF,
    jpeg::{Jpeg, JpegSegment, markers},
    png::{Png, PngChunk},
    riff::{RiffChunk, RiffContent},
    webp::WebP,
};

use super::exif;
use crate::model::ImageFormat;

/// Longest block that is carried; a JPEG segment holds 64 KiB.
const MAX_BYTES: usize = 65_000;
/// What begins an XMP packet's APP1 segment (XMP part 3, 1.1.3).
const XMP_IN_JPEG: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// An uncompressed iTXt chunk of that keyword (XMP part 3, 1.1.5): no compression, no language, no translation.
const XMP_IN_PNG: &[u8] = b"XML:com.adobe.xmp\0\0\0\0\0";
/// VP8X flags (RFC 9649, 2.7).
const WEBP_HAS_XMP: u8 = 0x04;

/// What a source says about itself beside its pixels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// A TIFF structure.
    exif: Option<Bytes>,
    /// An XML packet.
    xmp: Option<Bytes>,
}

impl Metadata {
    /// Reads what a file has; one that cannot be taken apart has none.
    pub fn read(source: &[u8], format: ImageFormat) -> Self {
        let found = match format {
            ImageFormat::Jpeg => Jpeg::from_bytes(Bytes::copy_from_slice(source)).ok().map(|jpeg| Self {
                exif: jpeg.exif(),
                xmp: jpeg
                    .segments_by_marker(markers::APP1)
                    .find_map(|segment| segment.contents().strip_prefix(XMP_IN_JPEG).map(Bytes::copy_from_slice)),
            }),
            ImageFormat::Png => Png::from_bytes(Bytes::copy_from_slice(source)).ok().map(|png| Self {
                exif: png.exif(),
                xmp: png
                    .chunks_by_type(*b"iTXt")
                    .find_map(|chunk| chunk.contents().strip_prefix(XMP_IN_PNG).map(Bytes::copy_from_slice)),
            }),
            ImageFormat::Webp => WebP::from_bytes(Bytes::copy_from_slice(source)).ok().map(|webp| Self {
                exif: webp.exif(),
                xmp: webp.chunk_by_id(*b"XMP ").and_then(|chunk| chunk.content().data().cloned()),
            }),
            ImageFormat::Gif
            | ImageFormat::Avif
            | ImageFormat::Heic
            | ImageFormat::Bmp
            | ImageFormat::Tiff
            | ImageFormat::Ico
            | ImageFormat::Svg => None,
        };
        let Self { exif, xmp } = found.unwrap_or_default();
        let short = |block: &Bytes| block.len() <= MAX_BYTES;
        Self { exif: exif.filter(short).map(|block| exif::upright(&block).into()), xmp: xmp.filter(short) }
    }

    /// Puts it into a finished file. Formats without a place for it stay as they are.
    pub fn write(self, file: Vec<u8>, format: ImageFormat) -> Vec<u8> {
        if self == Self::default() {
            return file;
        }
        let bytes = Bytes::from(file);
        let written = match format {
            ImageFormat::Jpeg => Jpeg::from_bytes(bytes.clone()).ok().map(|jpeg| self.into_jpeg(jpeg)),
            ImageFormat::Png => Png::from_bytes(bytes.clone()).ok().map(|png| self.into_png(png)),
            ImageFormat::Webp => WebP::from_bytes(bytes.clone()).ok().map(|webp| self.into_webp(webp)),
            ImageFormat::Gif
            | ImageFormat::Avif
            | ImageFormat::Heic
            | ImageFormat::Bmp
            | ImageFormat::Tiff
            | ImageFormat::Ico
            | ImageFormat::Svg => None,
        };
        written.unwrap_or(bytes).into()
    }

    fn into_jpeg(self, mut jpeg: Jpeg) -> Bytes {
        if let Some(xmp) = self.xmp {
            let segment = JpegSegment::new_with_contents(markers::APP1, [XMP_IN_JPEG, &xmp].concat().into());
            // After JFIF's APP0, which has to be first.
            let at = jpeg.segments().iter().take_while(|segment| segment.marker() == markers::APP0).count();
            jpeg.segments_mut().insert(at, segment);
        }
        if let Some(exif) = self.exif {
            jpeg.set_exif(Some(exif));
        }
        jpeg.encoder().bytes()
    }

    fn into_png(self, mut png: Png) -> Bytes {
        if let Some(xmp) = self.xmp {
            let chunk = PngChunk::new(*b"iTXt", [XMP_IN_PNG, &xmp].concat().into());
            png.chunks_mut().insert(1, chunk); // after IHDR
        }
        if let Some(exif) = self.exif {
            png.set_exif(Some(exif));
        }
        png.encoder().bytes()
    }

    fn into_webp(self, mut webp: WebP) -> Bytes {
        // EXIF's writer makes the extended form where the file is in the simple one.
        let has_exif = self.exif.is_some();
        webp.set_exif(Some(self.exif.unwrap_or_default()));
        if !has_exif {
            webp.set_exif(None);
        }
        if let Some(xmp) = self.xmp {
            let extended = webp.chunks_mut().iter_mut().find(|chunk| chunk.id() == *b"VP8X");
            if let Some(RiffContent::Data(header)) = extended.map(RiffChunk::content_mut) {
                let mut flagged = header.to_vec();
                if let Some(flags) = flagged.first_mut() {
                    *flags |= WEBP_HAS_XMP;
                }
                *header = flagged.into();
                webp.chunks_mut().push(RiffChunk::new(*b"XMP ", RiffContent::Data(xmp)));
            }
        }
        webp.encoder().bytes()
    }
}
