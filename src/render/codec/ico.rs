//! ICO: a directory of pictures, each a PNG file or a BMP without its file header.
//!
//! The directory is read here, for the `image` crate would prefer depth to size and refuses PNG entries that are not RGBA,
//! which Pillow writes. PNG entries go to this room's own decoder, BMP entries to the crate's.

use std::io::Cursor;

use image::{
    ColorType, ExtendedColorType, ImageDecoder,
    codecs::ico::{IcoDecoder, IcoEncoder, IcoFrame},
};

use super::{corrupt, encode_error, expect_size, png};
use crate::{
    model::{ImageFormat, Orientation, PixelRect, Size, SourceFacts},
    render::{
        RenderError,
        picture::{Layout, Picture},
        resample::{self, Axis, Cut},
    },
};

const HEADER_BYTES: usize = 6;
const ENTRY_BYTES: usize = 16;
/// A side of 256 is written as 0, and nothing longer can be.
const LONGEST_SIDE: u32 = 256;
/// The boxes that Pillow fits entries into, where the picture fills them.
const BOXES: [u32; 7] = [16, 24, 32, 48, 64, 128, 256];

/// Reads the directory and the header of the largest picture.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let (stored_size, layout) = match Entry::largest(source)? {
        Entry::Png(file) => {
            let facts = png::probe(file).map_err(as_ico)?;
            return Ok(SourceFacts { format: ImageFormat::Ico, orientation: Orientation::Upright, frames: 1, ..facts });
        }
        Entry::Bmp(file) => {
            let (_, size) = open(&file)?;
            (size, Layout::Rgba8)
        }
    };
    Ok(SourceFacts {
        format: ImageFormat::Ico,
        stored_size,
        orientation: Orientation::Upright,
        frames: 1,
        bytes_per_pixel: layout.bytes() as u8,
        progressive: false,
        document: None,
    })
}

/// Decodes the largest picture, as Pillow opens it.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    match Entry::largest(source)? {
        Entry::Png(file) => png::decode(file, stored_size).map_err(as_ico),
        Entry::Bmp(file) => {
            let (decoder, size) = open(&file)?;
            expect_size(size, stored_size)?;
            let mut picture = Picture::blank(size, Layout::Rgba8);
            decoder.read_image(&mut picture.pixels).map_err(damaged)?;
            Ok(picture)
        }
    }
}

/// Encodes the picture in each of the usual sizes that it fills, and in its own: Pillow leaves that out unless it is a
/// usual one, so that its `width-32` of a landscape is 16 pixels wide. Nothing is larger than 256 pixels.
pub fn encode(picture: Picture) -> Result<Vec<u8>, RenderError> {
    let failed = |error: image::ImageError| encode_error(ImageFormat::Ico, error);
    let mut picture = picture.into_colour();
    picture.profile = None;
    if picture.layout == Layout::Rgb8 {
        // Windows reads 32-bit entries only.
        picture = picture.mapped(Layout::Rgba8, |[r, g, b]: [u8; 3]| [r, g, b, 255]);
    }
    let mut entries = Vec::new();
    for size in entry_sizes(picture.size) {
        let cut = Cut { crop: PixelRect::whole(picture.size), reduction: 1, output: size, first: Axis::Horizontal };
        let file = png::encode(resample::resize(picture.clone(), cut)?)?;
        entries.push(IcoFrame::with_encoded(file, size.width, size.height, ExtendedColorType::Rgba8).map_err(failed)?);
    }
    let mut bytes = Vec::new();
    IcoEncoder::new(&mut bytes).encode_images(&entries).map_err(failed)?;
    Ok(bytes)
}

/// From small to large.
fn entry_sizes(picture: Size) -> Vec<Size> {
    let filled = BOXES.into_iter().filter(|&side| side <= picture.width && side <= picture.height);
    let own = (picture.width.max(picture.height)).min(LONGEST_SIDE);
    let mut sizes: Vec<Size> = filled.chain([own]).map(|side| thumbnail(picture, side)).collect();
    sizes.dedup();
    sizes
}

