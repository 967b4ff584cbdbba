//! Animated GIF (GIF89a, sections 20 and 23; the NETSCAPE2.0 application extension).

use std::{borrow::Cow, io::Cursor, mem, time::Duration};

use gif::{Decoder, DisposalMethod, Encoder, Repeat};

use super::{
    animation::{Frame, Growing, Plays, bounds},
    encode_error, expect_size,
    gif::{Outline, damaged, draw, open, outline, read_indices},
    palette::{Indexed, Visible, visible_pixels},
};
use crate::{
    model::{ImageFormat, PixelRect, Size},
    render::{RenderError, picture::Picture},
};

/// The frames of a GIF, each laid on what the ones before have left.
pub struct Frames<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
    plays: Plays,
    canvas: Picture,
    /// What happens to the last frame before the next one is drawn.
    disposal: Disposal,
    left: u32,
}

enum Disposal {
    Keep,
    Clear(PixelRect),
    Restore(Vec<u8>),
}

impl<'a> Frames<'a> {
    pub fn open(source: &'a [u8], canvas: Size, frames: u32) -> Result<Self, RenderError> {
        let Outline { canvas: found, frames: count, plays, moving_layout, .. } = outline(source)?;
        expect_size(found, canvas)?;
        if count != frames {
            return Err(RenderError::Changed);
        }
        Ok(Self {
            decoder: open(source, canvas)?,
            plays,
            canvas: Picture::blank(canvas, moving_layout),
            disposal: Disposal::Keep,
            left: frames,
        })
    }

    pub fn plays(&self) -> Plays {
        self.plays
    }

    pub fn next(&mut self) -> Result<Option<Frame>, RenderError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match mem::replace(&mut self.disposal, Disposal::Keep) {
            Disposal::Keep => {}
            Disposal::Clear(rect) => clear(&mut self.canvas, rect),
            Disposal::Restore(pixels) => self.canvas.pixels = pixels,
        }
        let info = self.decoder.next_frame_info().map_err(damaged)?.ok_or_else(|| damaged("a frame is missing"))?;
        let delay = Duration::from_millis(10 * u64::from(info.delay));
        let [left, top] = [info.left, info.top].map(u32::from);
        let rect = PixelRect { left, top, right: left + u32::from(info.width), bottom: top + u32::from(info.height) };
        self.disposal = match info.dispose {
            DisposalMethod::Any | DisposalMethod::Keep => Disposal::Keep,
            DisposalMethod::Background => Disposal::Clear(rect),
            DisposalMethod::Previous => Disposal::Restore(self.canvas.pixels.clone()),
        };
        let frame = read_indices(&mut self.decoder)?;
        draw(&mut self.canvas, &frame);
        Ok(Some(Frame { picture: self.canvas.clone(), delay }))
    }
}

/// What a disposal to the background leaves is transparent, in every browser, whatever the header names as background.
fn clear(canvas: &mut Picture, rect: PixelRect) {
    let (stride, bytes) = (canvas.stride(), canvas.layout.bytes());
    let columns = rect.left as usize * bytes..rect.right as usize * bytes;
    for row in canvas.pixels.chunks_exact_mut(stride).take(rect.bottom as usize).skip(rect.top as usize) {
        row[columns.clone()].fill(0);
    }
}

/// Writes frames as the pixels that change. A frame waits for the one after it, which decides how it is disposed of: a
/// pixel once shown can only be made transparent again by clearing a rectangle.
pub struct Writer {
    size: (u16, u16),
    canvas: Size,
    plays: Plays,
    /// `None` once the first frame has been written, whose colours the header holds.
    file: Option<Growing>,
    encoder: Option<Encoder<Growing>>,
    colours: Indexed,
    /// What is on the screen before the waiting frame is drawn.
    shown: Vec<Visible>,
    waiting: Option<(Vec<Visible>, u16)>,
    clock: Clock,
}

impl Writer {
    pub fn new(canvas: Size, plays: Plays, file: Growing) -> Result<Self, RenderError> {
        let side = |side| u16::try_from(side).map_err(|_| failed("a side is longer than 65,535 pixels"));
        Ok(Self {
            size: (side(canvas.width)?, side(canvas.height)?),
            canvas,
            plays,
            file: Some(file),
            encoder: None,
            colours: Indexed::default(),
            shown: Vec::new(),
            waiting: None,
            clock: Clock::default(),
        })
    }

    pub fn add(&mut self, Frame { picture, delay }: Frame) -> Result<(), RenderError> {
        expect_size(picture.size, self.canvas)?;
        let next = visible_pixels(picture);
        if let Some((pixels, delay)) = self.waiting.take() {
            self.write(pixels, delay, Some(&next))?;
        }
        self.waiting = Some((next, self.clock.hundredths(delay)));
        Ok(())
    }

    pub fn finish(mut self) -> Result<Vec<u8>, RenderError> {
        if let Some((pixels, delay)) = self.waiting.take() {
            self.write(pixels, delay, None)?;
        }
        let encoder = self.encoder.ok_or_else(|| failed("an animation without frames"))?;
        Ok(encoder.into_inner().map_err(failed)?.into_bytes())
    }

