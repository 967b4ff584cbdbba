//! Bytes and a plan to bytes. Plain synchronous functions without a runtime; everything that touches pixels runs inside a
//! render worker, and nothing here may be called by the gate but [`plan`] and [`limits`], which are arithmetic.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{ImageFormat, SourceFacts};

#[forbid(unsafe_code)]
mod background;
mod codec;
#[forbid(unsafe_code)]
mod exif;
#[forbid(unsafe_code)]
pub mod limits;
#[forbid(unsafe_code)]
mod orient;
#[forbid(unsafe_code)]
mod picture;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
mod resample;
#[cfg(test)]
mod tests;

pub use plan::Plan;

/// A rendition's bytes, and what they cost.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The encoded file.
    pub bytes: Vec<u8>,
    /// How long each stage took.
    pub times: StageTimes,
}

/// How long the stages of a render took, on the worker's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// From bytes to pixels.
    pub decode: Duration,
    /// Cropping, resizing, turning upright, laying on a background.
    pub resample: Duration,
    /// From pixels to bytes.
    pub encode: Duration,
}

/// Why there is no rendition. It crosses the process border, so causes are texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RenderError {
    /// No format known here begins like that.
    #[error("the file is not an image")]
    NotAnImage,
    /// An image, but of a format or a kind that this build does not read.
    #[error("cannot read this {format} file: {detail}")]
    Unsupported {
        /// What the magic bytes say.
        format: ImageFormat,
        /// What about it is not supported.
        detail: String,
    },
    /// Damaged, truncated or hostile: no picture is made from half a file.
    #[error("the {format} file is damaged: {detail}")]
    Corrupt {
        /// What the magic bytes say.
        format: ImageFormat,
        /// What the decoder said.
        detail: String,
    },
    /// The file is not the one that was probed: its format or size differs from the plan's.
    #[error("the source image changed while it was being rendered")]
    Changed,
    /// The resizer refused. A bug if it happens: a plan is checked before.
    #[error("cannot resize: {detail}")]
    Resample {
        /// What the resizer said.
        detail: String,
    },
    /// The encoder refused.
    #[error("cannot write {format}: {detail}")]
    Encode {
        /// The format of the rendition.
        format: ImageFormat,
        /// What the encoder said.
        detail: String,
    },
}

/// Reads a source's header: numbers only, no pixel is allocated. Bounded by one walk over the file's chunks.
///
/// # Errors
/// [`RenderError::NotAnImage`], [`RenderError::Unsupported`] or [`RenderError::Corrupt`].
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    codec::probe(source)
}

/// Makes a rendition: the plan's crop of the source, resized, upright, on the plan's background, in the plan's format.
///
/// # Errors
/// When the source cannot be decoded, is not what the plan was made for, or the encoder refuses.
pub fn render(source: &[u8], plan: &Plan) -> Result<Rendered, RenderError> {
    let mut stages = Stages::start();
    let orientation = plan.source.orientation;
    let cut = plan.cut_as_stored()?;

    let decoded = codec::decode(source, plan)?;
    let decode = stages.lap();

    let resized = resample::resize(decoded, cut)?;
    let upright = orient::turn_upright(resized, orientation).into_screen_colours();
    let picture = match plan.background {
        Some(color) => background::lay_on(upright, color),
        None => upright,
    };
    let resample = stages.lap();

    let bytes = codec::encode(picture, plan.encoding)?;
    Ok(Rendered { bytes, times: StageTimes { decode, resample, encode: stages.lap() } })
}

/// Sources up to this many pixels are resized in Wagtail's order whatever the output. Above, and for lossy outputs, the
/// faster order is taken: it differs only where an overshoot is clipped, by less than the coding does.
const EXACT_ORDER_PIXELS: u64 = 2_000_000;

impl Plan {
    /// Crop and size as the pixels are stored, for only the small result is turned upright.
    ///
    /// A plan from [`Plan::new`] always has a crop within the picture; one that came through a broken pipe may not.
    fn cut_as_stored(&self) -> Result<resample::Cut, RenderError> {
        let (crop, facts) = (self.crop, &self.source);
        let size = facts.upright_size();
        let within = crop.left < crop.right
            && crop.top < crop.bottom
            && crop.right <= size.width
            && crop.bottom <= size.height
            && self.output_size.pixels() > 0
            && self.decode_reduction > 0;
        if !within {
            return Err(RenderError::Changed);
        }
        // Wagtail goes along the upright picture's rows first.
        let exact = self.encoding.is_lossless() || crop.size().pixels() <= EXACT_ORDER_PIXELS;
        let horizontal = exact && !facts.orientation.swaps_sides();
        Ok(resample::Cut {
            crop: orient::rect_as_stored(crop, facts.orientation, facts.stored_size),
            reduction: self.decode_reduction,
            output: facts.orientation.upright(self.output_size),
            first: if horizontal { resample::Axis::Horizontal } else { resample::Axis::Vertical },
        })
    }
}

/// A stopwatch for the stages.
struct Stages(Instant);

impl Stages {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
