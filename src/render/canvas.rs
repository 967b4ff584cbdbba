//! Laying a picture into a larger one, and another on top.

use super::{
    RenderError, background,
    picture::{Layout, Picture, scaled},
    plan::{Canvas, Watermark},
    resample,
};
use crate::model::{PixelRect, Place, Size};

/// Lays a picture into the middle of a canvas. An odd pixel is at the right and at the bottom.
pub fn pad(picture: Picture, canvas: Canvas) -> Picture {
    let picture = match canvas.color {
        Some(color) => background::lay_on(picture.into_colour(), color),
        None => with_alpha(picture.into_colour()),
    };
    let ground = match (canvas.color, picture.layout) {
        (Some(color), Layout::Rgb8) => vec![color.red, color.green, color.blue],
        (Some(color), _) => vec![color.red, color.green, color.blue, 255],
        (None, _) => vec![0; 4],
    };
    let Size { width, height } = canvas.size;
    let left = width.saturating_sub(picture.size.width) / 2;
    let top = height.saturating_sub(picture.size.height) / 2;
    let mut padded = Picture {
        size: canvas.size,
        layout: picture.layout,
        pixels: ground.repeat(canvas.size.pixels() as usize),
        profile: picture.profile.clone(),
    };
    let (stride, start) = (padded.stride(), left as usize * padded.layout.bytes());
    let rows = padded.pixels.chunks_exact_mut(stride).skip(top as usize);
    for (to, from) in rows.zip(picture.pixels.chunks_exact(picture.stride())) {
        let length = from.len().min(to.len() - start);
        to[start..start + length].copy_from_slice(&from[..length]);
    }
    padded
}

fn with_alpha(picture: Picture) -> Picture {
    match picture.layout {
        Layout::Rgb8 => picture.mapped(Layout::Rgba8, |[r, g, b]: [u8; 3]| [r, g, b, 255]),
        _ => picture,
    }
}

/// A watermark at the size and place that it has on pictures of one size: prepared once for all frames of an animation.
pub struct Mark {
    picture: Picture,
    area: PixelRect,
    opacity: u8,
}

impl Mark {
    /// As wide as its share of the picture, as high as its own shape has it, inside the edges.
    ///
    /// # Errors
    /// [`RenderError::Resample`] when the resizer refuses.
    pub fn new(mark: Picture, size: Size, how: &Watermark) -> Result<Self, RenderError> {
        let area = placed(size, mark.size, how);
        let cut = resample::Cut {
            crop: PixelRect::whole(mark.size),
            reduction: 1,
            output: area.size(),
            first: resample::Axis::Horizontal,
        };
        let picture = resample::resize(with_alpha(mark.into_colour()), cut)?;
        Ok(Self { picture, area, opacity: (u32::from(how.opacity_percent.min(100)) * 255 / 100) as u8 })
    }

    /// Lays it on a picture of that size.
    pub fn lay_on(&self, picture: Picture) -> Picture {
        let mut picture = picture.into_colour();
        let (stride, bytes) = (picture.stride(), picture.layout.bytes());
        let rows = picture.pixels.chunks_exact_mut(stride).skip(self.area.top as usize);
        for (row, marked) in rows.zip(self.picture.pixels.chunks_exact(self.picture.stride())) {
            let row = row[self.area.left as usize * bytes..].chunks_exact_mut(bytes);
            for (under, over) in row.zip(marked.as_chunks::<4>().0) {
                blend(under, *over, self.opacity);
            }
        }
        picture
    }
}

/// Where a watermark comes to lie; within the picture, and at least a pixel.
fn placed(picture: Size, mark: Size, how: &Watermark) -> PixelRect {
    let part = |length: u32, percent: u8| (u64::from(length) * u64::from(percent.min(100)) / 100) as u32;
    let margin = part(picture.width.min(picture.height), how.margin_percent.min(49));
    let room = Size::new((picture.width - 2 * margin).max(1), (picture.height - 2 * margin).max(1));
    let wanted = part(picture.width, how.width_percent).clamp(1, room.width);
    let height_of = |width: u32| (u64::from(width) * u64::from(mark.height) / u64::from(mark.width.max(1))).max(1);
    let (width, height) = match height_of(wanted) {
        height if height <= u64::from(room.height) => (wanted, height as u32),
        height => ((u64::from(wanted) * u64::from(room.height) / height).max(1) as u32, room.height),
    };
    let (across, down) = match how.place {
        Place::TopLeft => (0, 0),
        Place::Top => (1, 0),
        Place::TopRight => (2, 0),
        Place::Left => (0, 1),
        Place::Center => (1, 1),
        Place::Right => (2, 1),
        Place::BottomLeft => (0, 2),
        Place::Bottom => (1, 2),
        Place::BottomRight => (2, 2),
    };
    let margin = |picture: u32| margin.min((picture - 1) / 2);
    let left = margin(picture.width) + (room.width - width) * across / 2;
    let top = margin(picture.height) + (room.height - height) * down / 2;
    PixelRect { left, top, right: left + width, bottom: top + height }
}

