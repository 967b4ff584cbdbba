//! A document as pixels, by resvg: no fonts, no files, no other pictures.

use std::panic::{self, AssertUnwindSafe};

use resvg::{tiny_skia, usvg};

use super::{
    damaged,
    document::{Document, SVG},
};
use crate::{
    model::{ImageFormat, PixelRect, Size},
    render::{
        RenderError,
        picture::{Layout, Picture},
    },
};

/// What would be missing is said, not left out: text needs fonts, which a locked-in worker has none of, and an embedded
/// picture another decoder.
pub fn refuse_holes(document: &Document<'_>) -> Result<(), RenderError> {
    let unsupported = |detail: &str| Err(RenderError::Unsupported { format: ImageFormat::Svg, detail: detail.into() });
    for node in document.tree.descendants().filter(|node| node.tag_name().namespace() == Some(SVG)) {
        match node.tag_name().name() {
            "text" if node.descendants().any(|part| part.text().is_some_and(|text| !text.trim().is_empty())) => {
                return unsupported("text needs fonts: it can be served as SVG, or with its text as paths");
            }
            "path" if node.attribute("d").is_some_and(has_huge_numbers) => {
                return Err(damaged("a path has numbers beyond a thousand million"));
            }
            "image" => return unsupported("pictures within it are not drawn: it can be served as SVG"),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a path has a number of more than nine digits before the point. An arc is drawn in pieces, the more the larger it
/// is, and the parser of them takes the square of their number.
fn has_huge_numbers(path: &str) -> bool {
    const DIGITS: usize = 9;
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = path;
    while let Some(at) = rest.find(is_number) {
        let before = rest[..at].chars().next_back();
        let length = rest[at..].find(|c| !is_number(c)).unwrap_or(rest.len() - at);
        let number = &rest[at..at + length];
        let after_sign = rest[..at].strip_suffix('+').and_then(|rest| rest.chars().next_back());
        let is_exponent = matches!(before, Some('e' | 'E')) || matches!(after_sign, Some('e' | 'E'));
        let whole = number.split('.').next().unwrap_or_default().trim_start_matches('0');
        let too_large = if is_exponent { whole.len() > 1 } else { whole.len() > DIGITS };
        if too_large {
            return true;
        }
        rest = &rest[at + length..];
    }
    false
}

/// Draws what [`super::write`] has written, at its own size.
pub fn drawn(harmless: &str, crop: PixelRect, output: Size) -> Result<Picture, RenderError> {
    let options = usvg::Options {
        image_href_resolver: usvg::ImageHrefResolver {
            resolve_data: Box::new(|_, _, _| None),
            resolve_string: Box::new(|_, _| None),
        },
        ..usvg::Options::default()
    };
    let mut pixmap = tiny_skia::Pixmap::new(output.width, output.height)
        .ok_or_else(|| RenderError::Resample { detail: "the drawing is too large".into() })?;
    let share = |output: u32, crop: u32| output as f32 / crop as f32;
    let (across, down) = (share(output.width, crop.size().width), share(output.height, crop.size().height));
    let (left, top) = (-(crop.left as f32) * across, -(crop.top as f32) * down);
    let transform = tiny_skia::Transform::from_row(across, 0.0, 0.0, down, left, top);
    // Safe code throughout, whose arithmetic some documents overflow: that is their damage, and no worker's end.
    let attempt = AssertUnwindSafe(|| {
        let tree = usvg::Tree::from_str(harmless, &options).map_err(damaged)?;
        resvg::render(&tree, transform, &mut pixmap.as_mut());
        Ok(())
    });
    panic::catch_unwind(attempt).unwrap_or_else(|_| Err(damaged("it cannot be drawn")))?;
    let mut pixels = pixmap.take();
    for pixel in pixels.as_chunks_mut::<4>().0 {
        *pixel = straight(*pixel);
    }
    Ok(Picture { size: output, layout: Layout::Rgba8, pixels, profile: None })
}

/// A colour as it was before it was multiplied by its opacity.
fn straight([r, g, b, alpha]: [u8; 4]) -> [u8; 4] {
    let share = u32::from(alpha);
    let channel =
        |value: u8| (u32::from(value) * 255 + share / 2).checked_div(share).unwrap_or_default().min(255) as u8;
    [channel(r), channel(g), channel(b), alpha]
}
