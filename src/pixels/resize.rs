//! Resizing by Lanczos (a = 3), and alpha multiplied in and divided out.

use fast_image_resize::{
    FilterType, MulDiv, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedCroppedImage, TypedCroppedImageMut, TypedImage},
    pixels::{U8, U8x2, U8x3, U8x4, U16},
};

use crate::Kind;

/// Whole pixels of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From the left edge.
    pub left: u32,
    /// From the top edge.
    pub top: u32,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// What to resize, and to what.
#[derive(Clone, Copy, Debug)]
pub struct Resize {
    /// Size of the picture.
    pub size: (u32, u32),
    /// The pixels that have weight; no other has, at no edge.
    pub window: Window,
    /// Where within the window what is wanted begins: left and top.
    pub origin: (f64, f64),
    /// How much of it is wanted: width and height.
    pub extent: (f64, f64),
    /// Size of the result.
    pub output: (u32, u32),
    /// Whether the first of the two passes goes along the rows. Samples are rounded between them.
    pub horizontal_first: bool,
    /// Whether the last byte of a pixel is alpha, and colours weigh by it.
    pub alpha: bool,
}

/// Resizes a picture. Given a buffer of its own, it is freed between the two passes.
///
/// # Errors
/// In the resizer's words, when the numbers do not fit the buffer.
pub fn resize(kind: Kind, pixels: impl AsMut<[u8]>, how: &Resize) -> Result<Vec<u8>, String> {
    let resized = match kind {
        Kind::Bytes1 => resize_as::<U8>(kind, pixels, how),
        Kind::Bytes2 => resize_as::<U8x2>(kind, pixels, how),
        Kind::Bytes3 => resize_as::<U8x3>(kind, pixels, how),
        Kind::Bytes4 => resize_as::<U8x4>(kind, pixels, how),
        Kind::Word1 => resize_as::<U16>(kind, pixels, how),
    };
    resized.map_err(|error| error.to_string())
}

/// One pass of a resize, along the axis on which `how` changes anything: the other's numbers are those of the window. Alpha
/// is the caller's business.
///
/// # Errors
/// As [`resize`].
pub fn resize_one_way(kind: Kind, pixels: &mut [u8], how: &Resize) -> Result<Vec<u8>, String> {
    let resized = match kind {
        Kind::Bytes1 => resize_one_way_as::<U8>(kind, pixels, how),
        Kind::Bytes2 => resize_one_way_as::<U8x2>(kind, pixels, how),
        Kind::Bytes3 => resize_one_way_as::<U8x3>(kind, pixels, how),
        Kind::Bytes4 => resize_one_way_as::<U8x4>(kind, pixels, how),
        Kind::Word1 => resize_one_way_as::<U16>(kind, pixels, how),
    };
    resized.map_err(|error| error.to_string())
}

fn resize_one_way_as<P: PixelTrait>(
    kind: Kind,
    pixels: &mut [u8],
    how: &Resize,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let &Resize { size, window: Window { left, top, width, height }, origin, extent, output, .. } = how;
    let from = TypedImage::<P>::from_buffer(size.0, size.1, pixels)?;
    let view = TypedCroppedImage::from_ref(&from, left, top, width, height)?;
    let mut resized = vec![0; output.0 as usize * output.1 as usize * kind.bytes()];
    let mut to = TypedImage::<P>::from_buffer(output.0, output.1, &mut resized)?;
    Resizer::new().resize_typed(&view, &mut to, &options().crop(origin.0, origin.1, extent.0, extent.1))?;
    Ok(resized)
}

fn resize_as<P: PixelTrait>(
    kind: Kind,
    mut pixels: impl AsMut<[u8]>,
    how: &Resize,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let &Resize { size, window: Window { left, top, width, height }, origin, extent, output, .. } = how;
    let mut from = TypedImage::<P>::from_buffer(size.0, size.1, pixels.as_mut())?;
    // The resizer would premultiply into a copy of the source. This picture is ours: premultiply in place.
    if how.alpha {
        let mut view = TypedCroppedImageMut::from_ref(&mut from, left, top, width, height)?;
        MulDiv::new().multiply_alpha_inplace_typed(&mut view)?;
    }
    let view = TypedCroppedImage::from_ref(&from, left, top, width, height)?;
    let (whole_width, whole_height) = (f64::from(width), f64::from(height));
    let (out_width, out_height) = (f64::from(output.0), f64::from(output.1));
    let (between, first, second) = match how.horizontal_first {
        true => (
            (output.0, height),
            options().crop(origin.0, 0.0, extent.0, whole_height),
            options().crop(0.0, origin.1, out_width, extent.1),
        ),
        false => (
            (width, output.1),
            options().crop(0.0, origin.1, whole_width, extent.1),
            options().crop(origin.0, 0.0, extent.0, out_height),
        ),
    };
    let buffer = |(width, height): (u32, u32)| vec![0; width as usize * height as usize * kind.bytes()];
    let mut resizer = Resizer::new();
    let mut halfway = buffer(between);
    resizer.resize_typed(&view, &mut TypedImage::<P>::from_buffer(between.0, between.1, &mut halfway)?, &first)?;
    drop(pixels);
    let halfway = TypedImage::<P>::from_buffer(between.0, between.1, &mut halfway)?;
    let view = TypedCroppedImage::from_ref(&halfway, 0, 0, between.0, between.1)?;
    let mut resized = buffer(output);
    let mut to = TypedImage::<P>::from_buffer(output.0, output.1, &mut resized)?;
    resizer.resize_typed(&view, &mut to, &second)?;
    if how.alpha {
        let mut view = TypedCroppedImageMut::from_ref(&mut to, 0, 0, output.0, output.1)?;
        MulDiv::new().divide_alpha_inplace_typed(&mut view)?;
    }
    Ok(resized)
}

fn options() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3)).use_alpha(false)
}

/// Multiplies alpha, the last byte of a pixel, into its colours, or divides it out again. Kinds of one or three samples
/// have none and stay.
///
/// # Errors
/// In the resizer's words, when the buffer is not of that size.
pub fn multiply_alpha(kind: Kind, pixels: &mut [u8], size: (u32, u32), multiply: bool) -> Result<(), String> {
    let done = match kind {
        Kind::Bytes2 => multiply_alpha_as::<U8x2>(pixels, size, multiply),
        Kind::Bytes4 => multiply_alpha_as::<U8x4>(pixels, size, multiply),
        Kind::Bytes1 | Kind::Bytes3 | Kind::Word1 => Ok(()),
    };
    done.map_err(|error| error.to_string())
}

fn multiply_alpha_as<P: PixelTrait>(
    pixels: &mut [u8],
    (width, height): (u32, u32),
    multiply: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut image = TypedImage::<P>::from_buffer(width, height, pixels)?;
    let mut view = TypedCroppedImageMut::from_ref(&mut image, 0, 0, width, height)?;
    match multiply {
        true => MulDiv::new().multiply_alpha_inplace_typed(&mut view)?,
        false => MulDiv::new().divide_alpha_inplace_typed(&mut view)?,
    }
    Ok(())
}
