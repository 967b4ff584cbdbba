//! The table of formats: which module reads and writes what.
//!
//! A new format is a module with `probe`, `decode`, `encode` (or some of them) and a line in each function below; the
//! compiler asks for the lines.

use super::{
    RenderError,
    inspect::Colours,
    picture::Picture,
    plan::{Encoding, Plan},
    planes::{Planes, Subsampled},
    source::{ReadAt, Window},
    svg,
};
use crate::model::{ImageFormat, PixelRect, Size, SourceFacts, format::SNIFF_BYTES};

#[forbid(unsafe_code)]
pub mod animation;
mod avif;
#[forbid(unsafe_code)]
mod avif_file;
#[forbid(unsafe_code)]
mod bmp;
#[forbid(unsafe_code)]
pub mod ending;
#[forbid(unsafe_code)]
mod gif;
#[forbid(unsafe_code)]
mod gif_motion;
#[cfg(feature = "heic")]
mod heic;
#[forbid(unsafe_code)]
mod ico;
#[forbid(unsafe_code)]
mod jpeg;
#[forbid(unsafe_code)]
mod palette;
#[forbid(unsafe_code)]
mod png;
#[forbid(unsafe_code)]
mod tiff;
mod webp;
#[forbid(unsafe_code)]
mod webp_motion;

/// Longest ICC profile that is carried along. The largest in use, for print, have about 2 MiB.
const MAX_PROFILE_BYTES: usize = 4 << 20;

/// What the header of nearly every JPEG ends within: EXIF with its preview has up to 64 KiB, a profile for screens less.
const JPEG_HEADER_BYTES: usize = 128 << 10;

/// The C libraries that can be asked for their version.
pub fn library_versions() -> Vec<(&'static str, String)> {
    vec![("libwebp", webp::version()), ("libavif", avif::version())]
}

/// Reads a source's header.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    match detect(source)? {
        ImageFormat::Jpeg => jpeg::probe(source),
        ImageFormat::Png => png::probe(source),
        ImageFormat::Webp => webp::probe(source),
        ImageFormat::Gif => gif::probe(source),
        ImageFormat::Bmp => bmp::probe(source),
        ImageFormat::Tiff => tiff::probe(source),
        ImageFormat::Ico => ico::probe(source),
        ImageFormat::Avif => avif::probe(source),
        #[cfg(feature = "heic")]
        ImageFormat::Heic => heic::probe(source),
        #[cfg(not(feature = "heic"))]
        ImageFormat::Heic => Err(no_decoder(ImageFormat::Heic)),
        ImageFormat::Svg => svg::probe(source),
    }
}

/// As [`probe`], where the header can be read without the rest. `None`: the file has to be read whole.
pub fn probe_in_pieces<S: ReadAt + ?Sized>(source: &S) -> Result<Option<SourceFacts>, RenderError> {
    match ImageFormat::detect(&head(source, SNIFF_BYTES)) {
        Some(ImageFormat::Png) => png::probe(source).map(Some),
        // Its header ends at the first scan, and nothing behind that is looked at: found in a part, it is that of the whole.
        Some(ImageFormat::Jpeg) => Ok(jpeg::probe(&head(source, JPEG_HEADER_BYTES)).ok()),
        _ => Ok(None),
    }
}

/// How colours are stored, and bits of a sample, where that is not what decoding ends in.
pub fn stored_colours(source: &[u8], format: ImageFormat) -> Option<(Colours, u8)> {
    match format {
        ImageFormat::Jpeg => jpeg::stored_colours(source),
        ImageFormat::Png => png::stored_colours(source),
        ImageFormat::Tiff => tiff::stored_colours(source),
        ImageFormat::Avif => avif_file::depth(source).map(|bits| (Colours::Rgb, bits)),
        ImageFormat::Gif
        | ImageFormat::Webp
        | ImageFormat::Heic
        | ImageFormat::Bmp
        | ImageFormat::Ico
        | ImageFormat::Svg => None,
    }
}

/// Decodes the source's first picture, as stored, at the plan's reduction. Its size is checked against the plan before
/// anything of that size is allocated.
pub fn decode(source: &[u8], plan: &Plan) -> Result<Picture, RenderError> {
    let format = expect_format(source, plan)?;
    let stored_size = plan.source.stored_size;
    let picture = match format {
        ImageFormat::Jpeg => jpeg::decode(source, stored_size, plan.decode_reduction)?,
        ImageFormat::Png => png::decode(source, stored_size)?,
        ImageFormat::Webp => webp::decode(source, stored_size)?,
        ImageFormat::Gif => gif::decode(source, stored_size)?,
        ImageFormat::Bmp => bmp::decode(source, stored_size)?,
        ImageFormat::Tiff => tiff::decode(source, stored_size)?,
        ImageFormat::Ico => ico::decode(source, stored_size)?,
        ImageFormat::Avif => avif::decode(source, stored_size)?,
        #[cfg(feature = "heic")]
        ImageFormat::Heic => heic::decode(source, stored_size)?,
        #[cfg(not(feature = "heic"))]
        ImageFormat::Heic => return Err(no_decoder(format)),
        // For a look at it: renditions are drawn at their own size.
        ImageFormat::Svg => svg::draw(source, plan, PixelRect::whole(stored_size), stored_size)?,
    };
    if picture.size == plan.decoded_size() { Ok(picture) } else { Err(RenderError::Changed) }
}

