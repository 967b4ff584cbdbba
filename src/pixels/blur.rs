//! Gaussian blur.

use image::{ImageBuffer, Luma, LumaA, Pixel, Rgb, Rgba, imageops};

use crate::Kind;

/// From this deviation on three box blurs are within a level or two of a Gaussian, and take the same time for any.
const BOXES_FROM_SIGMA: f32 = 3.0;

/// Blurs a picture by a Gaussian of a standard deviation in pixels. `None` when the buffer is not of that size, and of
/// 16-bit samples.
pub fn blur(kind: Kind, pixels: Vec<u8>, (width, height): (u32, u32), sigma: f32) -> Option<Vec<u8>> {
    match kind {
        Kind::Bytes1 => blur_as::<Luma<u8>>(pixels, width, height, sigma),
        Kind::Bytes2 => blur_as::<LumaA<u8>>(pixels, width, height, sigma),
        Kind::Bytes3 => blur_as::<Rgb<u8>>(pixels, width, height, sigma),
        Kind::Bytes4 => blur_as::<Rgba<u8>>(pixels, width, height, sigma),
        Kind::Word1 => None,
    }
}

fn blur_as<P: Pixel<Subpixel = u8> + 'static>(pixels: Vec<u8>, width: u32, height: u32, sigma: f32) -> Option<Vec<u8>> {
    let buffer = ImageBuffer::<P, Vec<u8>>::from_raw(width, height, pixels)?;
    let blurred = match sigma < BOXES_FROM_SIGMA {
        true => imageops::blur(&buffer, sigma),
        false => imageops::fast_blur(&buffer, sigma),
    };
    Some(blurred.into_raw())
}