/// Pillow's `Image.thumbnail`: the largest size of the same shape within a square, the shorter side rounded to whichever
/// whole number keeps the shape better.
fn thumbnail(picture: Size, side: u32) -> Size {
    if picture.width <= side && picture.height <= side {
        return picture;
    }
    let shape = f64::from(picture.width) / f64::from(picture.height);
    let closest = |length: f64, error: &dyn Fn(f64) -> f64| {
        let (below, above) = (length.floor(), length.ceil());
        (if error(above) < error(below) { above } else { below }).max(1.0) as u32
    };
    let long = f64::from(side);
    match shape <= 1.0 {
        true => Size::new(closest(long * shape, &|width| (shape - width / long).abs()), side),
        false => {
            let error = |height: f64| if height == 0.0 { 0.0 } else { (shape - long / height).abs() };
            Size::new(side, closest(long / shape, &error))
        }
    }
}

/// A picture in the directory.
enum Entry<'a> {
    /// A whole file.
    Png(&'a [u8]),
    /// An ICO file made of this picture alone.
    Bmp(Vec<u8>),
}

impl<'a> Entry<'a> {
    /// The one of most pixels; among those, the one of most bits.
    fn largest(source: &'a [u8]) -> Result<Self, RenderError> {
        let cut_off = || damaged("the directory is cut off");
        let (header, rest) = source.split_first_chunk::<HEADER_BYTES>().ok_or_else(cut_off)?;
        let count = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let entries = rest.get(..count * ENTRY_BYTES).ok_or_else(cut_off)?.as_chunks::<ENTRY_BYTES>().0;
        let side = |byte: u8| if byte == 0 { LONGEST_SIDE } else { byte.into() };
        let rank =
            |entry: &&[u8; ENTRY_BYTES]| (side(entry[0]) * side(entry[1]), u16::from_le_bytes([entry[6], entry[7]]));
        let entry = entries.iter().max_by_key(rank).ok_or_else(|| damaged("the directory is empty"))?;
        let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize;
        let (length, start) = (number(8), number(12));
        let file = source
            .get(start..)
            .and_then(|rest| rest.get(..length))
            .ok_or_else(|| damaged("the picture lies outside the file"))?;
        if ImageFormat::detect(file) == Some(ImageFormat::Png) {
            return Ok(Self::Png(file));
        }
        let start = (HEADER_BYTES + ENTRY_BYTES) as u32;
        let directory = [&[0, 0, 1, 0, 1, 0], &entry[..12], &start.to_le_bytes()].concat();
        Ok(Self::Bmp([&directory, file].concat()))
    }
}

type Opened<'a> = (IcoDecoder<Cursor<&'a [u8]>>, Size);

fn open(file: &[u8]) -> Result<Opened<'_>, RenderError> {
    let decoder = IcoDecoder::new(Cursor::new(file)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    // A BMP entry's header names any size; the directory cannot.
    if width == 0 || height == 0 || width.max(height) > LONGEST_SIDE {
        return Err(damaged("a side is not within 1 to 256"));
    }
    match decoder.color_type() {
        ColorType::Rgba8 => Ok((decoder, Size::new(width, height))),
        other => Err(RenderError::Unsupported { format: ImageFormat::Ico, detail: format!("{other:?} pixels") }),
    }
}

fn damaged(error: impl ToString) -> RenderError {
    corrupt(ImageFormat::Ico, error)
}

