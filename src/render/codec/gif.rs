//! GIF, by the `gif` crate. The first frame, on its canvas; all of them are the business of `gif_motion`.

use std::{borrow::Cow, io::Cursor, num::NonZeroU64};

use gif::{ColorOutput, DecodeOptions, Decoder, Encoder, Frame, MemoryLimit};

use super::{animation::Plays, corrupt, encode_error, expect_size, palette::Indexed};
use crate::{
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::{
        RenderError,
        picture::{Layout, Picture},
    },
};

/// Reads the headers of all frames; no pixel is unpacked.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let outline = outline(source)?;
    let bytes = outline.layout.bytes().max(outline.moving_layout.bytes());
    Ok(SourceFacts {
        format: ImageFormat::Gif,
        stored_size: outline.canvas,
        orientation: Orientation::Upright,
        frames: outline.frames,
        bytes_per_pixel: bytes as u8,
        progressive: false,
        document: None,
    })
}

/// Decodes the first frame. What it leaves uncovered is transparent.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    let outline = outline(source)?;
    expect_size(outline.canvas, stored_size)?;
    let mut decoder = open(source, stored_size)?;
    decoder.next_frame_info().map_err(damaged)?.ok_or_else(|| damaged("there is no frame"))?;
    let frame = read_indices(&mut decoder)?;
    let mut picture = Picture::blank(stored_size, outline.layout);
    draw(&mut picture, &frame);
    Ok(picture)
}

/// Begins to read. A frame that reaches over the canvas is refused, so that the canvas bounds what a frame allocates.
pub(super) fn open(source: &[u8], canvas: Size) -> Result<Decoder<Cursor<&[u8]>>, RenderError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.check_frame_consistency(true);
    let canvas_bytes = NonZeroU64::new(canvas.pixels().max(1 << 20)).unwrap_or(NonZeroU64::MIN);
    options.set_memory_limit(MemoryLimit::Bytes(canvas_bytes));
    options.read_info(Cursor::new(source)).map_err(damaged)
}

/// A frame as it is stored: its pixels are indices of a palette.
pub(super) struct Indices<'a> {
    left: usize,
    top: usize,
    width: usize,
    transparent: Option<u8>,
    palette: &'a [[u8; 3]],
    indices: Vec<u8>,
}

/// Unpacks the frame whose header was read last.
pub(super) fn read_indices<'a>(decoder: &'a mut Decoder<Cursor<&[u8]>>) -> Result<Indices<'a>, RenderError> {
    let frame = decoder.current_frame_info().ok_or_else(|| damaged("there is no frame"))?;
    let [left, top, width, height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let transparent = frame.transparent;
    let mut indices = vec![0; width * height];
    decoder.read_into_buffer(&mut indices).map_err(damaged)?;
    let palette = decoder.palette().map_err(damaged)?.as_chunks::<3>().0;
    Ok(Indices { left, top, width, transparent, palette, indices })
}

/// Draws a frame over what is there.
pub(super) fn draw(picture: &mut Picture, frame: &Indices<'_>) {
    let (stride, bytes) = (picture.stride(), picture.layout.bytes());
    if frame.width == 0 {
        return;
    }
    let rows = picture.pixels.chunks_exact_mut(stride).skip(frame.top);
    for (row, indices) in rows.zip(frame.indices.chunks_exact(frame.width)) {
        for (pixel, &index) in row[frame.left * bytes..].chunks_exact_mut(bytes).zip(indices) {
            if Some(index) != frame.transparent {
                pixel[..3].copy_from_slice(frame.palette.get(usize::from(index)).unwrap_or(&[0; 3]));
                pixel[3..].fill(255);
            }
        }
    }
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

pub(super) fn damaged(error: impl ToString) -> RenderError {
    corrupt(ImageFormat::Gif, error)
}

/// What a walk over the blocks finds (GIF89a, sections 18 to 26).
pub(super) struct Outline {
    pub canvas: Size,
    pub frames: u32,
    /// Of the first frame.
    pub layout: Layout,
    /// Of all frames: without alpha if none of them can show a hole.
    pub moving_layout: Layout,
    pub plays: Plays,
}

/// Walks the blocks to the end, or to where the file is cut off; a frame counts once its header is whole.
pub(super) fn outline(source: &[u8]) -> Result<Outline, RenderError> {
    walk(source).ok_or_else(|| damaged("there is no complete frame header"))
}

fn walk(source: &[u8]) -> Option<Outline> {
    let mut rest = source;
    let &[_, _, _, _, _, _, w0, w1, h0, h1, flags, _, _] = take::<13>(&mut rest)?;
    let canvas = Size::new(u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into());
    let global_table = color_table_bytes(flags);
    skip(&mut rest, global_table)?;
    let (layout, plays) = (Layout::Rgb8, Plays::Times(1));
    let mut outline = Outline { canvas, frames: 0, layout, moving_layout: layout, plays };
    let (mut has_holes, mut disposal) = (false, 0);
    while let Some([kind]) = take::<1>(&mut rest) {
        match kind {
            0x21 => {
                let Some([label]) = take::<1>(&mut rest) else { break };
                match (label, rest) {
                    // A graphic control extension speaks of the next frame; its lowest bit says "has a transparent index".
                    (0xF9, [_, flags, ..]) => (has_holes, disposal) = (flags & 1 != 0, flags >> 2 & 7),
                    (0xFF, _) => outline.plays = plays_of(rest).unwrap_or(outline.plays),
                    _ => {}
                }
            }
            0x2C => {
                let Some(&[x0, x1, y0, y1, w0, w1, h0, h1, flags]) = take::<9>(&mut rest) else { break };
                // Colours that nothing defines: the animation ends before them.
                if outline.frames > 0 && global_table + color_table_bytes(flags) == 0 {
                    break;
                }
                let covers = [x0, x1, y0, y1] == [0; 4]
                    && Size::new(u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into()) == canvas;
                if outline.frames == 0 && (has_holes || !covers) {
                    outline.layout = Layout::Rgba8;
                    outline.moving_layout = Layout::Rgba8;
                }
                // Cleared, or back to what was there: before the first frame, nothing.
                if disposal == 2 || (disposal == 3 && outline.frames == 0) {
                    outline.moving_layout = Layout::Rgba8;
                }
                (has_holes, disposal) = (false, 0);
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

/// How often an application extension wants the animation to begin again. Two applications had the same idea.
fn plays_of(extension: &[u8]) -> Option<Plays> {
    let body = extension.strip_prefix(b"\x0BNETSCAPE2.0").or_else(|| extension.strip_prefix(b"\x0BANIMEXTS1.0"))?;
    match *body {
        [length, 1, low, high, ..] if length >= 3 => Some(match u16::from_le_bytes([low, high]) {
            0 => Plays::Forever,
            again => Plays::Times(u32::from(again) + 1),
        }),
        _ => None,
    }
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
