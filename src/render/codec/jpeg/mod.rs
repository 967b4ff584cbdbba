//! JPEG, by libjpeg-turbo.

mod header;
mod huffman;
mod means;
mod pieces;
mod progressive;
mod reduced;
mod scan;
#[cfg(test)]
mod trial;

use turbojpeg::{
    Colorspace, Compressor, Decompressor, Image, PixelFormat, ScalingFactor, Subsamp, YuvImage, YuvPlanesImage,
};

use header::{Header, ICC};
use reduced::Reduced;

use super::{MAX_PROFILE_BYTES, corrupt, encode_error, expect_size};
use crate::{
    model::{ImageFormat, Size, SourceFacts},
    render::{
        RenderError, exif,
        inspect::Colours,
        picture::{Layout, Picture, buffer_bytes},
        planes::{Planes, Range, Subsampled, with_last_again},
        source::ReadAt,
    },
    spec::Quality,
};

/// Scans of one file. Real progressive files have about ten; a 305 KB file with 8,000 empty ones costs 11 s of CPU.
const MAX_SCANS: u32 = 100;
/// Profile bytes in one APP2 segment: 65,533 less the heading.
const PROFILE_PART_BYTES: usize = 65_533 - ICC.len() - 2;
/// The reduction at which a block is one sample.
pub const MEANS: u8 = 8;
const END_OF_IMAGE: &[u8] = b"\xFF\xD9";

/// Reads the header.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let header = Header::read(source)?;
    Ok(SourceFacts {
        format: ImageFormat::Jpeg,
        stored_size: header.size,
        orientation: header.exif.map(exif::orientation).unwrap_or_default(),
        frames: 1,
        bytes_per_pixel: layout(&header)?.bytes() as u8,
        progressive: header.several_scans,
        document: None,
    })
}

/// What the frame header says.
pub fn stored_colours(source: &[u8]) -> Option<(Colours, u8)> {
    let header = Header::read(source).ok()?;
    let colours = match header.components {
        1 => Colours::Gray,
        4 => Colours::Cmyk,
        _ => Colours::Rgb,
    };
    Some((colours, header.precision))
}

/// Decodes to `1/reduction` of the size.
pub fn decode(source: &[u8], stored_size: Size, reduction: u8) -> Result<Picture, RenderError> {
    let header = Header::read(source)?;
    expect_size(header.size, stored_size)?;
    let layout = layout(&header)?;
    let (factor, size) = reduced(stored_size, reduction);
    let mut picture = Picture::blank(size, layout);
    mending(source, |source| decompress(source, factor, &mut picture))?;
    if layout == Layout::Cmyk8 && header.adobe {
        picture.pixels.iter_mut().for_each(|ink| *ink = 255 - *ink);
    }
    picture.profile = header.profile();
    Ok(picture)
}

/// As [`decode`], the planes as they are coded, and those at `also`, other reductions that can be had with it. `None` of what is not
/// coded in brightness and colour differences.
pub fn decode_planes(
    source: &[u8],
    stored_size: Size,
    reduction: u8,
    also: &[u8],
) -> Result<Option<Vec<(u8, Planes)>>, RenderError> {
    let Some(coded) = Coded::read(source, stored_size)? else { return Ok(None) };
    if !also.is_empty() && !coded.header.progressive {
        let all: Vec<u8> = std::iter::once(reduction).chain(also.iter().copied()).collect();
        let wanted: Vec<Reduced> = all.iter().map(|&reduction| coded.reduced(reduction)).collect();
        if let Some(samples) = reduced::decode(source, coded.sampling(), &wanted) {
            let planes = |(reduction, samples)| (reduction, coded.planes(reduction, samples));
            return Ok(Some(all.into_iter().zip(samples).map(planes).collect()));
        }
    }
    let means = if reduction == MEANS { coded.means(source, source) } else { None };
    let samples = match means {
        Some(samples) => samples,
        None => planes_of_libjpeg(source, stored_size, reduction, coded.subsamp)?,
    };
    Ok(Some(vec![(reduction, coded.planes(reduction, samples))]))
}

