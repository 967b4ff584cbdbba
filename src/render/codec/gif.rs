//! GIF, by the `gif` crate. The first frame, on its canvas.

use std::{borrow::Cow, io::Cursor, num::NonZeroU64};

use gif::{ColorOutput, DecodeOptions, Encoder, Frame, MemoryLimit};

use super::{corrupt, encode_error, expect_size, palette::Indexed};
use crate::{
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::{
        RenderError,
        picture::{Layout, Picture},
    },
};

/// Reads the headers of all frames; no pixel is unpacked.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let outline = outline(source).ok_or_else(|| damaged("there is no complete frame header"))?;
    Ok(SourceFacts {
        format: ImageFormat::Gif,
        stored_size: outline.canvas,
        orientation: Orientation::Upright,
        frames: outline.frames,
        bytes_per_pixel: outline.layout.bytes() as u8,
        progressive: false,
    })
}

/// Decodes the first frame. What it leaves uncovered is transparent.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    let outline = outline(source).ok_or_else(|| damaged("there is no complete frame header"))?;
    expect_size(outline.canvas, stored_size)?;
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // A frame that reaches over the canvas is refused, so that the canvas bounds what a frame allocates.
    options.check_frame_consistency(true);
    let canvas_bytes = NonZeroU64::new(stored_size.pixels().max(1 << 20)).unwrap_or(NonZeroU64::MIN);
    options.set_memory_limit(MemoryLimit::Bytes(canvas_bytes));
    let mut decoder = options.read_info(Cursor::new(source)).map_err(damaged)?;
    let frame = decoder.next_frame_info().map_err(damaged)?.ok_or_else(|| damaged("there is no frame"))?;
    let (transparent, left, top) = (frame.transparent, usize::from(frame.left), usize::from(frame.top));
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let mut indices = vec![0; width * height];
    decoder.read_into_buffer(&mut indices).map_err(damaged)?;
    let palette = decoder.palette().map_err(damaged)?.as_chunks::<3>().0;

    let mut picture = Picture::blank(stored_size, outline.layout);
    let (stride, bytes) = (picture.stride(), picture.layout.bytes());
    if width == 0 {
        return Ok(picture);
    }
    for (row, indices) in picture.pixels.chunks_exact_mut(stride).skip(top).zip(indices.chunks_exact(width)) {
        for (pixel, &index) in row[left * bytes..].chunks_exact_mut(bytes).zip(indices) {
            if Some(index) != transparent {
                pixel[..3].copy_from_slice(palette.get(usize::from(index)).unwrap_or(&[0; 3]));
                pixel[3..].fill(255);
            }
        }
    }
    Ok(picture)
}

/// Encodes one frame of at most 256 colours.
pub fn encode(picture: Picture) -> Result<Vec<u8>, RenderError> {
    let failed = |error: gif::EncodingError| encode_error(ImageFormat::Gif, error);
    let too_large = |_| encode_error(ImageFormat::Gif, "a side is longer than 65,535 pixels");
    let width = u16::try_from(picture.size.width).map_err(too_large)?;
    let height = u16::try_from(picture.size.height).map_err(too_large)?;
    let indexed = Indexed::new(picture).map_err(|reason| encode_error(ImageFormat::Gif, reason))?;
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height, &indexed.palette).map_err(failed)?;
    let frame = Frame {
        width,
        height,
        transparent: indexed.transparent,
        buffer: Cow::Owned(indexed.indices),
        ..Frame::default()
    };
    encoder.write_frame(&frame).map_err(failed)?;
    drop(encoder); // writes the trailer
    Ok(bytes)
}

fn damaged(error: impl ToString) -> RenderError {
    corrupt(ImageFormat::Gif, error)
}

/// What a walk over the blocks finds (GIF89a, sections 18 to 23).
struct Outline {
    canvas: Size,
    frames: u32,
    layout: Layout,
}

/// Walks the blocks to the end, or to where the file is cut off; a frame counts once its header is whole.
fn outline(source: &[u8]) -> Option<Outline> {
    let mut rest = source;
    let &[_, _, _, _, _, _, w0, w1, h0, h1, flags, _, _] = take::<13>(&mut rest)?;
    let canvas = Size::new(u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into());
    skip(&mut rest, color_table_bytes(flags))?;
    let mut outline = Outline { canvas, frames: 0, layout: Layout::Rgb8 };
    let mut frame_has_holes = false;
    while let Some([kind]) = take::<1>(&mut rest) {
        match kind {
            0x21 => {
                let Some([label]) = take::<1>(&mut rest) else { break };
                // A graphic control extension speaks of the next frame; its lowest bit says "has a transparent index".
                if let (0xF9, [_, flags, ..]) = (label, rest) {
                    frame_has_holes = flags & 1 != 0;
                }
            }
            0x2C => {
                let Some(&[x0, x1, y0, y1, w0, w1, h0, h1, flags]) = take::<9>(&mut rest) else { break };
                let covers = [x0, x1, y0, y1] == [0; 4]
                    && Size::new(u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into()) == canvas;
                if outline.frames == 0 && (frame_has_holes || !covers) {
                    outline.layout = Layout::Rgba8;
                }
                outline.frames += 1;
                let code_size = 1;
                if skip(&mut rest, color_table_bytes(flags) + code_size).is_none() {
                    break;
                }
            }
            _ => break, // the trailer, or what no decoder knows
        }
        if skip_sub_blocks(&mut rest).is_none() {
            break;
        }
    }
    (outline.frames > 0 && canvas.pixels() > 0).then_some(outline)
}

fn color_table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn skip_sub_blocks(rest: &mut &[u8]) -> Option<()> {
    loop {
        match take::<1>(rest)? {
            [0] => return Some(()),
            [length] => skip(rest, usize::from(*length))?,
        }
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(taken)
}

fn skip(rest: &mut &[u8], bytes: usize) -> Option<()> {
    *rest = rest.get(bytes..)?;
    Some(())
}
