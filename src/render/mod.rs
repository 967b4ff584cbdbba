//! Bytes and a plan to bytes. Plain synchronous functions without a runtime; everything that touches pixels runs inside a
//! render worker, and nothing here may be called by the gate but [`plan`] and [`limits`], which are arithmetic.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use codec::animation::{Frame, Frames, Moving};
use metadata::Metadata;
use picture::Picture;
use planes::Planes;
use source::ReadAt;

use crate::model::{ImageFormat, SourceFacts};

#[cfg(test)]
mod animation_tests;
#[forbid(unsafe_code)]
mod background;
#[forbid(unsafe_code)]
mod canvas;
mod codec;
#[forbid(unsafe_code)]
mod color;
#[forbid(unsafe_code)]
mod effect;
#[forbid(unsafe_code)]
mod exif;
#[forbid(unsafe_code)]
pub mod inspect;
#[forbid(unsafe_code)]
pub mod limits;
#[forbid(unsafe_code)]
pub mod look;
#[forbid(unsafe_code)]
mod metadata;
#[forbid(unsafe_code)]
mod orient;
#[forbid(unsafe_code)]
mod picture;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
mod planes;
#[forbid(unsafe_code)]
mod resample;
#[forbid(unsafe_code)]
pub mod source;
#[forbid(unsafe_code)]
mod svg;
#[cfg(test)]
mod tests;
#[forbid(unsafe_code)]
mod verify;

pub use inspect::{Inspection, inspect};
pub use look::look;
pub use plan::Plan;
pub use verify::verify;

/// A rendition's bytes, and what they cost.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The encoded file.
    pub bytes: Vec<u8>,
    /// How long each stage took.
    pub times: StageTimes,
}

/// How long the stages of a render took, on the worker's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// From bytes to pixels.
    pub decode: Duration,
    /// Cropping, resizing, turning upright, laying on a background.
    pub resample: Duration,
    /// From pixels to bytes.
    pub encode: Duration,
}

/// Why there is no rendition. It crosses the process border, so causes are texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RenderError {
    /// No format known here begins like that.
    #[error("the file is not an image")]
    NotAnImage,
    /// An image, but of a format or a kind that this build does not read.
    #[error("cannot read this {format} file: {detail}")]
    Unsupported {
        /// What the magic bytes say.
        format: ImageFormat,
        /// What about it is not supported.
        detail: String,
    },
    /// Damaged, truncated or hostile: no picture is made from half a file.
    #[error("the {format} file is damaged: {detail}")]
    Corrupt {
        /// What the magic bytes say.
        format: ImageFormat,
        /// What the decoder said.
        detail: String,
    },
    /// The file is not the one that was probed: its format or size differs from the plan's.
    #[error("the source image changed while it was being rendered")]
    Changed,
    /// The watermark's file cannot be used.
    #[error("the watermark cannot be used: {detail}")]
    Watermark {
        /// What is wrong with it.
        detail: String,
    },
    /// The resizer refused. A bug if it happens: a plan is checked before.
    #[error("cannot resize: {detail}")]
    Resample {
        /// What the resizer said.
        detail: String,
    },
    /// The encoder refused.
    #[error("cannot write {format}: {detail}")]
    Encode {
        /// The format of the rendition.
        format: ImageFormat,
        /// What the encoder said.
        detail: String,
    },
}

impl RenderError {
    /// The same with its detail, if it has one, put through `change`.
    pub(crate) fn with_detail(mut self, change: impl FnOnce(&str) -> String) -> Self {
        match &mut self {
            Self::NotAnImage | Self::Changed => {}
            Self::Unsupported { detail, .. }
            | Self::Corrupt { detail, .. }
            | Self::Watermark { detail }
            | Self::Resample { detail }
            | Self::Encode { detail, .. } => *detail = change(detail),
        }
        self
    }
}

/// Reads a source's header: numbers only, no pixel is allocated. Bounded by one walk over the file's chunks.
///
/// # Errors
/// [`RenderError::NotAnImage`], [`RenderError::Unsupported`] or [`RenderError::Corrupt`].
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    codec::probe(source)
}

/// As [`probe`], of a file whose format lets its header be read without the rest. `None`: of another format.
///
/// # Errors
/// As [`probe`]; also when the file cannot be read, which is what its [`ReadAt`] knows.
pub fn probe_in_pieces<S: ReadAt + ?Sized>(source: &S) -> Result<Option<SourceFacts>, RenderError> {
    codec::probe_in_pieces(source)
}

