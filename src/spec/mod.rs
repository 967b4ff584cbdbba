//! The filter spec grammar: `fill-100x100-c50|format-webp|webpquality-60`.
//!
//! The grammar is Wagtail's (`wagtail.images.models.Filter` and `image_operations`, 8.0.1), as lenient as Python is with
//! numbers, so that every URL a site has ever handed out keeps working. [`FilterSpec::canonical`] gives the one spelling
//! that keys and logs use. Operations that Wagtail does not have are strict with theirs.

mod number;
mod operation;
mod parse;
mod print;

use operation::OnVectors;
pub use operation::{Accepted, Closeness, Dpr, Operation, OutputFormat, Quality, Rgb, Sigma, Turn, WatermarkName};
pub use parse::{MAX_BYTES, MAX_OPERATIONS, Problem, SpecError};

/// A parsed filter spec: at least one operation, in the order written.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct FilterSpec {
    operations: Vec<Operation>,
}

impl FilterSpec {
    /// The operations in order; never empty.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether the format depends on what the client accepts: `format-auto` with no other format after it.
    pub fn is_auto(&self) -> bool {
        self.accepted().is_some()
    }

    /// What the client of a `format-auto` accepts; `None` where the spec leaves nothing to the client.
    pub fn accepted(&self) -> Option<Accepted> {
        let format = |operation: &&Operation| matches!(operation, Operation::Format(_) | Operation::FormatAuto(_));
        match self.operations.iter().rev().find(format) {
            Some(Operation::FormatAuto(accepted)) => Some(*accepted),
            _ => None,
        }
    }

    /// What is left of the spec for a vector image that stays one: the operations on geometry that its root element can
    /// express. A turn, a canvas and everything about pixels and formats is no part of that.
    pub fn for_vectors(&self) -> Self {
        let stays = |operation: &&Operation| operation.on_vectors() == OnVectors::Sizes;
        let operations: Vec<Operation> = self.operations.iter().filter(stays).cloned().collect();
        Self { operations: if operations.is_empty() { vec![Operation::Original] } else { operations } }
    }

    /// Whether anything in it can only be done to pixels, which makes a picture of a vector image. `preserve-svg` says that
    /// nothing may.
    pub fn needs_pixels(&self) -> bool {
        let is_about_pixels = |operation: &Operation| operation.on_vectors() == OnVectors::NeedsPixels;
        !self.operations.contains(&Operation::PreserveSvg) && self.operations.iter().any(is_about_pixels)
    }

    /// The same spec for a client that accepts these formats; its text does not change.
    pub fn accepting(&self, accepted: Accepted) -> Self {
        let operations = self.operations.iter().map(|operation| match operation {
            Operation::FormatAuto(_) => Operation::FormatAuto(accepted),
            other => other.clone(),
        });
        Self { operations: operations.collect() }
    }
}