/// As [`decode_planes`], at the reduction of [`MEANS`], without having the file in memory. `None` too where that cannot be done.
pub fn decode_planes_in_pieces<S: ReadAt + ?Sized>(head: &[u8], source: &S, stored_size: Size) -> Option<Planes> {
    let coded = Coded::read(head, stored_size).ok()??;
    let samples = if coded.header.progressive { None } else { coded.means(head, source) };
    Some(coded.planes(MEANS, samples?))
}

/// A file in planes of brightness and colour differences.
struct Coded<'a> {
    header: Header<'a>,
    stored_size: Size,
    subsamp: Subsamp,
    subsampling: (u8, u8),
}

impl<'a> Coded<'a> {
    /// From the beginning of a file, up to the first scan at least. `None` of what is coded otherwise.
    fn read(head: &'a [u8], stored_size: Size) -> Result<Option<Self>, RenderError> {
        let header = Header::read(head)?;
        expect_size(header.size, stored_size)?;
        if layout(&header)? != Layout::Rgb8 {
            return Ok(None);
        }
        let damaged = |error| corrupt(ImageFormat::Jpeg, error);
        let found = Decompressor::new().and_then(|mut it| it.read_header(head)).map_err(damaged)?;
        let subsampling = subsampling(found.subsamp).filter(|_| found.colorspace == Colorspace::YCbCr);
        Ok(subsampling.map(|subsampling| Self { header, stored_size, subsamp: found.subsamp, subsampling }))
    }

    fn sampling(&self) -> (u32, u32) {
        (self.subsampling.0.into(), self.subsampling.1.into())
    }

    fn reduced(&self, reduction: u8) -> Reduced {
        let (luma, chroma) = plane_sizes(reduced(self.stored_size, reduction).1, self.subsamp);
        Reduced { reduction, luma, chroma }
    }

    /// The samples at the reduction of [`MEANS`]. Of a progressive file, `source` has to be in `head` whole.
    fn means<S: ReadAt + ?Sized>(&self, head: &[u8], source: &S) -> Option<Vec<u8>> {
        let Reduced { luma, chroma, .. } = self.reduced(MEANS);
        match self.header.progressive {
            false => means::decode(head, source, self.sampling(), luma, chroma),
            true => progressive::decode(head, self.sampling(), luma, chroma),
        }
    }

    fn planes(&self, reduction: u8, samples: Vec<u8>) -> Planes {
        let Reduced { luma, chroma, .. } = self.reduced(reduction);
        let (_, size) = reduced(self.stored_size, reduction);
        let (subsampling, profile) = (self.subsampling, self.header.profile());
        Planes { size, luma, chroma, subsampling, samples, range: Range::Full, profile }
    }
}

/// Pixels that one colour difference stands for, across and down; `None` of what is hardly ever met.
pub(super) fn subsampling(of: Subsamp) -> Option<(u8, u8)> {
    match of {
        Subsamp::None => Some((1, 1)),
        Subsamp::Sub2x1 => Some((2, 1)),
        Subsamp::Sub1x2 => Some((1, 2)),
        Subsamp::Sub2x2 => Some((2, 2)),
        _ => None,
    }
}

/// The planes of brightness and of each colour difference as they lie in memory.
fn plane_sizes(size: Size, subsamp: Subsamp) -> (Size, Size) {
    let (width, height) = (size.width as usize, size.height as usize);
    let image = YuvImage { pixels: (), width, align: 1, height, subsamp };
    let plane = |(width, height): (usize, usize)| Size::new(width as u32, height as u32);
    (plane(image.y_size()), plane(image.uv_size()))
}

/// The samples of all planes, one behind the other.
pub(super) fn planes_of_libjpeg(
    source: &[u8],
    stored_size: Size,
    reduction: u8,
    subsamp: Subsamp,
) -> Result<Vec<u8>, RenderError> {
    let (factor, size) = reduced(stored_size, reduction);
    let (luma, chroma) = plane_sizes(size, subsamp);
    let mut samples = vec![0; (luma.pixels() + 2 * chroma.pixels()) as usize];
    let (width, height) = (size.width as usize, size.height as usize);
    mending(source, |source| {
        let pixels = &mut samples[..];
        decompressor(factor)?.decompress_to_yuv(source, YuvImage { pixels, width, align: 1, height, subsamp })
    })?;
    Ok(samples)
}