/// The C libraries that decode and encode, with the versions that they give themselves.
pub fn library_versions() -> Vec<(&'static str, String)> {
    codec::library_versions()
}

/// Makes a rendition of a plan without a watermark; see [`render_marked`].
///
/// # Errors
/// As [`render_marked`].
pub fn render(source: &[u8], plan: &Plan) -> Result<Rendered, RenderError> {
    render_marked(source, None, plan)
}

/// Makes a rendition: the plan's crop of the source, resized, turned, with its effects, on its background and canvas, under
/// its watermark, in its format. `mark` is the watermark's file, where the plan has one.
///
/// # Errors
/// When the source or the watermark cannot be decoded, the source is not what the plan was made for, or the encoder refuses.
pub fn render_marked(source: &[u8], mark: Option<&[u8]>, plan: &Plan) -> Result<Rendered, RenderError> {
    let finish = Finish::new(plan, mark)?;
    let mut rendered = match plan.encoding {
        plan::Encoding::Svg => return vector(source, plan),
        _ if plan.frames > 1 => animation(source, &finish)?,
        _ => match render_shareable(source, plan, &[])? {
            Some((rendered, _)) => rendered,
            None => still(source, &finish)?,
        },
    };
    if plan.keep_metadata {
        let metadata = Metadata::read(source, plan.source.format);
        rendered.bytes = metadata.write(rendered.bytes, plan.encoding.format());
    }
    Ok(rendered)
}

/// As [`render_marked`], of a plan that [reads in pieces](Plan::reads_in_pieces): the file is never in memory whole.
///
/// # Errors
/// As [`render_marked`]; also when the file cannot be read, which is what its [`ReadAt`] knows.
pub fn render_in_pieces<S: ReadAt + ?Sized>(
    source: &S,
    mark: Option<&[u8]>,
    plan: &Plan,
) -> Result<Rendered, RenderError> {
    match plan.reads_in_pieces() {
        true => in_bands(source, &Finish::new(plan, mark)?),
        false => Err(RenderError::Changed),
    }
}

fn still(source: &[u8], finish: &Finish<'_>) -> Result<Rendered, RenderError> {
    let mut stages = Stages::start();
    let plan = finish.plan;
    let cut = plan.cut_as_stored()?;
    if plan.in_bands() {
        return in_bands(source, finish);
    }
    if plan.source.format == ImageFormat::Svg {
        // Drawn at the size that is asked for: nothing is left to resize.
        let drawn = svg::draw(source, plan, cut.crop, cut.output)?;
        let decode = stages.lap();
        return finish.encoded(drawn, stages, decode, Duration::ZERO);
    }
    let mut decoded = codec::decode(source, plan)?;
    let decode = stages.lap();
    if cut.reduction > 1 {
        resample::undo_means(&mut decoded.pixels, decoded.size, decoded.layout.bytes());
    }
    finish.encoded(resample::resize(decoded, cut)?, stages, decode, Duration::ZERO)
}

/// Of a plan that is [`Plan::in_bands`]: resizes while it decodes.
fn in_bands<S: ReadAt + ?Sized>(source: &S, finish: &Finish<'_>) -> Result<Rendered, RenderError> {
    let mut stages = Stages::start();
    let plan = finish.plan;
    let mut bands = resample::Bands::new(plan.cut_as_stored()?, plan.source.stored_size)?;
    let mut resizing = Duration::ZERO;
    let profile = codec::decode_bands(source, plan, |band| {
        let began = Instant::now();
        let added = bands.add(band);
        resizing += began.elapsed();
        added
    })?;
    let decode = stages.lap().saturating_sub(resizing);
    finish.encoded(bands.finish(profile)?, stages, decode, resizing)
}

/// Makes a rendition without red, green and blue, where the plan has nothing for them and the source is coded so; and what
/// it was made of, for others. `None` where it is not. `also` are other reductions to decode to: one that cannot be had is
/// left out.
///
/// # Errors
/// As [`render_marked`].
pub fn render_shareable(source: &[u8], plan: &Plan, also: &[u8]) -> Result<Option<(Rendered, Shareable)>, RenderError> {
    let mut stages = Stages::start();
    let decoded = Shareable::decode(source, plan, also)?;
    let decode = stages.lap();
    decoded.map(|decoded| decoded.first(plan, decode)).transpose()
}

