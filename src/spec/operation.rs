//! One variant for each operation of the grammar.

use serde::{Deserialize, Serialize};

use crate::model::ImageFormat;

/// One step of a filter spec. Lengths are in pixels and clamped to 2^53 - 1, which no image reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// `original`: changes nothing.
    Original,
    /// `width-N`: down to this width, never up.
    Width(u64),
    /// `height-N`: down to this height, never up.
    Height(u64),
    /// `max-WxH`: down until both sides fit.
    Max(u64, u64),
    /// `min-WxH`: down until one side just covers.
    Min(u64, u64),
    /// `scale-P`: by a percentage, up or down. Finite and not negative.
    Scale(f64),
    /// `fill-WxH[-cN]`: crop to the aspect ratio around the focal point, then down to the size.
    Fill {
        /// Target width, at least 1.
        width: u64,
        /// Target height, at least 1.
        height: u64,
        /// How far to zoom in on the focal point.
        closeness: Closeness,
    },
    /// `format-F[-lossless]`.
    Format(OutputFormat),
    /// `jpegquality-N`.
    JpegQuality(Quality),
    /// `webpquality-N`.
    WebpQuality(Quality),
    /// `avifquality-N`.
    AvifQuality(Quality),
    /// `bgcolor-RGB` or `bgcolor-RRGGBB`: what shows through transparent pixels.
    BackgroundColor(Rgb),
    /// `preserve-svg`: a vector image keeps its format whatever else the spec says.
    PreserveSvg,
}

impl std::hash::Hash for Operation {
    /// By hand, for doubles have no `Hash`; agrees with `PartialEq`.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match *self {
            Self::Original | Self::PreserveSvg => {}
            Self::Width(length) | Self::Height(length) => length.hash(state),
            Self::Max(width, height) | Self::Min(width, height) => (width, height).hash(state),
            // Finite and never negative, so equal numbers have equal bits.
            Self::Scale(percent) => percent.to_bits().hash(state),
            Self::Fill { width, height, closeness } => (width, height, closeness.percent()).hash(state),
            Self::Format(output) => (output.format, output.lossless).hash(state),
            Self::JpegQuality(quality) | Self::WebpQuality(quality) | Self::AvifQuality(quality) => quality.hash(state),
            Self::BackgroundColor(color) => color.hash(state),
        }
    }
}

/// Percentage, 0 to 100, between the largest crop and the one that shows the focal point alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closeness(u8);

impl Closeness {
    /// Clamps to 100, as Wagtail does.
    pub fn clamped(percent: u64) -> Self {
        Self(percent.min(100) as u8)
    }

    /// The percentage.
    pub fn percent(self) -> u8 {
        self.0
    }
}

/// An encoder's quality, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Quality(u8);

impl Quality {
    /// A quality, unless it is above 100.
    pub fn new(value: u64) -> Option<Self> {
        (value <= 100).then_some(Self(value as u8))
    }

    /// The value, 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl From<Quality> for u8 {
    fn from(quality: Quality) -> Self {
        quality.0
    }
}

impl TryFrom<u8> for Quality {
    type Error = &'static str;

    fn try_from(value: u8) -> Result<Self, Self::Error> {
        Self::new(value.into()).ok_or("a quality is a number from 0 to 100")
    }
}

/// What `format-` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputFormat {
    /// The format; one that renditions can be written in.
    pub format: ImageFormat,
    /// `-lossless`, which only WebP and AVIF know; elsewhere it is dropped.
    pub lossless: bool,
}

/// A colour, 8 bits a channel, sRGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rgb {
    pub red: u8,
    pub green: u8,
    pub blue: u8,
}

impl Rgb {
    /// What shows through where a format has no transparency and the spec names no colour.
    pub const WHITE: Self = Self { red: 255, green: 255, blue: 255 };
}
