//! Cutting out and resizing, in one pass over the decoded pixels.

use fast_image_resize::{
    FilterType, MulDiv, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{CroppedImage, CroppedImageMut, Image},
};

use super::{
    RenderError,
    picture::{Layout, Picture},
};
use crate::model::{PixelRect, Size};

/// Cuts `crop` out of a picture and resizes it to `output`, by Lanczos (a = 3) as Wagtail does.
///
/// `crop` counts pixels of the full-size picture, `reduction` is what the decoder divided both sides by; the crop's edges
/// may then fall between pixels. Wagtail crops first and resizes then, so that no pixel from outside the crop has weight
/// at its edge: the resampler gets a view that ends there.
///
/// # Errors
/// [`RenderError::Changed`] when the crop is not within the picture, [`RenderError::Resample`] when the resizer refuses.
pub fn resize(picture: Picture, crop: PixelRect, reduction: u8, output: Size) -> Result<Picture, RenderError> {
    let area = Area::new(crop, reduction, picture.size).ok_or(RenderError::Changed)?;
    match reduction == 1 && crop.size() == output {
        true if output == picture.size => Ok(picture),
        true => Ok(cut(picture, crop)),
        false => resampled(picture, area, output).map_err(|error| RenderError::Resample { detail: error.to_string() }),
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
fn cut(picture: Picture, crop: PixelRect) -> Picture {
    let (stride, bytes) = (picture.stride(), picture.layout.bytes());
    let columns = crop.left as usize * bytes..crop.right as usize * bytes;
    let mut pixels = Vec::with_capacity(crop.size().pixels() as usize * bytes);
    for row in picture.pixels.chunks_exact(stride).take(crop.bottom as usize).skip(crop.top as usize) {
        pixels.extend_from_slice(&row[columns.clone()]);
    }
    Picture { size: crop.size(), pixels, ..picture }
}

fn resampled(picture: Picture, area: Area, output: Size) -> Result<Picture, Box<dyn std::error::Error>> {
    let Picture { size, layout, pixels, profile } = picture;
    let pixel_type = pixel_type(layout);
    let mut from = Image::from_vec_u8(size.width, size.height, pixels, pixel_type)?;
    let mut to = Image::new(output.width, output.height, pixel_type);
    let Size { width, height } = area.pixels.size();
    // The resizer would premultiply into a copy of the source. This picture is ours: premultiply in place.
    if layout.has_alpha() {
        let mut view = CroppedImageMut::new(&mut from, area.pixels.left, area.pixels.top, width, height)?;
        MulDiv::new().multiply_alpha_inplace(&mut view)?;
    }
    let view = CroppedImage::new(&from, area.pixels.left, area.pixels.top, width, height)?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(area.left, area.top, area.width, area.height)
        .use_alpha(false);
    Resizer::new().resize(&view, &mut to, &options)?;
    drop(from);
    if layout.has_alpha() {
        MulDiv::new().divide_alpha_inplace(&mut to)?;
    }
    Ok(Picture { size: output, layout, pixels: to.into_vec(), profile })
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
