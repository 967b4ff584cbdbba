//! TIFF, by the `image` crate. Read only, the first picture.
//!
//! Browsers show no TIFF, and Wagtail fails where a spec names no format: those renditions are PNG, which keeps all that a
//! TIFF is used for, sharp edges, alpha and depth.

use std::io::Cursor;

use image::{ColorType, ExtendedColorType, ImageDecoder, ImageError, Limits, codecs::tiff::TiffDecoder};

use super::{MAX_PROFILE_BYTES, corrupt, expect_size};
use crate::{
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::{
        RenderError,
        inspect::Colours,
        picture::{Layout, Picture},
    },
};

/// Reads the first directory.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let mut opened = Opened::open(source)?;
    let orientation = opened.decoder.orientation().map_err(damaged)?;
    Ok(SourceFacts {
        format: ImageFormat::Tiff,
        stored_size: opened.size,
        orientation: Orientation::from_exif(orientation.to_exif().into()),
        frames: 1,
        bytes_per_pixel: opened.layout.bytes() as u8,
        progressive: false,
        document: None,
    })
}

/// Decodes the first picture. Sixteen bits a sample become eight, but for gray, as in PNG.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    let Opened { mut decoder, size, layout, deep } = Opened::open(source)?;
    expect_size(size, stored_size)?;
    let bytes = decoder.total_bytes() as usize;
    let mut limits = Limits::no_limits();
    // The whole picture as stored (up to a third wider: CMYK), and as much again for strips, tables and the profile.
    limits.max_alloc = Some(3 * bytes as u64 + MAX_PROFILE_BYTES as u64);
    decoder.set_limits(limits).map_err(damaged)?;
    // A CMYK profile says nothing about the RGB that the crate makes of such pictures: `usable_profile` sees to that.
    let profile = decoder.icc_profile().map_err(damaged)?.filter(|profile| profile.len() <= MAX_PROFILE_BYTES);
    let mut pixels = vec![0; bytes];
    decoder.read_image(&mut pixels).map_err(damaged)?;
    if deep {
        pixels = pixels.as_chunks::<2>().0.iter().map(|&sample| (u16::from_ne_bytes(sample) >> 8) as u8).collect();
    }
    Ok(Picture { size, layout, pixels, profile })
}

/// What the first directory says.
pub fn stored_colours(source: &[u8]) -> Option<(Colours, u8)> {
    let color = Opened::open(source).ok()?.decoder.original_color_type();
    let colours = match color {
        ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16 => Colours::Cmyk,
        color if color.channel_count() < 3 => Colours::Gray,
        _ => Colours::Rgb,
    };
    let bits = u8::try_from(color.bits_per_pixel() / u16::from(color.channel_count()).max(1)).ok()?;
    Some((colours, bits))
}

struct Opened<'a> {
    decoder: TiffDecoder<Cursor<&'a [u8]>>,
    size: Size,
    /// What decoding ends in.
    layout: Layout,
    /// Sixteen bits a sample come out of the decoder, eight are wanted.
    deep: bool,
}

impl<'a> Opened<'a> {
    fn open(source: &'a [u8]) -> Result<Self, RenderError> {
        let decoder = TiffDecoder::new(Cursor::new(source)).map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(corrupt(ImageFormat::Tiff, "a side has no pixels"));
        }
        let (layout, deep) = match decoder.color_type() {
            ColorType::L8 => (Layout::Gray8, false),
            ColorType::La8 => (Layout::GrayAlpha8, false),
            ColorType::Rgb8 => (Layout::Rgb8, false),
            ColorType::Rgba8 => (Layout::Rgba8, false),
            ColorType::L16 => (Layout::Gray16, false),
            ColorType::La16 => (Layout::GrayAlpha8, true),
            ColorType::Rgb16 => (Layout::Rgb8, true),
            ColorType::Rgba16 => (Layout::Rgba8, true),
            other => return Err(unsupported(format!("{other:?} pixels"))),
        };
        Ok(Self { decoder, size: Size::new(width, height), layout, deep })
    }
}

fn unsupported(detail: String) -> RenderError {
    RenderError::Unsupported { format: ImageFormat::Tiff, detail }
}

