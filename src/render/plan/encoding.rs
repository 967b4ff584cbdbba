//! Which format, and with which settings.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Defaults, PlanError};
use crate::{
    model::{Animation, ImageFormat, Size, SourceFacts},
    spec::{Accepted, FilterSpec, Operation, OutputFormat, Quality},
};

/// The output format with every effective setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "format")]
#[allow(missing_docs)] // named after the format; fields after the encoder's settings
pub enum Encoding {
    Jpeg {
        quality: Quality,
        progressive: bool,
        rgb: bool,
    },
    Png,
    Gif,
    Ico,
    Webp {
        quality: Quality,
    },
    WebpLossless,
    Avif {
        quality: Quality,
    },
    AvifLossless,
    /// Rewritten, not drawn.
    Svg,
}

impl Encoding {
    /// The format written.
    pub fn format(self) -> ImageFormat {
        match self {
            Self::Jpeg { .. } => ImageFormat::Jpeg,
            Self::Png => ImageFormat::Png,
            Self::Gif => ImageFormat::Gif,
            Self::Ico => ImageFormat::Ico,
            Self::Webp { .. } | Self::WebpLossless => ImageFormat::Webp,
            Self::Avif { .. } | Self::AvifLossless => ImageFormat::Avif,
            Self::Svg => ImageFormat::Svg,
        }
    }

    /// Whether pixels come back as they went in.
    pub fn is_lossless(self) -> bool {
        matches!(self, Self::Png | Self::Ico | Self::WebpLossless | Self::AvifLossless | Self::Svg)
    }

    /// Whether it codes brightness and colour differences, these at half the resolution.
    pub fn takes_planes(self) -> bool {
        matches!(self, Self::Jpeg { rgb: false, .. } | Self::Webp { .. } | Self::Avif { .. })
    }

    /// Whether the format holds animations.
    pub fn can_move(self) -> bool {
        matches!(self, Self::Gif | Self::Webp { .. } | Self::WebpLossless)
    }

    /// Whether the format has transparency.
    pub fn has_alpha(self) -> bool {
        !matches!(self, Self::Jpeg { .. })
    }

    /// The longest side that the format's header can express: JPEG and GIF have 16 bits, WebP 14, AV1 16, PNG 31. An icon's entries
    /// end at 256, so a larger rendition is shrunk into them, as Pillow does.
    pub fn max_side(self) -> u32 {
        match self {
            Self::Jpeg { .. } => 65_500, // libjpeg's own bound, JPEG_MAX_DIMENSION
            Self::Gif => 65_535,
            Self::Avif { .. } | Self::AvifLossless => 32_768, // libavif, which browsers read by, ends there
            Self::Webp { .. } | Self::WebpLossless => 16_383,
            Self::Png | Self::Ico => i32::MAX as u32,
            Self::Svg => u32::MAX,
        }
    }
}

impl fmt::Display for Encoding {
    /// As a recipe has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jpeg { quality, progressive, rgb } => {
                write!(f, "jpeg q{}", quality.get())?;
                f.write_str(if *progressive { " progressive" } else { "" })?;
                f.write_str(if *rgb { " rgb" } else { "" })
            }
            Self::Png => f.write_str("png"),
            Self::Gif => f.write_str("gif"),
            Self::Ico => f.write_str("ico"),
            Self::Webp { quality } => write!(f, "webp q{}", quality.get()),
            Self::WebpLossless => f.write_str("webp lossless"),
            Self::Avif { quality } => write!(f, "avif q{}", quality.get()),
            Self::AvifLossless => f.write_str("avif lossless"),
            Self::Svg => f.write_str("svg"),
        }
    }
}

/// What a spec says about the format.
#[derive(Clone, Copy)]
enum Asked {
    Format(OutputFormat),
    Auto(Accepted),
}

/// The encodings that a spec leaves to choose from, the best first.
pub(super) struct Choice {
    better: Vec<Encoding>,
    /// What every client shows, or was asked for.
    last: Encoding,
}

impl Choice {
    fn only(last: Encoding) -> Self {
        Self { better: Vec::new(), last }
    }

    /// Whether a vector image stays one.
    pub fn is_vector(&self) -> bool {
        self.last == Encoding::Svg
    }

    /// The best encoding that can hold a rendition of this size; where none can, the last one.
    pub fn that_holds(&self, size: Size) -> Encoding {
        let side = size.width.max(size.height);
        self.better.iter().copied().find(|encoding| side <= encoding.max_side()).unwrap_or(self.last)
    }
}