    fn write(&mut self, mut pixels: Vec<Visible>, delay: u16, next: Option<&[Visible]>) -> Result<(), RenderError> {
        // What is visible now and must not be afterwards.
        let vanishing = next.and_then(|next| bounds(self.canvas, |i| pixels[i].is_some() && next[i].is_none()));
        let mut frame = gif::Frame { delay, ..gif::Frame::default() };
        let rect = match self.file.take() {
            Some(file) => {
                self.colours = Indexed::with_hole(&pixels).map_err(failed)?;
                let mut encoder =
                    Encoder::new(file, self.size.0, self.size.1, &self.colours.palette).map_err(failed)?;
                match self.plays {
                    Plays::Forever => encoder.set_repeat(Repeat::Infinite),
                    // Once is said by saying nothing.
                    Plays::Times(plays) => {
                        encoder.set_repeat(Repeat::Finite(u16::try_from(plays.saturating_sub(1)).unwrap_or(u16::MAX)))
                    }
                }
                .map_err(failed)?;
                self.encoder = Some(encoder);
                frame.buffer = Cow::Owned(mem::take(&mut self.colours.indices));
                frame.transparent = self.colours.transparent;
                PixelRect::whole(self.canvas)
            }
            None => {
                let changing = bounds(self.canvas, |i| pixels[i] != self.shown[i]);
                let nothing = PixelRect { left: 0, top: 0, right: 1, bottom: 1 };
                let rect = changing.into_iter().chain(vanishing).reduce(union).unwrap_or(nothing);
                let changed: Vec<Visible> =
                    indices(rect, self.canvas).map(|i| pixels[i].filter(|_| pixels[i] != self.shown[i])).collect();
                let indexed = match self.colours.reused(&changed) {
                    Some(indexed) => indexed,
                    None => {
                        let own = Indexed::with_hole(&changed).map_err(failed)?;
                        frame.palette = Some(own.palette);
                        Indexed { palette: Vec::new(), ..own }
                    }
                };
                frame.buffer = Cow::Owned(indexed.indices);
                frame.transparent = indexed.transparent;
                rect
            }
        };
        let side = |side: u32| side as u16; // within the canvas
        (frame.left, frame.top) = (side(rect.left), side(rect.top));
        (frame.width, frame.height) = (side(rect.right - rect.left), side(rect.bottom - rect.top));
        frame.dispose = if vanishing.is_some() { DisposalMethod::Background } else { DisposalMethod::Keep };
        let encoder = self.encoder.as_mut().ok_or_else(|| failed("the header is missing"))?;
        encoder.write_frame(&frame).map_err(failed)?;
        if vanishing.is_some() {
            indices(rect, self.canvas).for_each(|i| pixels[i] = None);
        }
        self.shown = pixels;
        Ok(())
    }
}

fn failed(error: impl ToString) -> RenderError {
    encode_error(ImageFormat::Gif, error)
}

fn union(a: PixelRect, b: PixelRect) -> PixelRect {
    PixelRect {
        left: a.left.min(b.left),
        top: a.top.min(b.top),
        right: a.right.max(b.right),
        bottom: a.bottom.max(b.bottom),
    }
}

/// Where a rectangle's pixels are in the canvas, row by row.
fn indices(rect: PixelRect, canvas: Size) -> impl Iterator<Item = usize> {
    let at = move |x: u32, y: u32| y as usize * canvas.width as usize + x as usize;
    (rect.top..rect.bottom).flat_map(move |y| at(rect.left, y)..at(rect.right, y))
}

/// Milliseconds to hundredths of a second. What rounding takes from one frame the next one gets, so that an animation keeps
/// its length.
#[derive(Default)]
struct Clock {
    owed_ms: i64,
}

impl Clock {
    /// Browsers show anything up to 10 ms for a tenth of a second, so what is above stays above.
    const SHOWN_AS_IT_IS_MS: i64 = 11;

    fn hundredths(&mut self, delay: Duration) -> u16 {
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 2);
        let wanted = delay_ms + self.owed_ms;
        let least = if delay_ms >= Self::SHOWN_AS_IT_IS_MS { 2 } else { 0 };
        let hundredths = ((wanted + 5) / 10).clamp(least, u16::MAX.into());
        self.owed_ms = (wanted - hundredths * 10).clamp(-5, 5);
        hundredths as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_loses_no_time() {
        let mut clock = Clock::default();
        let rounded = |clock: &mut Clock, ms| clock.hundredths(Duration::from_millis(ms));
        assert_eq!([33, 33, 33, 33].map(|ms| rounded(&mut clock, ms)), [3, 4, 3, 3]);
        let mut clock = Clock::default();
        assert_eq!([0, 10, 12, 700_000, 40].map(|ms| rounded(&mut clock, ms)), [0, 1, 2, u16::MAX, 5]);
    }
}