/// Porter and Duff's "over", on colours that alpha is not multiplied into.
fn blend(under: &mut [u8], [r, g, b, alpha]: [u8; 4], opacity: u8) {
    let over = u32::from(scaled(alpha, opacity));
    let (colours, below) = match under {
        [colours @ .., alpha] if colours.len() == 3 => (colours, Some(alpha)),
        colours => (colours, None),
    };
    let under_alpha = below.as_deref().map_or(255, |alpha| u32::from(*alpha));
    let rest = under_alpha * (255 - over);
    let total = over * 255 + rest;
    if total == 0 {
        return;
    }
    for (sample, mark) in colours.iter_mut().zip([r, g, b]) {
        *sample = ((u32::from(mark) * over * 255 + u32::from(*sample) * rest + total / 2) / total) as u8;
    }
    if let Some(alpha) = below {
        *alpha = ((total + 127) / 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Rgb;
    use proptest::prelude::*;

    fn plain(size: Size, pixel: [u8; 4]) -> Picture {
        Picture { size, layout: Layout::Rgba8, pixels: pixel.repeat(size.pixels() as usize), profile: None }
    }

    fn watermark(place: Place, opacity_percent: u8, width_percent: u8, margin_percent: u8) -> Watermark {
        Watermark { digest: String::new(), place, opacity_percent, width_percent, margin_percent }
    }

    fn mark(picture: Picture, mark: &Picture, how: &Watermark) -> Result<Picture, RenderError> {
        Ok(Mark::new(mark.clone(), picture.size, how)?.lay_on(picture))
    }

    #[test]
    fn a_canvas_is_filled_and_the_picture_stands_in_its_middle() {
        let red = plain(Size::new(1, 2), [255, 0, 0, 255]);
        let blue = Some(Rgb { red: 0, green: 0, blue: 255 });
        let made = pad(red.clone(), Canvas { size: Size::new(4, 2), color: blue });
        assert_eq!(made.layout, Layout::Rgb8);
        assert_eq!(made.pixels, [0, 0, 255, 255, 0, 0, 0, 0, 255, 0, 0, 255].repeat(2));
        let made = pad(red, Canvas { size: Size::new(1, 3), color: None });
        assert_eq!(made.pixels, [255, 0, 0, 255, 255, 0, 0, 255, 0, 0, 0, 0]);
    }

    #[test]
    fn a_watermark_stands_in_its_corner() {
        let ground = plain(Size::new(10, 10), [0, 0, 0, 255]);
        let dot = plain(Size::new(3, 3), [255, 255, 255, 255]);
        let made = mark(ground.clone(), &dot, &watermark(Place::BottomRight, 100, 20, 10)).unwrap();
        let lit: Vec<(usize, usize)> =
            (0..100).filter(|at| made.pixels[at * 4] == 255).map(|at| (at % 10, at / 10)).collect();
        assert_eq!(lit, [(7, 7), (8, 7), (7, 8), (8, 8)]);
        let half = mark(ground, &dot, &watermark(Place::TopLeft, 50, 10, 0)).unwrap();
        assert_eq!(half.pixels[..8], [127, 127, 127, 255, 0, 0, 0, 255]);
        let clear = mark(plain(Size::new(1, 1), [9, 9, 9, 0]), &dot, &watermark(Place::Top, 50, 100, 0)).unwrap();
        assert_eq!(clear.pixels, [255, 255, 255, 127]);
    }

    proptest! {
        #[test]
        fn a_watermark_is_always_inside(
            (width, height) in (1u32..300, 1u32..300),
            (mark_width, mark_height) in (1u32..300, 1u32..300),
            (opacity, share, margin) in (0u8..=100, 0u8..=100, 0u8..=100),
        ) {
            let size = Size::new(width, height);
            for place in [Place::TopLeft, Place::Center, Place::BottomRight, Place::Right, Place::Bottom] {
                let area = placed(size, Size::new(mark_width, mark_height), &watermark(place, opacity, share, margin));
                prop_assert!(area.left < area.right && area.right <= width, "{area:?}");
                prop_assert!(area.top < area.bottom && area.bottom <= height, "{area:?}");
            }
        }
    }
}
