//! Cutting out and resizing.

use sendimage_pixels::{Resize, Window};

use super::{RenderError, picture::Picture};
use crate::model::{PixelRect, Size};

/// What to cut out of a decoded picture, and what to make of it.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// In pixels of the full-size picture, as stored.
    pub crop: PixelRect,
    /// What the decoder divided both sides by. The crop's edges may then fall between pixels.
    pub reduction: u8,
    /// The size to resize to, as stored.
    pub output: Size,
    /// The first of the two passes.
    pub first: Axis,
}

/// An axis of the picture as stored. The resize makes one pass along each, with 8-bit samples between them: where an
/// overshoot is clipped, the order shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Changes the width.
    Horizontal,
    /// Changes the height. Faster when it comes first, for whole rows are added up.
    Vertical,
}

/// Cuts out of a picture and resizes, by Lanczos (a = 3) as Wagtail does.
///
/// Wagtail crops first and resizes then, so that no pixel from outside the crop has weight at its edge: the resampler gets
/// a view that ends there.
///
/// # Errors
/// [`RenderError::Changed`] when the crop is not within the picture, [`RenderError::Resample`] when the resizer refuses.
pub fn resize(picture: Picture, cut: Cut) -> Result<Picture, RenderError> {
    let area = Area::new(cut.crop, cut.reduction, picture.size).ok_or(RenderError::Changed)?;
    match cut.reduction == 1 && cut.crop.size() == cut.output {
        true if cut.output == picture.size => Ok(picture),
        true => Ok(copied(picture, cut.crop)),
        false => resampled(picture, area, cut).map_err(|detail| RenderError::Resample { detail }),
    }
}

/// The crop on the decoded grid: the whole pixels that it touches, and where within them it begins and ends.
struct Area {
    pixels: PixelRect,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn new(crop: PixelRect, reduction: u8, decoded: Size) -> Option<Self> {
        let n = u32::from(reduction).max(1);
        let pixels = PixelRect {
            left: crop.left / n,
            top: crop.top / n,
            right: crop.right.div_ceil(n),
            bottom: crop.bottom.div_ceil(n),
        };
        let within = crop.left < crop.right
            && crop.top < crop.bottom
            && pixels.right <= decoded.width
            && pixels.bottom <= decoded.height;
        let part = |length: u32| f64::from(length) / f64::from(n);
        within.then(|| Self {
            left: part(crop.left % n),
            top: part(crop.top % n),
            width: part(crop.right - crop.left),
            height: part(crop.bottom - crop.top),
            pixels,
        })
    }
}

/// A plain copy of some rows, for what needs no resizing.
fn copied(picture: Picture, crop: PixelRect) -> Picture {
    let (stride, bytes) = (picture.stride(), picture.layout.bytes());
    let columns = crop.left as usize * bytes..crop.right as usize * bytes;
    let mut pixels = Vec::with_capacity(crop.size().pixels() as usize * bytes);
    for row in picture.pixels.chunks_exact(stride).take(crop.bottom as usize).skip(crop.top as usize) {
        pixels.extend_from_slice(&row[columns.clone()]);
    }
    Picture { size: crop.size(), pixels, ..picture }
}

fn resampled(picture: Picture, area: Area, cut: Cut) -> Result<Picture, String> {
    let Picture { size, layout, pixels, profile } = picture;
    let Area { pixels: window, left, top, width, height } = area;
    let how = Resize {
        size: (size.width, size.height),
        window: Window { left: window.left, top: window.top, width: window.size().width, height: window.size().height },
        origin: (left, top),
        extent: (width, height),
        output: (cut.output.width, cut.output.height),
        horizontal_first: cut.first == Axis::Horizontal,
        alpha: layout.has_alpha(),
    };
    let pixels = sendimage_pixels::resize(layout.kind(), pixels, &how)?;
    Ok(Picture { size: cut.output, layout, pixels, profile })
}

/// Multiplies a picture's alpha into its colours, or divides it out again.
///
/// # Errors
/// [`RenderError::Resample`] when the picture is not what its layout says; a bug if it happens.
pub fn multiply_alpha(picture: &mut Picture, multiply: bool) -> Result<(), RenderError> {
    if !picture.layout.has_alpha() {
        return Ok(());
    }
    let (kind, size) = (picture.layout.kind(), (picture.size.width, picture.size.height));
    sendimage_pixels::multiply_alpha(kind, &mut picture.pixels, size, multiply)
        .map_err(|detail| RenderError::Resample { detail })
}
