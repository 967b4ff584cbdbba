//! The whole filter spec solved as numbers, before a pixel is touched.
//!
//! A [`Plan`] is all that a worker needs beside the two descriptors, and its canonical text ([`Plan::recipe`]) is what a
//! rendition is named after. [`solve`](solve()) has the geometry, [`Encoding`] the formats.

mod encoding;
mod memory;
mod solve;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use encoding::Encoding;
pub use memory::{MAX_WATERMARK_BYTES, MAX_WATERMARK_PIXELS};
pub use solve::{Solved, solve};

use crate::{
    model::{Animation, DocumentSize, FocalPoint, ImageFormat, Orientation, PixelRect, Place, Size, SourceFacts},
    render::look::{Findings, Look},
    spec::{FilterSpec, Operation, Quality, Rgb, Sigma},
};

/// Counts up whenever the same plan would give other bytes, so that no stored name is ever reused for them.
pub const RENDERER_VERSION: u32 = 3;

/// The pixels of a band, see [`Plan::in_bands`]. Few enough to stay near the processor, and enough for the resizer's table
/// of weights, which is made for each band, not to count.
pub const BAND_BYTES: u64 = 4 << 20;

/// What the operator's config decides about a rendition whose spec is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// JPEG quality, 0 to 100.
    pub jpeg_quality: Quality,
    /// Whether JPEGs are written in progressive scans.
    pub jpeg_progressive: bool,
    /// WebP quality, 0 to 100.
    pub webp_quality: Quality,
    /// AVIF quality, 0 to 100.
    pub avif_quality: Quality,
    /// The format of a spec without `format-`, by the source's.
    pub conversions: BTreeMap<ImageFormat, ImageFormat>,
    /// What becomes of animations.
    pub animation: Animation,
    /// By the name that `watermark-NAME` has for them.
    pub watermarks: BTreeMap<String, Watermark>,
    /// JPEG sources of up to this many pixels are always decoded in full.
    pub full_decode_pixels: u64,
}

/// One step on the pixels of the resized picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // as the operations of the same names
pub enum Effect {
    Blur(Sigma),
    Sharpen(Sigma),
    Grayscale,
    Invert,
}

/// A canvas that the picture is laid into the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canvas {
    /// The rendition's size.
    pub size: Size,
    /// `None` is transparent.
    pub color: Option<Rgb>,
}

/// A picture laid on top of a rendition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// SHA-256 of its file, in hex: other contents are another rendition.
    pub digest: String,
    /// Where it stands.
    pub place: Place,
    /// How much of it is seen, 0 to 100.
    pub opacity_percent: u8,
    /// Its width, as a share of the rendition's.
    pub width_percent: u8,
    /// Its distance from the edges, as a share of the rendition's shorter side.
    pub margin_percent: u8,
}

/// One render, as numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What the probe found; a worker refuses a file that turns out otherwise.
    pub source: SourceFacts,
    /// The JPEG decoder's reduction, 1, 2, 4 or 8: it decodes to `1/n` of the size.
    pub decode_reduction: u8,
    /// Whether brightness and colour differences stay apart from decoder to encoder, if the source is coded so.
    pub in_planes: bool,
    /// How the stored pixels are turned: the source's own orientation and the spec's turns, as one.
    pub turn: Orientation,
    /// What to keep, in pixels of the turned source, within it.
    pub crop: PixelRect,
    /// The size to resample to.
    pub output_size: Size,
    /// Frames to write; 1 of a still.
    pub frames: u32,
    /// In this order, on the resampled picture.
    pub effects: Vec<Effect>,
    /// What to lay under transparent pixels; `None` keeps them.
    pub background: Option<Rgb>,
    /// What the picture is laid into.
    pub canvas: Option<Canvas>,
    /// What is laid on top.
    pub watermark: Option<Watermark>,
    /// Whether EXIF and XMP are taken along.
    pub keep_metadata: bool,
    /// The exact size of a rendition that is a vector image; `output_size` has whole pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentSize>,
    /// How to write it.
    pub encoding: Encoding,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The spec asks for a format that this build cannot write.
    #[error("this build cannot write {0}")]
    NoEncoder(ImageFormat),
    /// The source is in a format that this build cannot read.
    #[error("this build cannot read {0}")]
    NoDecoder(ImageFormat),
    /// A vector image: rasterising one is off.
    #[error("SVG sources are off")]
    Svg,
    /// No such section in the config.
    #[error("there is no such watermark")]
    NoWatermark,
    /// The pixels have to be looked at first.
    #[error("the source must be looked at first")]
    Unseen(Look),
    /// The crop lies outside the picture. Wagtail fails on these rows too.
    #[error("nothing of the picture is left after cropping")]
    EmptyCrop,
    /// A side beyond 2^32 - 1 pixels.
    #[error("the rendition would be larger than any format holds")]
    TooLarge,
}