/// Many a file lacks nothing but its last two bytes. With those put back, whatever else is missing is still complained
/// about.
fn mending(source: &[u8], mut decode: impl FnMut(&[u8]) -> turbojpeg::Result<()>) -> Result<(), RenderError> {
    match decode(source) {
        Ok(()) => Ok(()),
        Err(complaint) if only_extraneous_bytes(&complaint, source) => Ok(()),
        Err(_) if !source.ends_with(END_OF_IMAGE) => {
            let mended = [source, END_OF_IMAGE].concat();
            decode(&mended).map_err(|error| corrupt(ImageFormat::Jpeg, error))
        }
        Err(error) => Err(corrupt(ImageFormat::Jpeg, error)),
    }
}

fn reduced(size: Size, reduction: u8) -> (ScalingFactor, Size) {
    let factor = ScalingFactor::new(1, reduction.max(1).into());
    (factor, Size::new(factor.scale(size.width as usize) as u32, factor.scale(size.height as usize) as u32))
}

/// Encodes with libjpeg's standard tables at a quality, 4:2:0, and Huffman codes made for the picture, as Wagtail does.
///
/// With `rgb`, for sources in CMYK, red, green and blue are coded as they are, each by the luma table and none subsampled.
/// Wagtail keeps the four inks, each by that table, which browsers show in colours of their own choice; of what every
/// browser shows alike, YCbCr is 8.2 dB (4:2:0) and 4.2 dB (4:4:4) below Wagtail's picture, and only this is not below.
pub fn encode(picture: Picture, quality: Quality, progressive: bool, rgb: bool) -> Result<Vec<u8>, RenderError> {
    let picture = match picture.layout {
        Layout::Gray8 | Layout::Gray16 => picture.into_8_bits(),
        Layout::Rgb8 | Layout::Cmyk8 => picture.into_colour(),
        // The plan lays every JPEG on a background; alpha that still comes here is ignored.
        Layout::Rgba8 => picture.mapped(Layout::Rgb8, |[r, g, b, _]: [u8; 4]| [r, g, b]),
        Layout::GrayAlpha8 => picture.mapped(Layout::Gray8, |[gray, _]: [u8; 2]| [gray]),
    };
    let bytes =
        compress(&picture, quality, progressive, rgb).map_err(|error| encode_error(ImageFormat::Jpeg, error))?;
    Ok(match picture.usable_profile() {
        Some(profile) => with_profile(&bytes, profile),
        None => bytes,
    })
}

/// As [`encode`], of what is in planes already.
pub fn encode_planes(picture: Subsampled, quality: Quality, progressive: bool) -> Result<Vec<u8>, RenderError> {
    let mut picture = picture.in_range(Range::Full);
    let Size { width, height } = picture.size();
    let [luma, blue, red] = &mut picture.planes;
    // libjpeg reads as much brightness as the colour differences stand for.
    let luma = with_last_again(std::mem::take(&mut luma.pixels), luma.stride(), width % 2 == 1, height % 2 == 1);
    let compress = || {
        let mut compressor = compressor(quality, progressive)?;
        compressor.compress_yuv_planes_to_vec(&YuvPlanesImage {
            y_plane: &luma[..],
            u_plane: &blue.pixels[..],
            v_plane: &red.pixels[..],
            width: width as usize,
            height: height as usize,
            y_stride: (width as usize).next_multiple_of(2),
            u_stride: blue.stride(),
            v_stride: red.stride(),
            subsamp: Subsamp::Sub2x2,
        })
    };
    let bytes = compress().map_err(|error: turbojpeg::Error| encode_error(ImageFormat::Jpeg, error))?;
    Ok(match picture.usable_profile() {
        Some(profile) => with_profile(&bytes, profile),
        None => bytes,
    })
}

fn layout(header: &Header<'_>) -> Result<Layout, RenderError> {
    let unsupported = |detail: String| RenderError::Unsupported { format: ImageFormat::Jpeg, detail };
    match (header.components, header.precision, header.lossless) {
        (1, 8, false) => Ok(Layout::Gray8),
        (3, 8, false) => Ok(Layout::Rgb8),
        (4, 8, false) => Ok(Layout::Cmyk8),
        (_, 8, true) => Err(unsupported("lossless coding".into())),
        (components, 8, false) => Err(unsupported(format!("{components} components"))),
        (_, bits, _) => Err(unsupported(format!("{bits} bits a sample"))),
    }
}

