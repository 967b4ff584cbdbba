//! SVG: read with bounds, rewritten by an allow-list, drawn where a raster format is asked for.
//!
//! What is served as SVG is never the file that was uploaded: it is parsed, and what is known to be harmless is written out
//! again. The same text is what gets drawn, so that the drawing library meets no script, style or reference that a browser
//! would not.

use super::{Plan, RenderError, codec, picture::Picture};
use crate::model::{ImageFormat, Orientation, PixelRect, Size, SourceFacts};

mod allowed;
mod css;
mod document;
mod draw;
#[cfg(test)]
mod tests;
mod viewport;
mod write;

use document::Document;

/// Reads the root element's size, and nothing behind it: what a whole document takes is reserved for a render alone.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let viewport = document::root(&document::text(source)?)?;
    Ok(SourceFacts {
        format: ImageFormat::Svg,
        stored_size: viewport.size.rounded_up(),
        orientation: Orientation::Upright,
        frames: 1,
        bytes_per_pixel: 4,
        progressive: false,
        document: Some(viewport.size),
    })
}

/// Writes the document anew, cut to the plan's rectangle of it and given the plan's size.
pub fn rewrite(source: &[u8], plan: &Plan) -> Result<Vec<u8>, RenderError> {
    let text = document::text(source)?;
    let document = Document::parse(&text)?;
    document.expect(plan.source.document)?;
    let size = plan.document.ok_or(RenderError::Changed)?;
    if plan.crop.left >= plan.crop.right || plan.crop.top >= plan.crop.bottom {
        return Err(RenderError::Changed);
    }
    Ok(write::written(&document, &document.viewport.cut(plan.crop, size)).into_bytes())
}

/// Draws a rectangle of the document, in RGBA.
pub fn draw(source: &[u8], plan: &Plan, crop: PixelRect, output: Size) -> Result<Picture, RenderError> {
    let text = document::text(source)?;
    let document = Document::parse(&text)?;
    document.expect(plan.source.document)?;
    draw::refuse_holes(&document)?;
    let harmless = write::written(&document, &document.viewport.whole());
    draw::drawn(&harmless, crop, output)
}

fn damaged(detail: impl ToString) -> RenderError {
    codec::corrupt(ImageFormat::Svg, detail)
}
