//! Turning a picture upright.
//!
//! A phone's photo is stored lying down. What the plan wants is cut out and resized as it is stored, and only the small
//! result is turned: turning twelve million pixels first would cost more than decoding them.

use super::picture::Picture;
use crate::model::{Orientation, PixelRect, Size};

/// How the upright picture's coordinates lead to the stored ones: perhaps swapped, then perhaps counted from the far side.
#[derive(Clone, Copy)]
struct Turn {
    swap: bool,
    from_right: bool,
    from_bottom: bool,
}

impl Turn {
    fn new(orientation: Orientation) -> Self {
        let (swap, from_right, from_bottom) = match orientation {
            Orientation::Upright => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::Rotate180 => (false, true, true),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Transpose => (true, false, false),
            Orientation::Rotate90 => (true, false, true),
            Orientation::Transverse => (true, true, true),
            Orientation::Rotate270 => (true, true, false),
        };
        Self { swap, from_right, from_bottom }
    }
}

/// Where a rectangle of the upright picture lies in the picture as stored.
pub fn rect_as_stored(upright: PixelRect, orientation: Orientation, stored: Size) -> PixelRect {
    let Turn { swap, from_right, from_bottom } = Turn::new(orientation);
    let PixelRect { left, top, right, bottom } = upright;
    let (mut across, mut down) = ((left, right), (top, bottom));
    if swap {
        (across, down) = (down, across);
    }
    if from_right {
        across = (stored.width - across.1, stored.width - across.0);
    }
    if from_bottom {
        down = (stored.height - down.1, stored.height - down.0);
    }
    PixelRect { left: across.0, top: down.0, right: across.1, bottom: down.1 }
}

/// Turns a stored picture upright.
pub fn turn_upright(picture: Picture, orientation: Orientation) -> Picture {
    if orientation == Orientation::Upright {
        return picture;
    }
    let pixels = match picture.layout.bytes() {
        1 => turned::<1>(&picture, orientation),
        2 => turned::<2>(&picture, orientation),
        3 => turned::<3>(&picture, orientation),
        _ => turned::<4>(&picture, orientation),
    };
    Picture { size: orientation.upright(picture.size), pixels, ..picture }
}

fn turned<const N: usize>(picture: &Picture, orientation: Orientation) -> Vec<u8> {
    let Turn { swap, from_right, from_bottom } = Turn::new(orientation);
    let stored = picture.size;
    let upright = orientation.upright(stored);
    let (pixels, _) = picture.pixels.as_chunks::<N>();
    let far = |at: u32, length: u32, mirrored: bool| if mirrored { length - 1 - at } else { at } as usize;
    let mut out = Vec::with_capacity(picture.pixels.len());
    for y in 0..upright.height {
        for x in 0..upright.width {
            let (across, down) = if swap { (y, x) } else { (x, y) };
            let index =
                far(down, stored.height, from_bottom) * stored.width as usize + far(across, stored.width, from_right);
            out.extend_from_slice(&pixels[index]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::picture::Layout;

    /// Each letter is a pixel: the upright picture is `abc` over `def`.
    fn stored_as(orientation: u32) -> (&'static [u8], Size) {
        match orientation {
            1 => (b"abcdef", Size::new(3, 2)),
            2 => (b"cbafed", Size::new(3, 2)),
            3 => (b"fedcba", Size::new(3, 2)),
            4 => (b"defabc", Size::new(3, 2)),
            5 => (b"adbecf", Size::new(2, 3)),
            6 => (b"cfbead", Size::new(2, 3)),
            7 => (b"fcebda", Size::new(2, 3)),
            _ => (b"daebfc", Size::new(2, 3)),
        }
    }

    #[test]
    fn all_eight_turn_upright() {
        for value in 1..=8 {
            let (pixels, size) = stored_as(value);
            let picture = Picture { size, layout: Layout::Gray8, pixels: pixels.to_vec(), profile: None };
            let upright = turn_upright(picture, Orientation::from_exif(value));
            assert_eq!((upright.size, upright.pixels.as_slice()), (Size::new(3, 2), &b"abcdef"[..]), "{value}");
        }
    }

    #[test]
    fn a_crop_finds_its_pixels_as_stored() {
        let e_only = PixelRect { left: 1, top: 1, right: 2, bottom: 2 };
        let bc = PixelRect { left: 1, top: 0, right: 3, bottom: 1 };
        for value in 1..=8 {
            let (pixels, size) = stored_as(value);
            let cut = |rect| {
                let rect = rect_as_stored(rect, Orientation::from_exif(value), size);
                let mut found: Vec<u8> = (rect.top..rect.bottom)
                    .flat_map(|y| (rect.left..rect.right).map(move |x| pixels[(y * size.width + x) as usize]))
                    .collect();
                found.sort_unstable();
                found
            };
            assert_eq!((cut(e_only), cut(bc)), (b"e".to_vec(), b"bc".to_vec()), "{value}");
        }
    }
}
