//! BMP, by the `image` crate. Read only.

use std::io::Cursor;

use image::{ColorType, ImageDecoder, codecs::bmp::BmpDecoder};

use super::{corrupt, expect_size};
use crate::{
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::{
        RenderError,
        picture::{Layout, Picture},
    },
};

/// Reads the header.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let (_, stored_size, layout) = open(source)?;
    Ok(SourceFacts {
        format: ImageFormat::Bmp,
        stored_size,
        orientation: Orientation::Upright,
        frames: 1,
        bytes_per_pixel: layout.bytes() as u8,
        progressive: false,
        document: None,
    })
}

/// Decodes the picture.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    let (decoder, size, layout) = open(source)?;
    expect_size(size, stored_size)?;
    let mut picture = Picture::blank(size, layout);
    decoder.read_image(&mut picture.pixels).map_err(damaged)?;
    Ok(picture)
}

type Opened<'a> = (BmpDecoder<Cursor<&'a [u8]>>, Size, Layout);

fn open(source: &[u8]) -> Result<Opened<'_>, RenderError> {
    let decoder = BmpDecoder::new(Cursor::new(source)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let layout = match decoder.color_type() {
        ColorType::Rgb8 => Layout::Rgb8,
        ColorType::Rgba8 => Layout::Rgba8,
        ColorType::L8 => Layout::Gray8,
        other => {
            return Err(RenderError::Unsupported { format: ImageFormat::Bmp, detail: format!("{other:?} pixels") });
        }
    };
    if width == 0 || height == 0 {
        return Err(corrupt(ImageFormat::Bmp, "a side has no pixels"));
    }
    Ok((decoder, Size::new(width, height), layout))
}

fn damaged(error: image::ImageError) -> RenderError {
    corrupt(ImageFormat::Bmp, error)
}