impl Plan {
    /// Solves a filter spec for a source image whose pixels nobody has looked at.
    ///
    /// # Errors
    /// As [`Plan::seen`]; [`PlanError::Unseen`] for `trim` and `smart`.
    pub fn new(
        facts: &SourceFacts,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
        defaults: &Defaults,
    ) -> Result<Self, PlanError> {
        Self::seen(facts, &Findings::default(), spec, focal_point, defaults)
    }

    /// Solves a filter spec for a source image, with what was found in its pixels.
    ///
    /// # Errors
    /// When the source's format cannot be read, the output's not written, no pixel would be left, the config has no such
    /// watermark, or a finding is missing.
    pub fn seen(
        facts: &SourceFacts,
        findings: &Findings,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
        defaults: &Defaults,
    ) -> Result<Self, PlanError> {
        let choice = encoding::choose(facts, spec, defaults)?;
        let is_vector = choice.is_vector();
        let vector_spec = is_vector.then(|| spec.for_vectors());
        let spec = vector_spec.as_ref().unwrap_or(spec);
        let found = |look: Look| findings.of(look).ok_or(PlanError::Unseen(look));
        let content = Look::trim(spec).map(found).transpose()?;
        let focal_point = match Look::interest(spec, focal_point) {
            Some(look) => Some(FocalPoint::of(found(look)?)),
            None => focal_point,
        };
        let size = facts.document.unwrap_or(facts.upright_size().into());
        let Solved { turn, crop, output_size, document, canvas } = solve(size, content, spec, focal_point)?;
        let encoding = choice.that_holds(canvas.unwrap_or(output_size));
        let opaque_only = (!encoding.has_alpha()).then_some(Rgb::WHITE);
        let canvas = canvas.map(|size| Canvas { size, color: canvas_color(spec).or(opaque_only) });
        let turn = facts.orientation.then(turn);
        let frames = encoding::frames(facts, encoding, defaults);
        let effects = effects(spec);
        let watermark = watermark(spec, defaults)?;
        // Where something is to be done in red, green and blue, they have to be made.
        let untouched = frames == 1 && effects.is_empty() && canvas.is_none() && watermark.is_none();
        let need_not_match = may_be_approximated(facts, encoding, defaults);
        Ok(Self {
            decode_reduction: decode_reduction(facts, crop, output_size, need_not_match),
            in_planes: need_not_match && untouched && has_planes(facts, turn, output_size, encoding),
            turn,
            crop,
            output_size,
            frames,
            effects,
            background: background(spec).or(opaque_only),
            canvas,
            watermark,
            keep_metadata: spec.operations().contains(&Operation::KeepMeta),
            document: is_vector.then_some(document),
            encoding,
            source: facts.clone(),
        })
    }

