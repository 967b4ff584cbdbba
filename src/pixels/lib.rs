//! What is generic over kinds of pixels, behind functions that are not.
//!
//! The resizer, the blur and rav1e are code with type parameters, which is compiled where it is used: within sendimage
//! that would be minutes at every change of a line. Here it is compiled once, and optimised like any dependency.

pub mod av1;
mod blur;
pub mod idct;
mod resize;

pub use blur::blur;
pub use resize::{Resize, Window, multiply_alpha, resize, resize_one_way};

/// How the samples of a pixel lie, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte.
    Bytes1,
    /// Two bytes, the second alpha.
    Bytes2,
    /// Three bytes.
    Bytes3,
    /// Four bytes; where alpha counts, it is the fourth.
    Bytes4,
    /// Two bytes that are one number, in the machine's byte order.
    Word1,
}

impl Kind {
    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bytes1 => 1,
            Self::Bytes2 | Self::Word1 => 2,
            Self::Bytes3 => 3,
            Self::Bytes4 => 4,
        }
    }
}
