//! One variant for each operation of the grammar.

use serde::{Deserialize, Serialize};

use crate::model::{ImageFormat, Orientation};

/// One step of a filter spec. Lengths are in pixels and clamped to 2^53 - 1, which no image reaches.
#[derive(Clone, Debug, PartialEq)]
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
    /// `format-auto`: the best format that the client says it shows.
    FormatAuto(Accepted),
    /// `rotate-90`, `rotate-180`, `rotate-270` (clockwise), `flip-h` (left to right), `flip-v` (top to bottom).
    Turn(Turn),
    /// `crop-X,Y,W,H`: this rectangle of the picture so far.
    Crop {
        /// From the left edge.
        left: u64,
        /// From the top edge.
        top: u64,
        /// At least 1.
        width: u64,
        /// At least 1.
        height: u64,
    },
    /// `pad-WxH[-RGB]`: down until it fits, then in the middle of a canvas of exactly this size.
    Pad {
        /// Canvas width, at least 1.
        width: u64,
        /// Canvas height, at least 1.
        height: u64,
        /// The canvas's colour; `None` is transparent, or the background where the format has no transparency.
        color: Option<Rgb>,
    },
    /// `trim-T`: the border of the source that differs by at most T of 255 from its corner is cut off, before all else.
    Trim(u8),
    /// `smart`: where there is no focal point, one is looked for in the picture.
    Smart,
    /// `blur-S`: a Gaussian of this standard deviation, in pixels of the rendition.
    Blur(Sigma),
    /// `sharpen-S`: an unsharp mask of this standard deviation, in pixels of the rendition.
    Sharpen(Sigma),
    /// `grayscale`: brightness alone.
    Grayscale,
    /// `invert`: the negative; transparency stays.
    Invert,
    /// `watermark-NAME`: a picture from the config on top.
    Watermark(WatermarkName),
    /// `dpr-N`: all lengths are N times as long, for a screen with N pixels to the CSS pixel.
    Dpr(Dpr),
    /// `keep-meta`: EXIF and XMP stay, where the format can hold them.
    KeepMeta,
}

impl Operation {
    /// Whether it turns, cuts or sizes the picture. `trim` does not count: it comes before all others wherever it stands.
    pub fn decides_size(&self) -> bool {
        match self {
            Self::Width(_)
            | Self::Height(_)
            | Self::Max(..)
            | Self::Min(..)
            | Self::Scale(_)
            | Self::Fill { .. }
            | Self::Turn(_)
            | Self::Crop { .. }
            | Self::Pad { .. } => true,
            Self::Original
            | Self::Format(_)
            | Self::JpegQuality(_)
            | Self::WebpQuality(_)
            | Self::AvifQuality(_)
            | Self::BackgroundColor(_)
            | Self::PreserveSvg
            | Self::FormatAuto(_)
            | Self::Trim(_)
            | Self::Smart
            | Self::Blur(_)
            | Self::Sharpen(_)
            | Self::Grayscale
            | Self::Invert
            | Self::Watermark(_)
            | Self::Dpr(_)
            | Self::KeepMeta => false,
        }
    }
}

/// What an operation means for a vector image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnVectors {
    /// It cuts or sizes it as it does a picture.
    Sizes,
    /// It can only be done to pixels.
    NeedsPixels,
    /// Nothing.
    Nothing,
}

impl Operation {
    /// What it means for a vector image.
    pub(super) fn on_vectors(&self) -> OnVectors {
        match self {
            Self::Original
            | Self::Width(_)
            | Self::Height(_)
            | Self::Max(..)
            | Self::Min(..)
            | Self::Scale(_)
            | Self::Fill { .. }
            | Self::Crop { .. }
            | Self::Dpr(_) => OnVectors::Sizes,
            Self::Format(_)
            | Self::BackgroundColor(_)
            | Self::Turn(_)
            | Self::Pad { .. }
            | Self::Trim(_)
            | Self::Smart
            | Self::Blur(_)
            | Self::Sharpen(_)
            | Self::Grayscale
            | Self::Invert
            | Self::Watermark(_) => OnVectors::NeedsPixels,
            Self::FormatAuto(_)
            | Self::JpegQuality(_)
            | Self::WebpQuality(_)
            | Self::AvifQuality(_)
            | Self::PreserveSvg
            | Self::KeepMeta => OnVectors::Nothing,
        }
    }
}

