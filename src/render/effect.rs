//! Blur, sharpen, grayscale, invert: steps on the resized picture, in the order written.

use super::{
    RenderError,
    picture::{Layout, Picture},
    plan::Effect,
    resample,
};

/// Carries the steps out, on 8 bits a sample.
///
/// # Errors
/// [`RenderError::Resample`] when a picture is not what its layout says; a bug if it happens.
pub fn apply(picture: Picture, effects: &[Effect]) -> Result<Picture, RenderError> {
    if effects.is_empty() {
        return Ok(picture);
    }
    effects.iter().try_fold(picture.into_screen_colours().into_8_bits(), |picture, effect| {
        Ok(match effect {
            Effect::Blur(sigma) => {
                let (picture, blurred) = softened(picture, sigma.pixels() as f32)?;
                straightened(Picture { pixels: blurred, ..picture })?
            }
            Effect::Sharpen(sigma) => {
                let (mut picture, blurred) = softened(picture, sigma.pixels() as f32)?;
                unsharp(&mut picture, &blurred);
                straightened(picture)?
            }
            Effect::Grayscale => grayscale(picture),
            Effect::Invert => invert(picture),
        })
    })
}

/// The picture with its alpha multiplied in, and the same pixels blurred: the colour under transparent pixels must not
/// bleed into visible ones.
fn softened(mut picture: Picture, sigma: f32) -> Result<(Picture, Vec<u8>), RenderError> {
    resample::multiply_alpha(&mut picture, true)?;
    let size = (picture.size.width, picture.size.height);
    let blurred = sendimage_pixels::blur(picture.layout.kind(), picture.pixels.clone(), size, sigma);
    blurred.map(|blurred| (picture, blurred)).ok_or_else(mismatch)
}

/// What the blur took away, once more on top. Alpha stays, and no colour outshines it.
fn unsharp(picture: &mut Picture, blurred: &[u8]) {
    let (bytes, has_alpha) = (picture.layout.bytes(), picture.layout.has_alpha());
    let colours = if has_alpha { bytes - 1 } else { bytes };
    for (pixel, soft) in picture.pixels.chunks_exact_mut(bytes).zip(blurred.chunks_exact(bytes)) {
        let most = if has_alpha { i16::from(pixel[bytes - 1]) } else { 255 };
        for (sample, soft) in pixel[..colours].iter_mut().zip(soft) {
            *sample = (2 * i16::from(*sample) - i16::from(*soft)).clamp(0, most) as u8;
        }
    }
}

fn straightened(mut picture: Picture) -> Result<Picture, RenderError> {
    resample::multiply_alpha(&mut picture, false)?;
    Ok(picture)
}

fn mismatch() -> RenderError {
    RenderError::Resample { detail: "a picture of another length than its size".into() }
}

/// Brightness by the weights of ITU-R BT.709, which sRGB's primaries are.
fn grayscale(picture: Picture) -> Picture {
    let brightness =
        |[r, g, b]: [u8; 3]| ((2126 * u32::from(r) + 7152 * u32::from(g) + 722 * u32::from(b) + 5000) / 10_000) as u8;
    // A profile of RGB says nothing about gray.
    match picture.layout {
        Layout::Rgb8 => Picture { profile: None, ..picture.mapped(Layout::Gray8, |rgb: [u8; 3]| [brightness(rgb)]) },
        Layout::Rgba8 => Picture {
            profile: None,
            ..picture.mapped(Layout::GrayAlpha8, |[r, g, b, alpha]: [u8; 4]| [brightness([r, g, b]), alpha])
        },
        Layout::Gray8 | Layout::GrayAlpha8 | Layout::Gray16 | Layout::Cmyk8 => picture,
    }
}

