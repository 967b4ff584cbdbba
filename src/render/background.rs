//! Laying a picture on a colour.

use super::picture::{Layout, Picture};
use crate::spec::Rgb;

/// Composites onto an opaque colour, in the rounding of Pillow's `alpha_composite`; the result is RGB. A picture without
/// alpha is left alone, as in Wagtail: gray stays gray.
pub fn lay_on(picture: Picture, color: Rgb) -> Picture {
    let ground = [color.red, color.green, color.blue];
    match picture.layout {
        Layout::Rgba8 => picture.mapped(Layout::Rgb8, |[r, g, b, alpha]: [u8; 4]| blend([r, g, b], alpha, ground)),
        Layout::GrayAlpha8 => picture.mapped(Layout::Rgb8, |[gray, alpha]: [u8; 2]| blend([gray; 3], alpha, ground)),
        Layout::Gray8 | Layout::Rgb8 | Layout::Cmyk8 | Layout::Gray16 => picture,
    }
}

fn blend(over: [u8; 3], alpha: u8, under: [u8; 3]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    std::array::from_fn(|i| ((u32::from(over[i]) * alpha + u32::from(under[i]) * (255 - alpha) + 127) / 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Size;

    #[test]
    fn alpha_decides_how_much_shines_through() {
        let color = Rgb { red: 255, green: 0, blue: 100 };
        let pixels = vec![9, 9, 9, 0, 9, 8, 7, 255, 0, 0, 0, 128];
        let picture = Picture { size: Size::new(3, 1), layout: Layout::Rgba8, pixels, profile: None };
        let laid = lay_on(picture, color);
        assert_eq!(laid.layout, Layout::Rgb8);
        assert_eq!(laid.pixels, [255, 0, 100, 9, 8, 7, 127, 0, 50]);
    }

    #[test]
    fn gray_without_alpha_stays_gray() {
        let picture = Picture { size: Size::new(1, 1), layout: Layout::Gray8, pixels: vec![9], profile: None };
        assert_eq!(lay_on(picture, Rgb::WHITE).layout, Layout::Gray8);
    }
}