    /// The plan that decodes a whole source in full and changes nothing.
    pub fn whole(source: SourceFacts, encoding: Encoding) -> Self {
        let size = source.upright_size();
        Self {
            decode_reduction: 1,
            in_planes: false,
            turn: source.orientation,
            crop: PixelRect::whole(size),
            output_size: size,
            frames: 1,
            effects: Vec::new(),
            background: None,
            canvas: None,
            watermark: None,
            keep_metadata: false,
            document: None,
            encoding,
            source,
        }
    }

    /// The rendition's size.
    pub fn rendition_size(&self) -> Size {
        self.canvas.map_or(self.output_size, |canvas| canvas.size)
    }

    /// The canonical text of everything in the plan that decides the bytes.
    pub fn recipe(&self) -> String {
        let PixelRect { left, top, right, bottom } = self.crop;
        let Size { width, height } = self.output_size;
        let mut text = format!(
            "renderer {RENDERER_VERSION}: {} /{} o{} crop {left},{top},{right},{bottom} to {width}x{height}",
            self.source.format,
            self.decode_reduction,
            self.turn.to_exif(),
        );
        let mut add = |part: String| {
            text.push(' ');
            text.push_str(&part);
        };
        if self.in_planes {
            add("in planes".into());
        }
        for effect in &self.effects {
            add(match effect {
                Effect::Blur(sigma) => format!("blur {}", sigma.pixels()),
                Effect::Sharpen(sigma) => format!("sharpen {}", sigma.pixels()),
                Effect::Grayscale => "gray".into(),
                Effect::Invert => "invert".into(),
            });
        }
        if let Some(color) = self.background {
            add(format!("on {color}"));
        }
        if let Some(Canvas { size, color }) = self.canvas {
            let color = color.map_or("nothing".into(), |color| color.to_string());
            add(format!("in {}x{} of {color}", size.width, size.height));
        }
        if let Some(Watermark { digest, place, opacity_percent, width_percent, margin_percent }) = &self.watermark {
            add(format!("under {digest} {place:?} {opacity_percent} {width_percent} {margin_percent}"));
        }
        if self.keep_metadata {
            add("with metadata".into());
        }
        if self.frames > 1 {
            add(format!("{} frames", self.frames));
        }
        if let Some(DocumentSize { width, height }) = self.document {
            add(format!("exactly {width}x{height}"));
        }
        add(format!("as {}", self.encoding));
        text
    }

    /// Whether the source comes from its decoder in bands of rows that are resized one by one, so that it is never in memory
    /// whole. Rows come first in such a resize; where Wagtail's pixels are to be matched, they have to.
    pub fn in_bands(&self) -> bool {
        let rows_first = !self.turn.swaps_sides() || !self.has_exact_order();
        self.source.format == ImageFormat::Png
            && !self.source.progressive
            && self.crop.size() != self.output_size
            && self.source.stored_size.pixels() * u64::from(self.source.bytes_per_pixel) > 2 * BAND_BYTES
            && rows_first
    }

    /// Whether the source can be read in pieces too.
    pub fn reads_in_pieces(&self) -> bool {
        self.in_bands() && self.frames == 1 && !self.keep_metadata
    }

    /// Whether the two passes of a resize are made in Wagtail's order: along the upright picture's rows first. Above a size,
    /// and for lossy outputs, the faster order is taken: it differs only where an overshoot is clipped, by less than the
    /// coding does.
    pub fn has_exact_order(&self) -> bool {
        const EXACT_ORDER_PIXELS: u64 = 2_000_000;
        self.encoding.is_lossless() || self.crop.size().pixels() <= EXACT_ORDER_PIXELS
    }

    /// Whether one pass over the source can decode it to another reduction beside the plan's: of a JPEG in one scan, both
    /// reduced.
    pub fn decodes_along(&self, reduction: u8) -> bool {
        let is_reduced = |reduction: u8| matches!(reduction, 2 | 4 | 8);
        self.source.format == ImageFormat::Jpeg
            && !self.source.progressive
            && is_reduced(self.decode_reduction)
            && is_reduced(reduction)
    }