/// As [`decode`], of a plan that is [`Plan::in_bands`]: hands over bands of rows, and returns the profile.
pub fn decode_bands<S: ReadAt + ?Sized>(
    source: &S,
    plan: &Plan,
    take: impl FnMut(Picture) -> Result<(), RenderError>,
) -> Result<Option<Vec<u8>>, RenderError> {
    match expect_format(&head(source, SNIFF_BYTES), plan)? {
        ImageFormat::Png => png::decode_bands(source, plan.source.stored_size, take),
        _ => Err(RenderError::Changed),
    }
}

/// As [`decode`], in the planes that the file is coded in; `None` where there are none that could be handed on. Behind those of the
/// plan's reduction come those of the ones in `also` that can be had with it.
pub fn decode_planes(source: &[u8], plan: &Plan, also: &[u8]) -> Result<Option<Vec<(u8, Planes)>>, RenderError> {
    let format = expect_format(source, plan)?;
    let (stored_size, reduction) = (plan.source.stored_size, plan.decode_reduction);
    let alone = |planes: Option<Planes>| planes.map(|planes| vec![(reduction, planes)]);
    let planes = match format {
        ImageFormat::Jpeg => jpeg::decode_planes(source, stored_size, reduction, also)?,
        ImageFormat::Webp => alone(webp::decode_planes(source, stored_size)?),
        ImageFormat::Avif => alone(avif::decode_planes(source, stored_size)?),
        _ => None,
    };
    match planes.as_deref() {
        Some([(_, first), ..]) if first.size != plan.decoded_size() => Err(RenderError::Changed),
        _ => Ok(planes),
    }
}

/// As [`decode_planes`], at the plan's reduction, without having the file in memory. `None` too where that cannot be done.
pub fn decode_planes_in_pieces<S: ReadAt + ?Sized>(source: &S, plan: &Plan) -> Option<Planes> {
    // Of what cannot be had so, not even the header is read.
    if plan.source.format != ImageFormat::Jpeg || plan.source.progressive || plan.decode_reduction != jpeg::MEANS {
        return None;
    }
    let head = head(source, JPEG_HEADER_BYTES);
    expect_format(&head, plan).ok()?;
    jpeg::decode_planes_in_pieces(&head, source, plan.source.stored_size)
        .filter(|planes| planes.size == plan.decoded_size())
}

/// As [`encode`], of a picture in planes, for the encodings that [`Encoding::takes_planes`] says.
pub fn encode_planes(picture: Subsampled, encoding: Encoding) -> Result<Vec<u8>, RenderError> {
    match encoding {
        Encoding::Jpeg { quality, progressive, rgb: false } => jpeg::encode_planes(picture, quality, progressive),
        Encoding::Webp { quality } => webp::encode_planes(picture, quality),
        Encoding::Avif { quality } => avif::encode_planes(picture, quality),
        other => Err(encode_error(other.format(), "it is not written from planes")),
    }
}

/// Encodes a picture. Nothing of the source but its pixels and profile is in the result.
pub fn encode(picture: Picture, encoding: Encoding) -> Result<Vec<u8>, RenderError> {
    match encoding {
        Encoding::Jpeg { quality, progressive, rgb } => jpeg::encode(picture, quality, progressive, rgb),
        Encoding::Png => png::encode(picture),
        Encoding::Gif => gif::encode(picture),
        Encoding::Ico => ico::encode(picture),
        Encoding::Webp { quality } => webp::encode(picture, webp::Mode::Lossy(quality)),
        Encoding::WebpLossless => webp::encode(picture, webp::Mode::Lossless),
        Encoding::Avif { quality } => avif::encode(picture, avif::Mode::Lossy(quality)),
        Encoding::AvifLossless => avif::encode(picture, avif::Mode::Lossless),
        Encoding::Svg => Err(encode_error(ImageFormat::Svg, "a picture cannot become a drawing")),
    }
}

/// The first bytes.
fn head<S: ReadAt + ?Sized>(source: &S, count: usize) -> Vec<u8> {
    // Whoever cannot read them fails at the next attempt, with a reason.
    Window::new(source).get(0, count).map(<[u8]>::to_vec).unwrap_or_default()
}

fn detect(source: &[u8]) -> Result<ImageFormat, RenderError> {
    ImageFormat::detect(&source[..source.len().min(SNIFF_BYTES)]).ok_or(RenderError::NotAnImage)
}

fn no_decoder(format: ImageFormat) -> RenderError {
    RenderError::Unsupported { format, detail: "this build has no decoder for the format".into() }
}

pub(super) fn corrupt(format: ImageFormat, detail: impl ToString) -> RenderError {
    RenderError::Corrupt { format, detail: detail.to_string() }
}

fn encode_error(format: ImageFormat, detail: impl ToString) -> RenderError {
    RenderError::Encode { format, detail: detail.to_string() }
}

/// The file must be of the format that the plan was made for.
fn expect_format(source: &[u8], plan: &Plan) -> Result<ImageFormat, RenderError> {
    let format = detect(source)?;
    if format == plan.source.format { Ok(format) } else { Err(RenderError::Changed) }
}

/// The file must be of the size that the plan was made for.
fn expect_size(found: Size, expected: Size) -> Result<(), RenderError> {
    if found == expected { Ok(()) } else { Err(RenderError::Changed) }
}