fn invert(mut picture: Picture) -> Picture {
    let bytes = picture.layout.bytes();
    let colours = if picture.layout.has_alpha() { bytes - 1 } else { bytes };
    for pixel in picture.pixels.chunks_exact_mut(bytes) {
        pixel[..colours].iter_mut().for_each(|sample| *sample = 255 - *sample);
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Size, spec::Sigma};
    use proptest::prelude::*;

    fn sigma(pixels: f64) -> Sigma {
        Sigma::new(pixels).unwrap()
    }

    fn picture(layout: Layout, pixels: Vec<u8>) -> Picture {
        let width = (pixels.len() / layout.bytes()) as u32;
        Picture { size: Size::new(width, 1), layout, pixels, profile: None }
    }

    #[test]
    fn a_blur_spreads_and_keeps_the_sum() {
        let mut pixels = vec![0; 41];
        pixels[20] = 250;
        for deviation in [1.0, 4.0] {
            let made = apply(picture(Layout::Gray8, pixels.clone()), &[Effect::Blur(sigma(deviation))]).unwrap();
            assert!(made.pixels[20] < 150 && made.pixels[21] > 5, "{:?}", made.pixels);
            let sum: u32 = made.pixels.iter().map(|&sample| u32::from(sample)).sum();
            assert!((200..=290).contains(&sum), "{sum}");
        }
    }

    #[test]
    fn hidden_colour_does_not_bleed() {
        let mut pixels = [0, 255, 0, 0].repeat(10);
        pixels.extend([200, 0, 0, 255].repeat(10));
        let made = apply(picture(Layout::Rgba8, pixels), &[Effect::Blur(sigma(2.0))]).unwrap();
        assert!(made.pixels.as_chunks::<4>().0.iter().all(|[_, green, ..]| *green == 0), "{:?}", made.pixels);
    }

    #[test]
    fn sharpening_widens_an_edge_and_leaves_plains_alone() {
        let pixels = [vec![100; 20], vec![150; 20]].concat();
        let made = apply(picture(Layout::Gray8, pixels), &[Effect::Sharpen(sigma(1.0))]).unwrap();
        assert_eq!((made.pixels[5], made.pixels[35]), (100, 150));
        assert!(made.pixels[19] < 95 && made.pixels[20] > 155, "{:?}", made.pixels);
    }

    #[test]
    fn gray_and_negative() {
        let made = apply(picture(Layout::Rgba8, vec![255, 255, 255, 7, 255, 0, 0, 9]), &[Effect::Grayscale]).unwrap();
        assert_eq!((made.layout, made.pixels.as_slice()), (Layout::GrayAlpha8, &[255, 7, 54, 9][..]));
        let made = apply(made, &[Effect::Invert]).unwrap();
        assert_eq!(made.pixels, [0, 7, 201, 9]);
    }

    proptest! {
        #[test]
        fn any_picture_keeps_its_size(
            (width, height) in (1u32..12, 1u32..12),
            layout in prop::sample::select(vec![
                Layout::Gray8, Layout::GrayAlpha8, Layout::Rgb8, Layout::Rgba8, Layout::Cmyk8, Layout::Gray16,
            ]),
            bytes in prop::collection::vec(any::<u8>(), 12 * 12 * 4),
            effects in prop::collection::vec(
                prop_oneof![
                    (30u32..=10_000).prop_map(|s| Effect::Blur(Sigma::try_from(s).unwrap())),
                    (30u32..=10_000).prop_map(|s| Effect::Sharpen(Sigma::try_from(s).unwrap())),
                    Just(Effect::Grayscale),
                    Just(Effect::Invert),
                ],
                0..4,
            ),
        ) {
            let size = Size::new(width, height);
            let pixels = bytes[..(width * height) as usize * layout.bytes()].to_vec();
            let made = apply(Picture { size, layout, pixels, profile: None }, &effects).unwrap();
            prop_assert_eq!(made.size, size);
            prop_assert_eq!(made.pixels.len(), (width * height) as usize * made.layout.bytes());
        }
    }
}
