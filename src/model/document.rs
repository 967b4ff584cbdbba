//! The size of a vector image: a length, where pictures have a count of pixels.

use serde::{Deserialize, Serialize};

use super::Size;

/// Width and height in CSS pixels, finite and above zero; they need not be whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DocumentSize {
    pub width: f64,
    pub height: f64,
}

impl Eq for DocumentSize {} // never NaN: neither a probe nor JSON can say so

impl DocumentSize {
    /// The pixels that the document touches.
    pub fn rounded_up(self) -> Size {
        // A cast saturates.
        Size::new(self.width.ceil() as u32, self.height.ceil() as u32)
    }
}

impl From<Size> for DocumentSize {
    fn from(size: Size) -> Self {
        Self { width: size.width.into(), height: size.height.into() }
    }
}