/// The last `format-` wins, else the source's own format after the conversions; the last quality of that format wins, else
/// the config's.
pub(super) fn choose(facts: &SourceFacts, spec: &FilterSpec, defaults: &Defaults) -> Result<Choice, PlanError> {
    match facts.format {
        ImageFormat::Svg if !spec.needs_pixels() => return Ok(Choice::only(Encoding::Svg)),
        ImageFormat::Heic if !cfg!(feature = "heic") => return Err(PlanError::NoDecoder(facts.format)),
        ImageFormat::Jpeg
        | ImageFormat::Png
        | ImageFormat::Gif
        | ImageFormat::Webp
        | ImageFormat::Avif
        | ImageFormat::Heic
        | ImageFormat::Bmp
        | ImageFormat::Tiff
        | ImageFormat::Ico
        | ImageFormat::Svg => {}
    }
    let asked = super::last(spec, |operation| match operation {
        Operation::Format(output) => Some(Asked::Format(*output)),
        Operation::FormatAuto(accepted) => Some(Asked::Auto(*accepted)),
        _ => None,
    });
    let encode = |format| encoding(facts, spec, defaults, OutputFormat { format, lossless: false });
    match asked {
        Some(Asked::Format(output)) => encoding(facts, spec, defaults, output).map(Choice::only),
        Some(Asked::Auto(accepted)) => {
            let (better, last) = negotiated(facts, accepted, defaults);
            Ok(Choice { better: better.map(&encode).collect::<Result<_, _>>()?, last: encode(last)? })
        }
        None => encode(converted(facts, defaults)).map(Choice::only),
    }
}

/// A format with its settings.
fn encoding(
    facts: &SourceFacts,
    spec: &FilterSpec,
    defaults: &Defaults,
    output: OutputFormat,
) -> Result<Encoding, PlanError> {
    let quality = |pick: fn(&Operation) -> Option<Quality>, default| super::last(spec, pick).unwrap_or(default);
    Ok(match output.format {
        ImageFormat::Jpeg => Encoding::Jpeg {
            quality: quality(
                |operation| match operation {
                    Operation::JpegQuality(quality) => Some(*quality),
                    _ => None,
                },
                defaults.jpeg_quality,
            ),
            progressive: defaults.jpeg_progressive,
            // A JPEG pixel of four bytes is four inks.
            rgb: facts.format == ImageFormat::Jpeg && facts.bytes_per_pixel == 4,
        },
        ImageFormat::Png => Encoding::Png,
        ImageFormat::Gif => Encoding::Gif,
        ImageFormat::Ico => Encoding::Ico,
        ImageFormat::Webp if output.lossless => Encoding::WebpLossless,
        ImageFormat::Webp => Encoding::Webp {
            quality: quality(
                |operation| match operation {
                    Operation::WebpQuality(quality) => Some(*quality),
                    _ => None,
                },
                defaults.webp_quality,
            ),
        },
        ImageFormat::Avif if output.lossless => Encoding::AvifLossless,
        ImageFormat::Avif => Encoding::Avif {
            quality: quality(
                |operation| match operation {
                    Operation::AvifQuality(quality) => Some(*quality),
                    _ => None,
                },
                defaults.avif_quality,
            ),
        },
        other @ (ImageFormat::Heic | ImageFormat::Bmp | ImageFormat::Tiff | ImageFormat::Svg) => {
            return Err(PlanError::NoEncoder(other));
        }
    })
}

/// The format of a spec without `format-`: the source's own, unless it is to be converted. TIFF, on which Wagtail fails,
/// becomes PNG: no browser shows it, and PNG keeps its alpha and every pixel. A still GIF becomes PNG, as in Wagtail.
fn converted(facts: &SourceFacts, defaults: &Defaults) -> ImageFormat {
    match (defaults.conversions.get(&facts.format), facts.format) {
        (Some(to), _) => *to,
        (None, ImageFormat::Gif) if !moves(facts, defaults) => ImageFormat::Png,
        (None, ImageFormat::Tiff | ImageFormat::Svg) => ImageFormat::Png,
        (None, own) => own,
    }
}

/// `format-auto`: AVIF before WebP where the client shows them, and what every browser shows. An animation goes on moving.
fn negotiated(
    facts: &SourceFacts,
    accepted: Accepted,
    defaults: &Defaults,
) -> (impl Iterator<Item = ImageFormat>, ImageFormat) {
    let moves = moves(facts, defaults);
    let transparent = facts.bytes_per_pixel == 2 || (facts.bytes_per_pixel == 4 && facts.format != ImageFormat::Jpeg);
    let better = [(accepted.avif && !moves, ImageFormat::Avif), (accepted.webp, ImageFormat::Webp)];
    let last = match facts.format {
        _ if moves => ImageFormat::Gif,
        ImageFormat::Jpeg | ImageFormat::Heic => ImageFormat::Jpeg,
        ImageFormat::Png | ImageFormat::Gif | ImageFormat::Bmp | ImageFormat::Ico | ImageFormat::Svg => {
            ImageFormat::Png
        }
        ImageFormat::Webp | ImageFormat::Avif | ImageFormat::Tiff if transparent => ImageFormat::Png,
        ImageFormat::Webp | ImageFormat::Avif | ImageFormat::Tiff => ImageFormat::Jpeg,
    };
    (better.into_iter().filter_map(|(shows, format)| shows.then_some(format)), last)
}

/// Whether the source is an animation that may go on being one.
fn moves(facts: &SourceFacts, defaults: &Defaults) -> bool {
    defaults.animation == Animation::Keep
        && facts.frames > 1
        && matches!(facts.format, ImageFormat::Gif | ImageFormat::Webp)
}

/// How many frames a rendition has: all of an animation's where the format can hold them, else the first.
pub(super) fn frames(facts: &SourceFacts, encoding: Encoding, defaults: &Defaults) -> u32 {
    if moves(facts, defaults) && encoding.can_move() { facts.frames } else { 1 }
}
