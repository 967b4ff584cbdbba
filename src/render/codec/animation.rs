//! Animations: frames read one by one onto their canvas, and written one by one.
//!
//! Never more than a canvas or two are held at the source's size: a frame is composited, handed on, resized, encoded and
//! dropped before the next one is read.

use std::{io, time::Duration};

use super::{detect, encode_error, gif_motion, no_decoder, webp, webp_motion};
use crate::{
    model::{ImageFormat, PixelRect, Size},
    render::{
        RenderError,
        picture::Picture,
        plan::{Encoding, Plan},
    },
};

/// One picture of an animation: the whole canvas as it is seen, and for how long.
pub struct Frame {
    /// The canvas.
    pub picture: Picture,
    /// How long it is shown, as the file says. Browsers make a tenth of a second of anything up to 10 ms, in both formats,
    /// so that the number is passed on as it is.
    pub delay: Duration,
}

/// How often an animation is shown.
///
/// GIF counts how often it *begins again* (nothing said: once; 0: forever), WebP how often it *plays* (1: once; 0: forever).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plays {
    /// Without end.
    Forever,
    /// At least once.
    Times(u32),
}

/// The frames of a source, in order.
pub enum Frames<'a> {
    /// A GIF's.
    Gif(Box<gif_motion::Frames<'a>>),
    /// A WebP's.
    Webp(webp_motion::Frames<'a>),
}

impl<'a> Frames<'a> {
    /// Begins to read. The canvas is checked against the plan before anything of its size is allocated.
    pub fn open(source: &'a [u8], plan: &Plan) -> Result<Self, RenderError> {
        let format = detect(source)?;
        if format != plan.source.format {
            return Err(RenderError::Changed);
        }
        let (canvas, frames) = (plan.source.stored_size, plan.source.frames);
        match format {
            ImageFormat::Gif => Ok(Self::Gif(Box::new(gif_motion::Frames::open(source, canvas, frames)?))),
            ImageFormat::Webp => Ok(Self::Webp(webp_motion::Frames::open(source, canvas, frames)?)),
            other => Err(no_decoder(other)),
        }
    }

    /// How often the file wants to be shown.
    pub fn plays(&self) -> Plays {
        match self {
            Self::Gif(frames) => frames.plays(),
            Self::Webp(frames) => frames.plays(),
        }
    }

    /// The next frame; `None` after as many as the probe has counted. A file that ends before is damaged, as a still one is.
    pub fn next(&mut self) -> Result<Option<Frame>, RenderError> {
        match self {
            Self::Gif(frames) => frames.next(),
            Self::Webp(frames) => frames.next(),
        }
    }
}

/// An animation that is being written.
pub enum Moving {
    /// As GIF.
    Gif(gif_motion::Writer),
    /// As WebP.
    Webp(webp_motion::Writer),
}

impl Moving {
    /// Begins to write, at most `most_bytes`.
    pub fn new(size: Size, plays: Plays, encoding: Encoding, most_bytes: u64) -> Result<Self, RenderError> {
        let file = Growing::new(encoding.format(), most_bytes);
        match encoding {
            Encoding::Gif => Ok(Self::Gif(gif_motion::Writer::new(size, plays, file)?)),
            Encoding::Webp { quality } => {
                Ok(Self::Webp(webp_motion::Writer::new(size, plays, webp::Mode::Lossy(quality), file)))
            }
            Encoding::WebpLossless => Ok(Self::Webp(webp_motion::Writer::new(size, plays, webp::Mode::Lossless, file))),
            other => Err(encode_error(other.format(), "the format holds one picture")),
        }
    }

    /// Adds a frame, of the size that was announced.
    pub fn add(&mut self, frame: Frame) -> Result<(), RenderError> {
        match self {
            Self::Gif(writer) => writer.add(frame),
            Self::Webp(writer) => writer.add(frame),
        }
    }

    /// The file.
    pub fn finish(self) -> Result<Vec<u8>, RenderError> {
        match self {
            Self::Gif(writer) => writer.finish(),
            Self::Webp(writer) => writer.finish(),
        }
    }
}

/// The file so far. It grows by a quarter, where a `Vec` of its own accord would double, and stops at what the plan has
/// reserved: an animation is the one output whose length the picture's size does not bound.
pub struct Growing {
    format: ImageFormat,
    bytes: Vec<u8>,
    most_bytes: u64,
}

impl Growing {
    pub fn new(format: ImageFormat, most_bytes: u64) -> Self {
        Self { format, bytes: Vec::new(), most_bytes }
    }

    pub fn append(&mut self, more: &[u8]) -> Result<(), RenderError> {
        let needed = self.bytes.len() + more.len();
        if needed as u64 > self.most_bytes {
            return Err(encode_error(self.format, "the animation is larger than was reserved for it"));
        }
        if needed > self.bytes.capacity() {
            self.bytes.reserve_exact((needed - self.bytes.len()).max(self.bytes.len() / 4).max(4096));
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl io::Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The smallest rectangle with every pixel that is `different`; `None` when there is none.
pub fn bounds(size: Size, different: impl Fn(usize) -> bool) -> Option<PixelRect> {
    let mut found: Option<PixelRect> = None;
    for y in 0..size.height {
        let row = y as usize * size.width as usize;
        let here = |x: &u32| different(row + *x as usize);
        let Some(left) = (0..size.width).find(here) else { continue };
        let right = (left..size.width).rev().find(here).unwrap_or(left) + 1;
        found = Some(match found {
            None => PixelRect { left, top: y, right, bottom: y + 1 },
            Some(rect) => PixelRect { left: rect.left.min(left), right: rect.right.max(right), bottom: y + 1, ..rect },
        });
    }
    found
}
