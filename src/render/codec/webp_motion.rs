//! Animated WebP (RFC 9649, 2.7.1): frames laid on their canvas, and ANMF chunks of our own making. libwebp's animation
//! encoder is of no use here: it merges frames that look alike.

use std::time::Duration;

use super::{
    animation::{Frame, Growing, Plays, bounds},
    corrupt, encode_error, expect_size,
    webp::{self, Chunks, Container, HAS_ALPHA, HAS_PROFILE, Mode, file_chunks},
};
use crate::{
    model::{ImageFormat, PixelRect, Size},
    render::{
        RenderError,
        picture::{Layout, Picture, scaled},
    },
};

/// VP8X flag.
const IS_ANIMATED: u8 = 0x02;
/// ANMF flag: the frame replaces what is beneath it.
const REPLACES: u8 = 0x02;
/// Durations have 24 bits.
const LONGEST_DELAY_MS: u128 = (1 << 24) - 1;

/// The frames of a WebP, each laid on what the ones before have left.
pub struct Frames<'a> {
    chunks: Chunks<'a>,
    plays: Plays,
    canvas: Picture,
    /// What is cleared before the next frame is drawn.
    clearing: Option<webp::Frame<'a>>,
    left: u32,
}

impl<'a> Frames<'a> {
    pub fn open(source: &'a [u8], canvas: Size, frames: u32) -> Result<Self, RenderError> {
        let file = Container::read(source)?;
        expect_size(file.canvas, canvas)?;
        if file.frames != frames {
            return Err(RenderError::Changed);
        }
        let mut blank = Picture::blank(canvas, file.moving_layout);
        blank.profile = file.usable_profile();
        Ok(Self { chunks: file_chunks(source), plays: file.plays, canvas: blank, clearing: None, left: frames })
    }

    pub fn plays(&self) -> Plays {
        self.plays
    }

    pub fn next(&mut self) -> Result<Option<Frame>, RenderError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let chunk = self.chunks.find(|(kind, _)| *kind == b"ANMF");
        let (_, body) = chunk.ok_or_else(|| corrupt(ImageFormat::Webp, "a frame is missing"))?;
        let frame = webp::Frame::read(body, self.canvas.size)?;
        if let Some(last) = self.clearing.take() {
            rows(&mut self.canvas, &last).for_each(|row| row.fill(0));
        }
        if frame.blends && frame.has_alpha {
            let mut over = Picture::blank(frame.size, Layout::Rgba8);
            webp::draw(&mut over, &webp::Frame { left: 0, top: 0, ..frame })?;
            let stride = over.stride();
            for (under, over) in rows(&mut self.canvas, &frame).zip(over.pixels.chunks_exact(stride)) {
                for (under, over) in under.as_chunks_mut::<4>().0.iter_mut().zip(over.as_chunks::<4>().0) {
                    *under = blend(*over, *under);
                }
            }
        } else {
            webp::draw(&mut self.canvas, &frame)?;
        }
        let delay = Duration::from_millis(frame.delay_ms.into());
        self.clearing = frame.clears.then_some(frame);
        Ok(Some(Frame { picture: self.canvas.clone(), delay }))
    }
}

/// The rows of a frame's rectangle in the canvas.
fn rows<'c>(canvas: &'c mut Picture, frame: &webp::Frame<'_>) -> impl Iterator<Item = &'c mut [u8]> {
    let (stride, bytes) = (canvas.stride(), canvas.layout.bytes());
    let columns = frame.left as usize * bytes..(frame.left + frame.size.width) as usize * bytes;
    let rows = canvas.pixels.chunks_exact_mut(stride).skip(frame.top as usize).take(frame.size.height as usize);
    rows.map(move |row| &mut row[columns.clone()])
}

/// Lays one pixel over another; neither is premultiplied.
fn blend(over: [u8; 4], under: [u8; 4]) -> [u8; 4] {
    let shining = scaled(under[3], 255 - over[3]);
    let alpha = over[3].saturating_add(shining);
    if shining == 0 || alpha == 0 {
        return over;
    }
    let mixed = |i: usize| {
        let sum = u32::from(over[i]) * u32::from(over[3]) + u32::from(under[i]) * u32::from(shining);
        ((sum + u32::from(alpha) / 2) / u32::from(alpha)).min(255) as u8
    };
    [mixed(0), mixed(1), mixed(2), alpha]
}

/// Writes frames as the rectangle that changes, which replaces what was there.
pub struct Writer {
    canvas: Size,
    plays: Plays,
    mode: Mode,
    file: Growing,
    flags: u8,
    /// The last frame as it went in.
    shown: Option<Picture>,
}