fn damaged(error: ImageError) -> RenderError {
    match error {
        ImageError::Unsupported(error) => unsupported(error.to_string()),
        error => corrupt(ImageFormat::Tiff, error),
    }
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageEncoder, codecs::tiff::TiffEncoder};

    use super::*;

    const SIZE: Size = Size { width: 5, height: 3 };

    fn tiff(color: ExtendedColorType, pixels: &[u8]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        TiffEncoder::new(&mut bytes).write_image(pixels, SIZE.width, SIZE.height, color).unwrap();
        bytes.into_inner()
    }

    fn decoded(file: &[u8]) -> (u8, Picture) {
        let facts = probe(file).unwrap();
        assert_eq!((facts.format, facts.stored_size), (ImageFormat::Tiff, SIZE));
        (facts.bytes_per_pixel, decode(file, SIZE).unwrap())
    }

    #[test]
    fn eight_bits_come_back_as_they_are() {
        for (color, layout) in [
            (ExtendedColorType::L8, Layout::Gray8),
            (ExtendedColorType::Rgb8, Layout::Rgb8),
            (ExtendedColorType::Rgba8, Layout::Rgba8),
        ] {
            let pixels: Vec<u8> = (0..15 * layout.bytes()).map(|i| (i * 37 % 256) as u8).collect();
            let (bytes, picture) = decoded(&tiff(color, &pixels));
            assert_eq!((usize::from(bytes), picture.layout), (layout.bytes(), layout));
            assert_eq!(picture.pixels, pixels, "{layout:?}");
        }
    }

    #[test]
    fn sixteen_bits_of_colour_become_eight_and_gray_stays() {
        let deep: Vec<u8> = (0..15 * 4_u16).flat_map(|i| (i * 1_000).to_ne_bytes()).collect();
        let high: Vec<u8> = (0..15 * 4_u16).map(|i| ((i * 1_000) >> 8) as u8).collect();
        let (bytes, picture) = decoded(&tiff(ExtendedColorType::Rgba16, &deep));
        assert_eq!((bytes, picture.layout, picture.pixels), (4, Layout::Rgba8, high));
        let (bytes, picture) = decoded(&tiff(ExtendedColorType::L16, &deep[..30]));
        assert_eq!((bytes, picture.layout, picture.pixels), (2, Layout::Gray16, deep[..30].to_vec()));
    }

    /// One strip of 8-bit CMYK with an orientation, written by hand (TIFF 6.0, section 2): the crate writes neither.
    #[test]
    fn inks_become_colours_and_the_orientation_is_read() {
        let tags: [(u16, u16, u32, u32); 11] = [
            (256, 3, 1, 5),   // width
            (257, 3, 1, 3),   // height
            (258, 3, 4, 146), // bits of each sample, after the directory
            (259, 3, 1, 1),   // no compression
            (262, 3, 1, 5),   // separated: inks
            (273, 4, 1, 154), // where the strip begins
            (274, 3, 1, 6),   // orientation
            (277, 3, 1, 4),   // samples of a pixel
            (278, 3, 1, 3),   // rows of a strip
            (279, 4, 1, 60),  // its bytes
            (284, 3, 1, 1),   // interleaved
        ];
        let mut file = b"II*\0\x08\0\0\0\x0B\0".to_vec();
        for (tag, kind, count, value) in tags {
            file.extend_from_slice(&[tag.to_le_bytes(), kind.to_le_bytes()].concat());
            file.extend_from_slice(&[count.to_le_bytes(), value.to_le_bytes()].concat());
        }
        file.extend_from_slice(&[0; 4]);
        file.extend_from_slice(&[8, 0, 8, 0, 8, 0, 8, 0]);
        file.extend_from_slice(&[255, 0, 0, 0].repeat(15));
        let (bytes, picture) = decoded(&file);
        assert_eq!((bytes, picture.layout, &picture.pixels[..3]), (3, Layout::Rgb8, &[0, 255, 255][..]));
        assert_eq!(probe(&file).unwrap().orientation, Orientation::Rotate90);
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let file = tiff(ExtendedColorType::Rgb8, &[7; 45]);
        for end in 4..file.len() {
            let cut = &file[..end];
            assert!(probe(cut).and_then(|facts| decode(cut, facts.stored_size)).is_err(), "{end} of {}", file.len());
        }
    }
}
