//! Bytes and a plan to bytes. Plain synchronous functions without a runtime; everything that touches pixels runs inside a
//! render worker, and nothing here may be called by the gate but [`plan`] and [`limits`], which are arithmetic.

pub mod limits;
pub mod plan;

// Temporary stand-in; replaced when the render room is merged.
use crate::model::{ImageFormat, Orientation, Size, SourceFacts};
use serde::{Deserialize, Serialize};
use std::time::Duration;
#[allow(missing_docs)]
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let format = ImageFormat::detect(source).ok_or(RenderError::NotAnImage)?;
    let side = |at: usize| source.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(1, u32::from_be_bytes);
    let stored_size = if format == ImageFormat::Png { Size::new(side(16), side(20)) } else { Size::new(640, 480) };
    Ok(SourceFacts {
        format,
        stored_size,
        orientation: Orientation::Upright,
        frames: 1,
        bytes_per_pixel: 4,
        progressive: false,
    })
}
#[allow(missing_docs)]
pub fn render(source: &[u8], plan: &plan::Plan) -> Result<Rendered, RenderError> {
    if probe(source)? != plan.source {
        return Err(RenderError::Changed);
    }
    let times =
        StageTimes { decode: Duration::from_millis(1), resample: Duration::ZERO, encode: Duration::from_millis(1) };
    Ok(Rendered { bytes: [0xFF, 0xD8, 0xFF, 0xE0].repeat(500), times })
}
#[allow(missing_docs)]
pub struct Rendered {
    pub bytes: Vec<u8>,
    pub times: StageTimes,
}
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, Debug, Clone)]
pub struct StageTimes {
    pub decode: Duration,
    pub resample: Duration,
    pub encode: Duration,
}
#[allow(missing_docs)]
#[derive(thiserror::Error, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RenderError {
    #[error("not an image")]
    NotAnImage,
    #[error("the source changed")]
    Changed,
}
