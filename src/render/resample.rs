//! Cutting out and resizing.

use fast_image_resize::{
    FilterType, MulDiv, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedCroppedImage, TypedCroppedImageMut, TypedImage},
    pixels::{U8, U8x2, U8x3, U8x4, U16},
};

use super::{
    RenderError,
    picture::{Layout, Picture, buffer_bytes},
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

/// One copy of the resizer's code for each kind of pixel that there is: it is generic over both views, and large.
fn resampled(picture: Picture, area: Area, cut: Cut) -> Result<Picture, Box<dyn std::error::Error>> {
    match picture.layout {
        Layout::Gray8 => resampled_as::<U8>(picture, area, cut),
        Layout::GrayAlpha8 => resampled_as::<U8x2>(picture, area, cut),
        Layout::Rgb8 => resampled_as::<U8x3>(picture, area, cut),
        Layout::Rgba8 | Layout::Cmyk8 => resampled_as::<U8x4>(picture, area, cut),
        Layout::Gray16 => resampled_as::<U16>(picture, area, cut),
    }
}

fn resampled_as<P: PixelTrait>(picture: Picture, area: Area, cut: Cut) -> Result<Picture, Box<dyn std::error::Error>> {
    let Picture { size, layout, mut pixels, profile } = picture;
    let output = cut.output;
    let Size { width, height } = area.pixels.size();
    let mut from = TypedImage::<P>::from_buffer(size.width, size.height, &mut pixels)?;
    // The resizer would premultiply into a copy of the source. This picture is ours: premultiply in place.
    if layout.has_alpha() {
        let mut view = TypedCroppedImageMut::from_ref(&mut from, area.pixels.left, area.pixels.top, width, height)?;
        MulDiv::new().multiply_alpha_inplace_typed(&mut view)?;
    }
    let view = TypedCroppedImage::from_ref(&from, area.pixels.left, area.pixels.top, width, height)?;
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
    let mut halfway = vec![0; buffer_bytes(between, layout)];
    resizer.resize_typed(
        &view,
        &mut TypedImage::<P>::from_buffer(between.width, between.height, &mut halfway)?,
        &first,
    )?;
    drop(pixels);
    let halfway = TypedImage::<P>::from_buffer(between.width, between.height, &mut halfway)?;
    let view = TypedCroppedImage::from_ref(&halfway, 0, 0, between.width, between.height)?;
    let mut resized = vec![0; buffer_bytes(output, layout)];
    let mut to = TypedImage::<P>::from_buffer(output.width, output.height, &mut resized)?;
    resizer.resize_typed(&view, &mut to, &second)?;
    if layout.has_alpha() {
        let mut view = TypedCroppedImageMut::from_ref(&mut to, 0, 0, output.width, output.height)?;
        MulDiv::new().divide_alpha_inplace_typed(&mut view)?;
    }
    Ok(Picture { size: output, layout, pixels: resized, profile })
}

/// Multiplies a picture's alpha into its colours, or divides it out again.
///
/// # Errors
/// [`RenderError::Resample`] when the picture is not what its layout says; a bug if it happens.
pub fn multiply_alpha(picture: &mut Picture, multiply: bool) -> Result<(), RenderError> {
    let done = match picture.layout {
        Layout::GrayAlpha8 => multiply_alpha_as::<U8x2>(picture, multiply),
        Layout::Rgba8 => multiply_alpha_as::<U8x4>(picture, multiply),
        Layout::Gray8 | Layout::Rgb8 | Layout::Cmyk8 | Layout::Gray16 => Ok(()),
    };
    done.map_err(|error| RenderError::Resample { detail: error.to_string() })
}

fn multiply_alpha_as<P: PixelTrait>(picture: &mut Picture, multiply: bool) -> Result<(), Box<dyn std::error::Error>> {
    let Size { width, height } = picture.size;
    let mut image = TypedImage::<P>::from_buffer(width, height, &mut picture.pixels)?;
    let mut view = TypedCroppedImageMut::from_ref(&mut image, 0, 0, width, height)?;
    match multiply {
        true => MulDiv::new().multiply_alpha_inplace_typed(&mut view)?,
        false => MulDiv::new().divide_alpha_inplace_typed(&mut view)?,
    }
    Ok(())
}

fn options() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3)).use_alpha(false)
}