fn pixel_format(layout: Layout) -> PixelFormat {
    match layout {
        Layout::Gray8 => PixelFormat::GRAY,
        Layout::Cmyk8 => PixelFormat::CMYK,
        Layout::Rgb8 | Layout::Rgba8 | Layout::GrayAlpha8 | Layout::Gray16 => PixelFormat::RGB,
    }
}

fn decompressor(factor: ScalingFactor) -> turbojpeg::Result<Decompressor> {
    let mut decompressor = Decompressor::new()?;
    decompressor.set_scan_limit(MAX_SCANS)?;
    decompressor.set_scaling_factor(factor)?;
    Ok(decompressor)
}

/// Accurate DCT and smooth upsampling are TurboJPEG's defaults, and Pillow's. A warning is an error here.
fn decompress(source: &[u8], factor: ScalingFactor, picture: &mut Picture) -> turbojpeg::Result<()> {
    let mut decompressor = decompressor(factor)?;
    let (width, height) = (picture.size.width as usize, picture.size.height as usize);
    let (pitch, format) = (picture.stride(), pixel_format(picture.layout));
    decompressor.read_header(source)?;
    decompressor.decompress(source, Image { pixels: &mut picture.pixels[..], width, pitch, height, format })
}

/// libjpeg warns of bytes between segments, which many a camera leaves there; the picture is whole. It reports its first
/// warning only, so that the end of the image has to be looked for apart.
fn only_extraneous_bytes(complaint: &turbojpeg::Error, source: &[u8]) -> bool {
    complaint.to_string().contains("extraneous bytes before marker") && source.ends_with(END_OF_IMAGE)
}

fn compressor(quality: Quality, progressive: bool) -> turbojpeg::Result<Compressor> {
    let mut compressor = Compressor::new()?;
    compressor.set_quality(quality.get().max(1).into())?; // libjpeg's scale begins at 1, and takes 0 for it
    compressor.set_optimize(true)?;
    compressor.set_progressive(progressive)?;
    Ok(compressor)
}

fn compress(picture: &Picture, quality: Quality, progressive: bool, rgb: bool) -> turbojpeg::Result<Vec<u8>> {
    let gray = picture.layout == Layout::Gray8;
    let mut compressor = compressor(quality, progressive)?;
    compressor.set_subsamp(if gray { Subsamp::Gray } else { Subsamp::Sub2x2 })?;
    if rgb && !gray {
        compressor.set_subsamp(Subsamp::None)?;
        compressor.set_colorspace(Colorspace::RGB)?;
    }
    debug_assert_eq!(picture.pixels.len(), buffer_bytes(picture.size, picture.layout));
    compressor.compress_to_vec(Image {
        pixels: &picture.pixels[..],
        width: picture.size.width as usize,
        pitch: picture.stride(),
        height: picture.size.height as usize,
        format: pixel_format(picture.layout),
    })
}

/// Puts APP2 segments after the JFIF one.
fn with_profile(jpeg: &[u8], profile: &[u8]) -> Vec<u8> {
    let after_jfif = match jpeg {
        [_, _, 0xFF, 0xE0, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => 2,
    };
    let (before, after) = jpeg.split_at(after_jfif.min(jpeg.len()));
    let parts = profile.chunks(PROFILE_PART_BYTES);
    let total = parts.len() as u8; // at most 65 of them: a profile has up to 4 MiB
    let mut bytes = Vec::with_capacity(jpeg.len() + profile.len() + usize::from(total) * (ICC.len() + 6));
    bytes.extend_from_slice(before);
    for (number, part) in (1..=total).zip(parts) {
        bytes.extend_from_slice(&[0xFF, 0xE2]);
        bytes.extend_from_slice(&((2 + ICC.len() + 2 + part.len()) as u16).to_be_bytes());
        bytes.extend_from_slice(ICC);
        bytes.extend_from_slice(&[number, total]);
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(after);
    bytes
}