impl Writer {
    pub fn new(canvas: Size, plays: Plays, mode: Mode, file: Growing) -> Self {
        Self { canvas, plays, mode, file, flags: IS_ANIMATED, shown: None }
    }

    pub fn add(&mut self, Frame { picture, delay }: Frame) -> Result<(), RenderError> {
        expect_size(picture.size, self.canvas)?;
        let picture = picture.into_colour();
        let rect = match &self.shown {
            Some(shown) => difference(shown, &picture),
            None => {
                self.begin(&picture)?;
                PixelRect::whole(self.canvas)
            }
        };
        let webp = webp::encode_bitstream(&cut(&picture, rect), self.mode).map_err(failed)?;
        let picture_chunks = || file_chunks(&webp).filter(|(kind, _)| *kind != b"VP8X");
        let length: usize = picture_chunks().map(|(_, body)| 8 + body.len().next_multiple_of(2)).sum();
        let Size { width, height } = rect.size();
        let delay_ms = delay.as_millis().min(LONGEST_DELAY_MS) as u32;
        self.file.append(b"ANMF")?;
        self.file.append(&(16 + length as u32).to_le_bytes())?;
        for number in [rect.left / 2, rect.top / 2, width - 1, height - 1, delay_ms] {
            self.file.append(&number.to_le_bytes()[..3])?;
        }
        self.file.append(&[REPLACES])?;
        for (kind, body) in picture_chunks() {
            self.chunk(kind, body)?;
        }
        self.flags |= if picture.layout.has_alpha() { HAS_ALPHA } else { 0 };
        self.shown = Some(picture);
        Ok(())
    }

    pub fn finish(self) -> Result<Vec<u8>, RenderError> {
        let mut bytes = self.file.into_bytes();
        const FLAGS_AT: usize = 20;
        let length = u32::try_from(bytes.len()).map_err(|_| failed("the file is too long"))?.saturating_sub(8);
        let flags = bytes.get_mut(FLAGS_AT).ok_or_else(|| failed("an animation without frames"))?;
        *flags = self.flags;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }

    /// The file's head; its length and flags are put in at the end.
    fn begin(&mut self, first: &Picture) -> Result<(), RenderError> {
        self.file.append(b"RIFF\0\0\0\0WEBP")?;
        let [width, height] = [self.canvas.width, self.canvas.height].map(|side| (side - 1).to_le_bytes());
        self.chunk(b"VP8X", &[&[0; 4], &width[..3], &height[..3]].concat())?;
        if let Some(profile) = first.usable_profile() {
            self.flags |= HAS_PROFILE;
            self.chunk(b"ICCP", profile)?;
        }
        let plays = match self.plays {
            Plays::Forever => 0,
            Plays::Times(times) => u16::try_from(times).unwrap_or(u16::MAX),
        };
        let transparent = [0; 4];
        self.chunk(b"ANIM", &[&transparent[..], &plays.to_le_bytes()].concat())
    }

    fn chunk(&mut self, kind: &[u8; 4], body: &[u8]) -> Result<(), RenderError> {
        self.file.append(kind)?;
        self.file.append(&(body.len() as u32).to_le_bytes())?;
        self.file.append(body)?;
        self.file.append(&[0][..body.len() % 2])
    }
}

fn failed(error: impl ToString) -> RenderError {
    encode_error(ImageFormat::Webp, error)
}

/// The rectangle in which two pictures differ; one pixel where they do not. Its left and top are even, as ANMF wants it.
fn difference(before: &Picture, after: &Picture) -> PixelRect {
    if before.layout != after.layout {
        return PixelRect::whole(after.size);
    }
    let bytes = after.layout.bytes();
    let invisible = |pixel: &[u8]| bytes == 4 && pixel[3] == 0;
    let different = |i: usize| {
        let [before, after] = [before, after].map(|picture| &picture.pixels[i * bytes..(i + 1) * bytes]);
        before != after && !(invisible(before) && invisible(after))
    };
    match bounds(after.size, different) {
        Some(rect) => PixelRect { left: rect.left & !1, top: rect.top & !1, ..rect },
        None => PixelRect { left: 0, top: 0, right: 1, bottom: 1 },
    }
}

fn cut(picture: &Picture, rect: PixelRect) -> Picture {
    let (stride, bytes) = (picture.stride(), picture.layout.bytes());
    let columns = rect.left as usize * bytes..rect.right as usize * bytes;
    let mut pixels = Vec::with_capacity(rect.size().pixels() as usize * bytes);
    for row in picture.pixels.chunks_exact(stride).take(rect.bottom as usize).skip(rect.top as usize) {
        pixels.extend_from_slice(&row[columns.clone()]);
    }
    Picture { size: rect.size(), layout: picture.layout, pixels, profile: None }
}
