//! The filter spec grammar: `fill-100x100-c50|format-webp|webpquality-60`.
//!
//! The grammar is Wagtail's (`wagtail.images.models.Filter` and `image_operations`, 8.0.1), as lenient as Python is with
//! numbers, so that every URL a site has ever handed out keeps working. [`FilterSpec::canonical`] gives the one spelling
//! that keys and logs use.

mod number;
mod operation;
mod parse;
mod print;

pub use operation::{Closeness, Operation, OutputFormat, Quality, Rgb};
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
}