/// As [`render_shareable`], of a file that is never in memory whole. `None` too where it has to be.
///
/// # Errors
/// As [`render_shareable`], but for a source that cannot be decoded: that is `None`. So is one that cannot be read, which is what
/// its [`ReadAt`] knows.
pub fn render_shareable_in_pieces<S: ReadAt + ?Sized>(
    source: &S,
    plan: &Plan,
) -> Result<Option<(Rendered, Shareable)>, RenderError> {
    let mut stages = Stages::start();
    let planes = if plan.in_planes { codec::decode_planes_in_pieces(source, plan) } else { None };
    let decoded = planes.map(|planes| Shareable::of(vec![(plan.decode_reduction, planes)]));
    let decode = stages.lap();
    decoded.map(|decoded| decoded.first(plan, decode)).transpose()
}

/// A decoded source that any number of renditions can be made of: those of plans `in_planes` with one of its reductions.
#[derive(Debug)]
pub struct Shareable(Vec<(u8, Planes)>);

impl Shareable {
    /// Decodes a source to the plan's reduction, and to those of `also` that it can be decoded to. `None` where the plan or
    /// the source is for red, green and blue.
    ///
    /// # Errors
    /// When the source cannot be decoded to the plan's reduction or is not what the plan was made for.
    fn decode(source: &[u8], plan: &Plan, also: &[u8]) -> Result<Option<Self>, RenderError> {
        if !plan.in_planes {
            return Ok(None);
        }
        let mut beside = Vec::with_capacity(also.len());
        for &reduction in also {
            if plan.decodes_along(reduction) && reduction != plan.decode_reduction && !beside.contains(&reduction) {
                beside.push(reduction);
            }
        }
        Ok(codec::decode_planes(source, plan, &beside)?.map(Self::of))
    }

    /// Of planes as they are decoded, with the reductions that they are decoded to.
    fn of(mut decoded: Vec<(u8, Planes)>) -> Self {
        for (_, planes) in decoded.iter_mut().filter(|(reduction, _)| *reduction > 1) {
            planes.undo_means();
        }
        Self(decoded)
    }

    /// The rendition that it was decoded for, and itself.
    fn first(mut self, plan: &Plan, decode: Duration) -> Result<(Rendered, Self), RenderError> {
        let mut rendered = self.render(plan)?;
        rendered.times.decode = decode;
        Ok((rendered, self))
    }

    /// Whether it holds the source at this reduction.
    pub fn has(&self, reduction: u8) -> bool {
        self.reductions().any(|held| held == reduction)
    }

    /// The reductions that it holds the source at.
    pub fn reductions(&self) -> impl Iterator<Item = u8> {
        self.0.iter().map(|(reduction, _)| *reduction)
    }

    /// Gives back all but these reductions.
    pub fn keep(&mut self, reductions: impl Fn(u8) -> bool) {
        self.0.retain(|(reduction, _)| reductions(*reduction));
    }

    /// Makes one rendition. Its times are without the decode.
    ///
    /// # Errors
    /// When the plan is for none of these decodes, or the encoder refuses.
    pub fn render(&mut self, plan: &Plan) -> Result<Rendered, RenderError> {
        let mut stages = Stages::start();
        let held = self.0.iter_mut().find(|(reduction, _)| *reduction == plan.decode_reduction);
        let planes = match held {
            Some((_, planes)) if plan.in_planes && planes.size == plan.decoded_size() => planes,
            _ => return Err(RenderError::Changed),
        };
        let picture = planes.resized(plan.cut_as_stored()?)?.upright(plan.turn);
        let resample = stages.lap();
        let bytes = codec::encode_planes(picture, plan.encoding)?;
        Ok(Rendered { bytes, times: StageTimes { resample, encode: stages.lap(), ..StageTimes::default() } })
    }
}

/// No pixel at all.
fn vector(source: &[u8], plan: &Plan) -> Result<Rendered, RenderError> {
    let mut stages = Stages::start();
    let bytes = svg::rewrite(source, plan)?;
    Ok(Rendered { bytes, times: StageTimes { encode: stages.lap(), ..StageTimes::default() } })
}