/// What is wrong with an entry is wrong with the file.
fn as_ico(error: RenderError) -> RenderError {
    match error {
        RenderError::Corrupt { detail, .. } => RenderError::Corrupt { format: ImageFormat::Ico, detail },
        RenderError::Unsupported { detail, .. } => RenderError::Unsupported { format: ImageFormat::Ico, detail },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Pillow 12's files, all but the last, which is the picture itself.
    #[test]
    fn entries_are_those_of_pillow_and_the_picture() {
        let sizes = |width, height| -> Vec<(u32, u32)> {
            entry_sizes(Size::new(width, height)).iter().map(|size| (size.width, size.height)).collect()
        };
        assert_eq!(sizes(32, 21), [(16, 11), (32, 21)]);
        assert_eq!(sizes(32, 25), [(16, 13), (24, 19), (32, 25)]);
        assert_eq!(sizes(48, 48), [(16, 16), (24, 24), (32, 32), (48, 48)]);
        assert_eq!(sizes(3, 2), [(3, 2)]);
        assert_eq!(sizes(1, 300), [(1, 256)]);
        assert_eq!(sizes(640, 427).last(), Some(&(256, 171)));
    }

    /// A 2x2 icon as Windows writes them: 32-bit rows from below, then a mask.
    fn bmp_entry() -> Vec<u8> {
        let mut picture = [40_u32, 2, 4].map(u32::to_le_bytes).concat();
        picture.extend_from_slice(&[1, 0, 32, 0]);
        picture.extend_from_slice(&[0; 24]);
        picture.extend_from_slice(&[1, 2, 3, 255, 4, 5, 6, 255, 7, 8, 9, 255, 10, 11, 12, 255]);
        picture.extend_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0]);
        picture
    }

    fn icon(entries: &[(u8, u8, u8, &[u8])]) -> Vec<u8> {
        let mut start = (HEADER_BYTES + entries.len() * ENTRY_BYTES) as u32;
        let mut bytes = vec![0, 0, 1, 0, entries.len() as u8, 0];
        for (width, height, bits, file) in entries {
            bytes.extend_from_slice(&[*width, *height, 0, 0, 1, 0, *bits, 0]);
            bytes.extend_from_slice(&(file.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&start.to_le_bytes());
            start += file.len() as u32;
        }
        entries.iter().for_each(|(_, _, _, file)| bytes.extend_from_slice(file));
        bytes
    }

    #[test]
    fn a_bmp_entry_is_read_with_its_mask() {
        let file = icon(&[(1, 1, 32, b"never looked at"), (2, 2, 32, &bmp_entry())]);
        let facts = probe(&file).unwrap();
        assert_eq!((facts.stored_size, facts.bytes_per_pixel), (Size::new(2, 2), 4));
        let picture = decode(&file, facts.stored_size).unwrap();
        assert_eq!(picture.pixels, [9, 8, 7, 255, 12, 11, 10, 255, 3, 2, 1, 0, 6, 5, 4, 255]);
    }

    #[test]
    fn the_largest_entry_is_read_whatever_its_depth() {
        let gray = |side: u32| {
            let size = Size::new(side, side);
            png::encode(Picture {
                size,
                layout: Layout::Gray8,
                pixels: vec![side as u8; size.pixels() as usize],
                profile: None,
            })
            .unwrap()
        };
        let file = icon(&[(4, 4, 32, &gray(4)), (8, 8, 8, &gray(8)), (2, 2, 32, &bmp_entry())]);
        let facts = probe(&file).unwrap();
        assert_eq!((facts.format, facts.stored_size), (ImageFormat::Ico, Size::new(8, 8)));
        let picture = decode(&file, facts.stored_size).unwrap();
        assert_eq!((picture.layout, picture.pixels[0]), (Layout::Gray8, 8));
    }

    #[test]
    fn damage_is_named() {
        let file = icon(&[(2, 2, 32, &bmp_entry())]);
        for end in 4..file.len() {
            assert!(matches!(probe(&file[..end]), Err(RenderError::Corrupt { format: ImageFormat::Ico, .. })), "{end}");
        }
        assert!(probe(b"\0\0\x01\0\0\0").is_err());
    }
}
