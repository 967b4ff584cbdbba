//! Bounds that a source image and a rendition must keep, checked on numbers before a pixel is decoded.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::plan::Plan;
use crate::model::{Size, SourceFacts};

/// The bounds, from `[render]` in the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest source file, in bytes.
    pub max_source_bytes: u64,
    /// Largest source, in pixels: width x height x frames.
    pub max_source_pixels: u64,
    /// Longest side of a source, in pixels.
    pub max_source_side: u32,
    /// Largest rendition, in pixels: width x height.
    pub max_output_pixels: u64,
}

/// Which bound was broken, with both numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OverLimit {
    /// `render.max_source_bytes`.
    #[error("the source file has {found} bytes; render.max_source_bytes is {limit}")]
    SourceBytes {
        /// The file's length.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// `render.max_source_pixels`.
    #[error("the source image has {found} pixels in all frames; render.max_source_pixels is {limit}")]
    SourcePixels {
        /// Width x height x frames.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// `render.max_source_side`.
    #[error("the source image has a side of {found} pixels; render.max_source_side is {limit}")]
    SourceSide {
        /// The longer side.
        found: u32,
        /// The bound.
        limit: u32,
    },
    /// `render.max_output_pixels`.
    #[error("the rendition would have {found} pixels; render.max_output_pixels is {limit}")]
    OutputPixels {
        /// Width x height.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// `render.max_source_pixels`, which bounds what an animation makes as well as what it is made from.
    #[error("the animation would have {found} pixels in all frames; render.max_source_pixels is {limit}")]
    OutputFrames {
        /// Width x height x frames.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// A side longer than the output format can hold.
    #[error("the rendition would have a side of {found} pixels; {format} holds {limit}")]
    OutputSide {
        /// The longer side.
        found: u32,
        /// What the format's header can express.
        limit: u32,
        /// The output format's name.
        format: &'static str,
    },
    /// `render.memory_budget`.
    #[error("the render would hold {needed} bytes; render.memory_budget is {limit}")]
    Memory {
        /// What the plan reserves.
        needed: u64,
        /// The whole budget.
        limit: u64,
    },
}

impl Limits {
    /// Checks a source file's length.
    ///
    /// # Errors
    /// [`OverLimit::SourceBytes`].
    pub fn check_bytes(&self, found: u64) -> Result<(), OverLimit> {
        match found <= self.max_source_bytes {
            true => Ok(()),
            false => Err(OverLimit::SourceBytes { found, limit: self.max_source_bytes }),
        }
    }

    /// Checks what a probe found.
    ///
    /// # Errors
    /// The first bound broken: side, then pixels.
    pub fn check_source(&self, facts: &SourceFacts) -> Result<(), OverLimit> {
        let Size { width, height } = facts.stored_size;
        let side = width.max(height);
        if side > self.max_source_side {
            return Err(OverLimit::SourceSide { found: side, limit: self.max_source_side });
        }
        let pixels = facts.stored_size.pixels().saturating_mul(facts.frames.max(1).into());
        match pixels <= self.max_source_pixels {
            true => Ok(()),
            false => Err(OverLimit::SourcePixels { found: pixels, limit: self.max_source_pixels }),
        }
    }

    /// Checks the size of what a plan would make.
    ///
    /// # Errors
    /// [`OverLimit::OutputPixels`], [`OverLimit::OutputFrames`] or [`OverLimit::OutputSide`].
    pub fn check_output(&self, plan: &Plan) -> Result<(), OverLimit> {
        let size = plan.rendition_size();
        let pixels = size.pixels().max(plan.output_size.pixels());
        if pixels > self.max_output_pixels {
            return Err(OverLimit::OutputPixels { found: pixels, limit: self.max_output_pixels });
        }
        let found = pixels.saturating_mul(plan.frames.into());
        if plan.frames > 1 && found > self.max_source_pixels {
            return Err(OverLimit::OutputFrames { found, limit: self.max_source_pixels });
        }
        let found = size.width.max(size.height);
        let (limit, format) = (plan.encoding.max_side(), plan.encoding.format().name());
        match found <= limit {
            true => Ok(()),
            false => Err(OverLimit::OutputSide { found, limit, format }),
        }
    }
}
