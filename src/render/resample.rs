//! Cutting out and resizing.

use fast_image_resize::{
    FilterType, MulDiv, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{CroppedImage, CroppedImageMut, Image},
};

use super::{
    RenderError,
    picture::{Layout, Picture},
};
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
        false => resampled(picture, area, cut).map_err(|error| RenderError::Resample { detail: error.to_string() }),
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

fn resampled(picture: Picture, area: Area, cut: Cut) -> Result<Picture, Box<dyn std::error::Error>> {
    let Picture { size, layout, pixels, profile } = picture;
    let (pixel_type, output) = (pixel_type(layout), cut.output);
    let mut from = Image::from_vec_u8(size.width, size.height, pixels, pixel_type)?;
    let Size { width, height } = area.pixels.size();
    // The resizer would premultiply into a copy of the source. This picture is ours: premultiply in place.
    if layout.has_alpha() {
        let mut view = CroppedImageMut::new(&mut from, area.pixels.left, area.pixels.top, width, height)?;
        MulDiv::new().multiply_alpha_inplace(&mut view)?;
    }
    let view = CroppedImage::new(&from, area.pixels.left, area.pixels.top, width, height)?;
    let (whole_width, whole_height) = (f64::from(width), f64::from(height));
    let (out_width, out_height) = (f64::from(output.width), f64::from(output.height));
    let (between, first, second) = match cut.first {
        Axis::Horizontal => (
            Size::new(output.width, height),
            options().crop(area.left, 0.0, area.width, whole_height),
            options().crop(0.0, area.top, out_width, area.height),
        ),
        Axis::Vertical => (
            Size::new(width, output.height),
            options().crop(0.0, area.top, whole_width, area.height),
            options().crop(area.left, 0.0, area.width, out_height),
        ),
    };
    let mut resizer = Resizer::new();
    let mut halfway = Image::new(between.width, between.height, pixel_type);
    resizer.resize(&view, &mut halfway, &first)?;
    drop(from);
    let mut to = Image::new(output.width, output.height, pixel_type);
    resizer.resize(&halfway, &mut to, &second)?;
    if layout.has_alpha() {
        MulDiv::new().divide_alpha_inplace(&mut to)?;
    }
    Ok(Picture { size: output, layout, pixels: to.into_vec(), profile })
}

fn options() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3)).use_alpha(false)
}

fn pixel_type(layout: Layout) -> PixelType {
    match layout {
        Layout::Gray8 => PixelType::U8,
        Layout::GrayAlpha8 => PixelType::U8x2,
        Layout::Rgb8 => PixelType::U8x3,
        Layout::Rgba8 | Layout::Cmyk8 => PixelType::U8x4,
        Layout::Gray16 => PixelType::U16,
    }
}