    /// The size that the decoder gives, before turning upright.
    pub fn decoded_size(&self) -> Size {
        let n = u32::from(self.decode_reduction);
        Size::new(self.source.stored_size.width.div_ceil(n), self.source.stored_size.height.div_ceil(n))
    }
}

/// The first background colour makes the picture opaque; later ones find nothing to shine through.
fn background(spec: &FilterSpec) -> Option<Rgb> {
    spec.operations().iter().find_map(|operation| match operation {
        Operation::BackgroundColor(color) => Some(*color),
        _ => None,
    })
}

/// The canvas's own colour, else the background.
fn canvas_color(spec: &FilterSpec) -> Option<Rgb> {
    let pad = last(spec, |operation| match operation {
        Operation::Pad { color, .. } => *color,
        _ => None,
    });
    pad.or_else(|| background(spec))
}

/// The steps on pixels in the order written. A blur and an unsharp mask reach further on a denser screen.
fn effects(spec: &FilterSpec) -> Vec<Effect> {
    let dpr = solve::dpr(spec);
    let effect = |operation: &Operation| match operation {
        Operation::Blur(sigma) => Some(Effect::Blur(sigma.times(dpr))),
        Operation::Sharpen(sigma) => Some(Effect::Sharpen(sigma.times(dpr))),
        Operation::Grayscale => Some(Effect::Grayscale),
        Operation::Invert => Some(Effect::Invert),
        _ => None,
    };
    spec.operations().iter().filter_map(effect).collect()
}

/// The last watermark named.
fn watermark(spec: &FilterSpec, defaults: &Defaults) -> Result<Option<Watermark>, PlanError> {
    let name = last(spec, |operation| match operation {
        Operation::Watermark(name) => Some(name.clone()),
        _ => None,
    });
    let Some(name) = name else { return Ok(None) };
    defaults.watermarks.get(name.as_str()).cloned().map(Some).ok_or(PlanError::NoWatermark)
}

fn last<T>(spec: &FilterSpec, pick: impl Fn(&Operation) -> Option<T>) -> Option<T> {
    spec.operations().iter().rev().find_map(pick)
}

/// Whether a rendition only has to look like what a full decode gives, rather than match it: lossy outputs of large sources.
fn may_be_approximated(facts: &SourceFacts, encoding: Encoding, defaults: &Defaults) -> bool {
    !encoding.is_lossless() && facts.stored_size.pixels() > defaults.full_decode_pixels
}

/// How far the JPEG decoder may reduce: the bounds are where sharp's are, for what is asked is not to be below it on the same
/// target (FIGURES, quality). The means are sharpened again ([`super::resample::undo_means`]), which it does not do.
/// `tests/bench/run cold` measures both as luma against a full decode.
fn decode_reduction(facts: &SourceFacts, crop: PixelRect, output: Size, need_not_match: bool) -> u8 {
    if facts.format != ImageFormat::Jpeg || !need_not_match {
        return 1;
    }
    let crop = crop.size();
    let leaves_enough = |n: u8| {
        let times = u64::from(n) + 1;
        u64::from(crop.width) >= u64::from(output.width) * times
            && u64::from(crop.height) >= u64::from(output.height) * times
    };
    [8, 4, 2].into_iter().find(|&n| leaves_enough(n)).unwrap_or(1)
}

/// Whether source and output may both be in planes of brightness and colour differences. The last difference of an odd row
/// reaches over the edge, so that only even sides can be turned.
fn has_planes(facts: &SourceFacts, turn: Orientation, output: Size, encoding: Encoding) -> bool {
    const OPAQUE_COLOUR: u8 = 3;
    let coded_so = matches!(facts.format, ImageFormat::Jpeg | ImageFormat::Webp | ImageFormat::Avif);
    let turns = turn == Orientation::Upright || (output.width.is_multiple_of(2) && output.height.is_multiple_of(2));
    coded_so && facts.bytes_per_pixel == OPAQUE_COLOUR && turns && encoding.takes_planes()
}