impl std::hash::Hash for Operation {
    /// By hand, for doubles have no `Hash`; agrees with `PartialEq`.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Original | Self::PreserveSvg | Self::Smart | Self::Grayscale | Self::Invert | Self::KeepMeta => {}
            Self::Width(length) | Self::Height(length) => length.hash(state),
            Self::Max(width, height) | Self::Min(width, height) => (width, height).hash(state),
            // Finite and never negative, so equal numbers have equal bits.
            Self::Scale(percent) => percent.to_bits().hash(state),
            Self::Fill { width, height, closeness } => (width, height, closeness.percent()).hash(state),
            Self::Format(output) => (output.format, output.lossless).hash(state),
            Self::JpegQuality(quality) | Self::WebpQuality(quality) | Self::AvifQuality(quality) => quality.hash(state),
            Self::BackgroundColor(color) => color.hash(state),
            Self::FormatAuto(accepted) => accepted.hash(state),
            Self::Turn(turn) => turn.hash(state),
            Self::Crop { left, top, width, height } => (left, top, width, height).hash(state),
            Self::Pad { width, height, color } => (width, height, color).hash(state),
            Self::Trim(tolerance) => tolerance.hash(state),
            Self::Blur(sigma) | Self::Sharpen(sigma) => sigma.hash(state),
            Self::Watermark(name) => name.hash(state),
            Self::Dpr(dpr) => dpr.hash(state),
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

/// A turn or a mirroring of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// A quarter, clockwise.
    Rotate90,
    /// Half a turn.
    Rotate180,
    /// A quarter, counter-clockwise.
    Rotate270,
    /// Left becomes right.
    FlipHorizontal,
    /// Top becomes bottom.
    FlipVertical,
}

impl Turn {
    /// All of them, by the text in a spec.
    pub const NAMES: [(&str, Self); 5] = [
        ("rotate-90", Self::Rotate90),
        ("rotate-180", Self::Rotate180),
        ("rotate-270", Self::Rotate270),
        ("flip-h", Self::FlipHorizontal),
        ("flip-v", Self::FlipVertical),
    ];

    /// The orientation whose pixels this turn puts upright.
    pub fn orientation(self) -> Orientation {
        match self {
            Self::Rotate90 => Orientation::Rotate90,
            Self::Rotate180 => Orientation::Rotate180,
            Self::Rotate270 => Orientation::Rotate270,
            Self::FlipHorizontal => Orientation::FlipHorizontal,
            Self::FlipVertical => Orientation::FlipVertical,
        }
    }
}

/// Which of the formats that not every client shows this one says it shows. None until a request is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// `image/avif`.
    pub avif: bool,
    /// `image/webp`.
    pub webp: bool,
}

/// A standard deviation in hundredths of a pixel, 0.3 to 100 pixels: less does nothing, more is one colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Sigma(u32);

impl Sigma {
    const HUNDREDTHS: std::ops::RangeInclusive<u32> = 30..=10_000;

    /// A deviation in pixels, rounded to hundredths; `None` outside the range.
    pub fn new(pixels: f64) -> Option<Self> {
        Self::try_from((pixels * 100.0).round() as u32).ok()
    }

    /// In pixels.
    pub fn pixels(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The deviation on a denser screen, within the range.
    pub fn times(self, dpr: Dpr) -> Self {
        let longest = *Self::HUNDREDTHS.end();
        Self(((f64::from(self.0) * dpr.factor()).round() as u32).min(longest))
    }
}

impl From<Sigma> for u32 {
    fn from(sigma: Sigma) -> Self {
        sigma.0
    }
}

impl TryFrom<u32> for Sigma {
    type Error = &'static str;

    fn try_from(hundredths: u32) -> Result<Self, Self::Error> {
        if Self::HUNDREDTHS.contains(&hundredths) {
            Ok(Self(hundredths))
        } else {
            Err("a deviation is 0.3 to 100 pixels")
        }
    }
}

/// Device pixels to a CSS pixel, 1 to 8 in steps of a hundredth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dpr(u32);

impl Dpr {
    /// An ordinary screen.
    pub const ONE: Self = Self(100);

    /// A ratio, rounded to hundredths; `None` outside the range.
    pub fn new(ratio: f64) -> Option<Self> {
        let hundredths = (ratio * 100.0).round() as u32;
        (100..=800).contains(&hundredths).then_some(Self(hundredths))
    }

    /// The ratio.
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// A length in device pixels, rounded down.
    pub fn times(self, length: u64) -> u64 {
        (u128::from(length) * u128::from(self.0) / 100) as u64
    }
}

/// The name of a section `[watermarks.NAME]`: letters, digits, `_` and `-`, at most 64.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatermarkName(Box<str>);

impl WatermarkName {
    /// A name, unless it is empty, too long or holds another character.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        fits.then(|| Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