/// The same frame by frame, none of which outlives its turn.
fn animation(source: &[u8], finish: &Finish<'_>) -> Result<Rendered, RenderError> {
    let mut stages = Stages::start();
    let mut times = StageTimes::default();
    let plan = finish.plan;
    let cut = plan.cut_as_stored()?;
    let mut frames = Frames::open(source, plan)?;
    let mut moving = Moving::new(plan.rendition_size(), frames.plays(), plan.encoding, plan.most_animation_bytes())?;
    while let Some(Frame { picture, delay }) = frames.next()? {
        times.decode += stages.lap();
        let picture = finish.apply(resample::resize(picture, cut)?)?;
        times.resample += stages.lap();
        moving.add(Frame { picture, delay })?;
        times.encode += stages.lap();
    }
    let bytes = moving.finish()?;
    times.encode += stages.lap();
    Ok(Rendered { bytes, times })
}

/// What happens to a picture, or to each frame of an animation, between the resizer and the encoder.
struct Finish<'a> {
    plan: &'a Plan,
    mark: Option<canvas::Mark>,
}

impl<'a> Finish<'a> {
    fn new(plan: &'a Plan, mark: Option<&[u8]>) -> Result<Self, RenderError> {
        let prepared = |how| canvas::Mark::new(decode_mark(mark)?, plan.rendition_size(), how);
        Ok(Self { plan, mark: plan.watermark.as_ref().map(prepared).transpose()? })
    }

    /// Applies it and encodes, with what the stages took before.
    fn encoded(
        &self,
        resized: Picture,
        mut stages: Stages,
        decode: Duration,
        resizing: Duration,
    ) -> Result<Rendered, RenderError> {
        let picture = self.apply(resized)?;
        let resample = stages.lap() + resizing;
        let bytes = codec::encode(picture, self.plan.encoding)?;
        Ok(Rendered { bytes, times: StageTimes { decode, resample, encode: stages.lap() } })
    }

    fn apply(&self, resized: Picture) -> Result<Picture, RenderError> {
        let plan = self.plan;
        let upright = color::for_output(orient::turn_upright(resized, plan.turn), plan.encoding);
        let mut picture = effect::apply(upright, &plan.effects)?;
        if let Some(color) = plan.background {
            picture = background::lay_on(picture, color);
        }
        if let Some(canvas) = plan.canvas {
            picture = canvas::pad(picture, canvas);
        }
        Ok(match &self.mark {
            Some(mark) => mark.lay_on(picture),
            None => picture,
        })
    }
}

/// The watermark's picture, upright. It comes from the operator, and is bounded all the same.
fn decode_mark(file: Option<&[u8]>) -> Result<Picture, RenderError> {
    let refused = |detail: String| RenderError::Watermark { detail };
    let file = file.ok_or_else(|| refused("its file is missing".into()))?;
    let facts = probe(file).map_err(|error| refused(error.to_string()))?;
    if facts.stored_size.pixels() > plan::MAX_WATERMARK_PIXELS {
        return Err(refused(format!("it has more than {} pixels", plan::MAX_WATERMARK_PIXELS)));
    }
    let orientation = facts.orientation;
    let plan = Plan::whole(facts, plan::Encoding::Png);
    let picture = codec::decode(file, &plan).map_err(|error| refused(error.to_string()))?;
    Ok(orient::turn_upright(picture, orientation).into_colour())
}

impl Plan {
    /// Crop and size as the pixels are stored, for only the small result is turned upright.
    ///
    /// A plan from [`Plan::new`] always has a crop within the picture; one that came through a broken pipe may not.
    fn cut_as_stored(&self) -> Result<resample::Cut, RenderError> {
        let (crop, facts) = (self.crop, &self.source);
        let size = self.turn.upright(facts.stored_size);
        let within = crop.left < crop.right
            && crop.top < crop.bottom
            && crop.right <= size.width
            && crop.bottom <= size.height
            && self.output_size.pixels() > 0
            && self.decode_reduction > 0;
        if !within {
            return Err(RenderError::Changed);
        }
        let horizontal = self.in_bands() || (self.has_exact_order() && !self.turn.swaps_sides());
        Ok(resample::Cut {
            crop: orient::rect_as_stored(crop, self.turn, facts.stored_size),
            reduction: self.decode_reduction,
            output: self.turn.upright(self.output_size),
            first: if horizontal { resample::Axis::Horizontal } else { resample::Axis::Vertical },
        })
    }
}

/// A stopwatch for the stages.
struct Stages(Instant);

impl Stages {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
