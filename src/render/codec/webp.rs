//! WebP, by libwebp. The one file of this room with `unsafe` in it: a decode call and an encode call into C, each wrapped
//! in a safe function; the container around the bitstream is read and written here, in safe code.

use libwebp_sys as ffi;

use super::{MAX_PROFILE_BYTES, animation::Plays, corrupt, encode_error, expect_size};
use crate::{
    model::{ImageFormat, Size, SourceFacts},
    render::{
        RenderError, exif,
        picture::{Layout, Picture},
        planes::{Planes, Range, Subsampled},
    },
    spec::Quality,
};

/// How to write the bitstream.
#[derive(Clone, Copy)]
pub enum Mode {
    /// VP8, at a quality.
    Lossy(Quality),
    /// VP8L.
    Lossless,
}

/// libwebp's default trade of time against size, and Pillow's.
const METHOD: i32 = 4;
/// In lossless mode the quality is an effort; Wagtail passes its default of 80 there too.
const LOSSLESS_EFFORT: f32 = 80.0;
/// VP8X flags (RFC 9649, 2.7).
pub(super) const HAS_PROFILE: u8 = 0x20;
pub(super) const HAS_ALPHA: u8 = 0x10;

/// libwebp's version.
pub fn version() -> String {
    // SAFETY: it takes nothing and returns a constant.
    let packed = unsafe { ffi::WebPGetDecoderVersion() };
    format!("{}.{}.{}", packed >> 16 & 0xFF, packed >> 8 & 0xFF, packed & 0xFF)
}

/// Reads the container's chunks and the first bitstream's header.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let file = Container::read(source)?;
    Ok(SourceFacts {
        format: ImageFormat::Webp,
        stored_size: file.canvas,
        orientation: file.exif.map(exif::orientation).unwrap_or_default(),
        frames: file.frames,
        bytes_per_pixel: file.layout.bytes().max(file.moving_layout.bytes()) as u8,
        progressive: false,
        document: None,
    })
}

/// Decodes the picture; of an animation, the first frame on its canvas.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    let file = Container::read(source)?;
    expect_size(file.canvas, stored_size)?;
    let mut picture = Picture::blank(stored_size, file.layout);
    draw(&mut picture, &file.first)?;
    picture.profile = file.usable_profile();
    Ok(picture)
}

/// As [`decode`], the planes as they are coded. `None` of what is coded losslessly, has alpha or moves.
pub fn decode_planes(source: &[u8], stored_size: Size) -> Result<Option<Planes>, RenderError> {
    const LOSSY: i32 = 1;
    let file = Container::read(source)?;
    expect_size(file.canvas, stored_size)?;
    if file.frames != 1 || file.layout != Layout::Rgb8 || features(source)?.format != LOSSY {
        return Ok(None);
    }
    let chroma = Size::new(stored_size.width.div_ceil(2), stored_size.height.div_ceil(2));
    let mut samples = vec![0; (stored_size.pixels() + 2 * chroma.pixels()) as usize];
    decode_planes_into(source, &mut samples, stored_size, chroma)
        .map_err(|status| corrupt(ImageFormat::Webp, format!("{status:?}")))?;
    let profile = file.usable_profile();
    let (luma, subsampling, range) = (stored_size, (2, 2), Range::Limited);
    Ok(Some(Planes { size: stored_size, luma, chroma, subsampling, samples, range, profile }))
}

/// Decodes a frame into its place, over whatever is there.
pub(super) fn draw(canvas: &mut Picture, frame: &Frame<'_>) -> Result<(), RenderError> {
    let (stride, bytes) = (canvas.stride(), canvas.layout.bytes());
    let start = frame.top as usize * stride + frame.left as usize * bytes;
    decode_into(frame.bitstream, &mut canvas.pixels[start..], stride, frame.size, canvas.layout)
        .map_err(|status| corrupt(ImageFormat::Webp, format!("{status:?}")))
}

/// Encodes, with the profile where there is one.
pub fn encode(picture: Picture, mode: Mode) -> Result<Vec<u8>, RenderError> {
    let picture = picture.into_colour();
    let bytes = encode_bitstream(&picture, mode).map_err(|reason| encode_error(ImageFormat::Webp, reason))?;
    Ok(match picture.usable_profile() {
        Some(profile) => with_profile(&bytes, profile, picture.size, picture.layout.has_alpha()),
        None => bytes,
    })
}

/// As [`encode`], of what is in planes already.
pub fn encode_planes(picture: Subsampled, quality: Quality) -> Result<Vec<u8>, RenderError> {
    let picture = picture.in_range(Range::Limited);
    let (size, planes) = (picture.size(), picture.planes.each_ref().map(|plane| &plane.pixels[..]));
    let bytes = encode_with(size, Mode::Lossy(quality), |to| import_planes(to, size, planes))
        .map_err(|reason| encode_error(ImageFormat::Webp, reason))?;
    Ok(match picture.usable_profile() {
        Some(profile) => with_profile(&bytes, profile, size, false),
        None => bytes,
    })
}

/// What the chunks say.
pub(super) struct Container<'a> {
    pub canvas: Size,
    /// Of the first frame.
    pub layout: Layout,
    /// Of all frames: without alpha if none of them can show a hole.
    pub moving_layout: Layout,
    pub frames: u32,
    pub plays: Plays,
    pub first: Frame<'a>,
    profile: Option<&'a [u8]>,
    exif: Option<&'a [u8]>,
}

/// One picture within the canvas.
pub(super) struct Frame<'a> {
    pub left: u32,
    pub top: u32,
    pub size: Size,
    pub delay_ms: u32,
    pub has_alpha: bool,
    /// Whether it is laid over what is there, or replaces it.
    pub blends: bool,
    /// Whether its rectangle is cleared before the next frame.
    pub clears: bool,
    /// What libwebp is given: the whole file, or a frame's ALPH and VP8 chunks.
    pub bitstream: &'a [u8],
}

impl<'a> Container<'a> {
    pub fn read(source: &'a [u8]) -> Result<Self, RenderError> {
        let features = features(source)?;
        let canvas = Size::new(features.width as u32, features.height as u32);
        let (mut profile, mut exif, mut frames, mut first_frame) = (None, None, 0, None);
        let (mut plays, mut always_opaque) = (Plays::Times(1), true);
        for (kind, body) in file_chunks(source) {
            match kind {
                b"ICCP" => profile = profile.or(Some(body)),
                b"EXIF" => exif = exif.or(Some(body)),
                b"ANIM" => plays = plays_of(body).unwrap_or(plays),
                b"ANMF" => {
                    frames += 1;
                    first_frame = first_frame.or(Some(body));
                    always_opaque &= Frame::read(body, canvas)
                        .is_ok_and(|frame| !frame.has_alpha && !frame.clears && (frames > 1 || frame.size == canvas));
                }
                _ => {}
            }
        }
        let mut has_alpha = features.has_alpha != 0;
        let first = match (features.has_animation != 0, first_frame) {
            (false, _) => {
                (frames, always_opaque) = (1, !has_alpha);
                Frame::still(source, canvas)
            }
            (true, Some(body)) => {
                let frame = Frame::read(body, canvas)?;
                has_alpha |= frame.size != canvas;
                frame
            }
            (true, None) => return Err(corrupt(ImageFormat::Webp, "an animation without frames")),
        };
        let layout = |has_alpha| if has_alpha { Layout::Rgba8 } else { Layout::Rgb8 };
        let (layout, moving_layout) = (layout(has_alpha), layout(!always_opaque));
        Ok(Self { canvas, layout, moving_layout, frames, plays, first, profile, exif })
    }

    pub fn usable_profile(&self) -> Option<Vec<u8>> {
        self.profile.filter(|profile| profile.len() <= MAX_PROFILE_BYTES).map(<[u8]>::to_vec)
    }
}

impl<'a> Frame<'a> {
    fn still(file: &'a [u8], canvas: Size) -> Self {
        let (left, top, delay_ms) = (0, 0, 0);
        Self { left, top, size: canvas, delay_ms, has_alpha: false, blends: false, clears: false, bitstream: file }
    }

    /// Reads an ANMF chunk: position, size and duration in 24 bits each, flags, then the frame's own chunks.
    pub fn read(body: &'a [u8], canvas: Size) -> Result<Self, RenderError> {
        let damaged = |what| corrupt(ImageFormat::Webp, what);
        const HEADER_BYTES: usize = 16;
        let (header, bitstream) = body.split_at_checked(HEADER_BYTES).ok_or_else(|| damaged("a frame is cut off"))?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], 0]);
        let (left, top) = (2 * number(0), 2 * number(3));
        let size = Size::new(number(6) + 1, number(9) + 1);
        let found = features(bitstream)?;
        if left + size.width > canvas.width
            || top + size.height > canvas.height
            || (found.width as u32, found.height as u32) != (size.width, size.height)
        {
            return Err(damaged("a frame reaches over the canvas"));
        }
        let flags = header[15];
        Ok(Self {
            left,
            top,
            size,
            delay_ms: number(12),
            has_alpha: found.has_alpha != 0,
            blends: flags & 2 == 0,
            clears: flags & 1 != 0,
            bitstream,
        })
    }
}

/// ANIM: a background colour, which no browser shows, and how often to play.
fn plays_of(body: &[u8]) -> Option<Plays> {
    let &[_, _, _, _, low, high] = body.first_chunk()?;
    Some(match u16::from_le_bytes([low, high]) {
        0 => Plays::Forever,
        plays => Plays::Times(plays.into()),
    })
}

/// RIFF chunks: four letters, a length, a body padded to an even length. The last one may be cut off.
pub(super) struct Chunks<'a>(&'a [u8]);

/// The chunks of a whole file.
pub(super) fn file_chunks(file: &[u8]) -> Chunks<'_> {
    const HEADER_BYTES: usize = 12;
    Chunks(file.get(HEADER_BYTES..).unwrap_or_default())
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, after) = self.0.split_first_chunk::<4>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let body = &after[..length.min(after.len())];
        self.0 = after.get(length + length % 2..).unwrap_or_default();
        Some((kind, body))
    }
}

/// Rebuilds the file in its extended form, the profile before the picture (RFC 9649, 2.7).
fn with_profile(webp: &[u8], profile: &[u8], size: Size, has_alpha: bool) -> Vec<u8> {
    let flags = HAS_PROFILE | if has_alpha { HAS_ALPHA } else { 0 };
    let [width, height] = [size.width, size.height].map(|side| (side - 1).to_le_bytes());
    let extended = [&[flags, 0, 0, 0], &width[..3], &height[..3]].concat();
    let picture_chunks = file_chunks(webp).filter(|(kind, _)| *kind != b"VP8X");
    let mut bytes = Vec::with_capacity(webp.len() + profile.len() + 64);
    bytes.extend_from_slice(b"RIFF\0\0\0\0WEBP");
    for (kind, body) in [(b"VP8X", &extended[..]), (b"ICCP", profile)].into_iter().chain(picture_chunks) {
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
    }
    let length = (bytes.len() - 8) as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The first bitstream's header; both sides are at least 1.
fn features(data: &[u8]) -> Result<ffi::WebPBitstreamFeatures, RenderError> {
    let mut found =
        ffi::WebPBitstreamFeatures { width: 0, height: 0, has_alpha: 0, has_animation: 0, format: 0, pad: [0; 5] };
    // SAFETY: `data` is readable for its length and `found` is writable; neither is kept.
    let status = unsafe { ffi::WebPGetFeatures(data.as_ptr(), data.len(), &raw mut found) };
    match status {
        ffi::VP8StatusCode::VP8_STATUS_OK if found.width > 0 && found.height > 0 => Ok(found),
        status => Err(corrupt(ImageFormat::Webp, format!("{status:?}"))),
    }
}

/// Decodes a bitstream whose header says `size` into rows that begin `stride` bytes apart, with smooth upsampling.
fn decode_into(
    data: &[u8],
    pixels: &mut [u8],
    stride: usize,
    size: Size,
    layout: Layout,
) -> Result<(), ffi::VP8StatusCode> {
    use ffi::{VP8StatusCode, WEBP_CSP_MODE};
    let mut config = ffi::WebPDecoderConfig::new().map_err(|()| VP8StatusCode::VP8_STATUS_INVALID_PARAM)?;
    config.output.colorspace = match layout {
        Layout::Rgba8 => WEBP_CSP_MODE::MODE_RGBA,
        _ => WEBP_CSP_MODE::MODE_RGB,
    };
    // Never write past the rows that the slice holds, whatever the header said.
    let row = size.width as usize * layout.bytes();
    if pixels.len() < (size.height as usize - 1) * stride + row {
        return Err(VP8StatusCode::VP8_STATUS_INVALID_PARAM);
    }
    config.output.is_external_memory = 1;
    config.output.u.RGBA = ffi::WebPRGBABuffer { rgba: pixels.as_mut_ptr(), stride: stride as i32, size: pixels.len() };
    // SAFETY: `data` is readable for its length. The output buffer is `pixels`, with its true length, from which libwebp
    // checks that the picture fits (`CheckDecBuffer`) before it writes; both outlive the call and are not kept.
    let status = unsafe { ffi::WebPDecode(data.as_ptr(), data.len(), &raw mut config) };
    if status == VP8StatusCode::VP8_STATUS_OK { Ok(()) } else { Err(status) }
}

/// As [`decode_into`], into the planes of a lossy bitstream, one behind the other.
fn decode_planes_into(data: &[u8], samples: &mut [u8], size: Size, chroma: Size) -> Result<(), ffi::VP8StatusCode> {
    use ffi::VP8StatusCode::{VP8_STATUS_INVALID_PARAM, VP8_STATUS_OK};
    let mut config = ffi::WebPDecoderConfig::new().map_err(|()| VP8_STATUS_INVALID_PARAM)?;
    let (luma, differences) = samples.split_at_mut_checked(size.pixels() as usize).ok_or(VP8_STATUS_INVALID_PARAM)?;
    let (u, v) = differences.split_at_mut_checked(chroma.pixels() as usize).ok_or(VP8_STATUS_INVALID_PARAM)?;
    config.output.colorspace = ffi::WEBP_CSP_MODE::MODE_YUV;
    config.output.is_external_memory = 1;
    config.output.u.YUVA = ffi::WebPYUVABuffer {
        y: luma.as_mut_ptr(),
        y_stride: size.width as i32,
        y_size: luma.len(),
        u: u.as_mut_ptr(),
        u_stride: chroma.width as i32,
        u_size: u.len(),
        v: v.as_mut_ptr(),
        v_stride: chroma.width as i32,
        v_size: v.len(),
        a: std::ptr::null_mut(),
        a_stride: 0,
        a_size: 0,
    };
    // SAFETY: as in `decode_into`: three buffers with their true lengths, against which libwebp checks the picture's size.
    let status = unsafe { ffi::WebPDecode(data.as_ptr(), data.len(), &raw mut config) };
    if status == VP8_STATUS_OK { Ok(()) } else { Err(status) }
}

/// What libwebp allocates for an encode, freed however it ends.
struct Encoding {
    picture: ffi::WebPPicture,
    written: ffi::WebPMemoryWriter,
}

impl Drop for Encoding {
    fn drop(&mut self) {
        // SAFETY: both were initialised by libwebp and are freed once; freeing empty ones is allowed.
        unsafe {
            ffi::WebPPictureFree(&raw mut self.picture);
            ffi::WebPMemoryWriterClear(&raw mut self.written);
        }
    }
}

/// Encodes an RGB or RGBA picture.
pub(super) fn encode_bitstream(picture: &Picture, mode: Mode) -> Result<Vec<u8>, String> {
    let import = match picture.layout {
        Layout::Rgba8 => ffi::WebPPictureImportRGBA,
        _ => ffi::WebPPictureImportRGB,
    };
    if picture.pixels.len() != picture.stride() * picture.size.height as usize {
        return Err("the pixel buffer has the wrong length".into());
    }
    encode_with(picture.size, mode, |to| {
        // SAFETY: `pixels` holds `height` rows of `stride` bytes (checked above), which the import copies.
        unsafe { import(to, picture.pixels.as_ptr(), picture.stride() as i32) != 0 }
    })
}

/// Points libwebp's picture at planes, which have to outlive the encode: [`encode_with`]'s callers hold them.
fn import_planes(to: &mut ffi::WebPPicture, size: Size, [luma, blue, red]: [&[u8]; 3]) -> bool {
    let chroma = Size::new(size.width.div_ceil(2), size.height.div_ceil(2));
    let fits = luma.len() as u64 == size.pixels()
        && blue.len() as u64 == chroma.pixels()
        && red.len() as u64 == chroma.pixels();
    to.colorspace = ffi::WebPEncCSP::WEBP_YUV420;
    // The encoder reads samples of a picture without alpha, and writes to none.
    (to.y, to.u, to.v) = (luma.as_ptr().cast_mut(), blue.as_ptr().cast_mut(), red.as_ptr().cast_mut());
    (to.y_stride, to.uv_stride) = (size.width as i32, chroma.width as i32);
    fits
}

/// Encodes what `import` puts into libwebp's picture.
fn encode_with(size: Size, mode: Mode, import: impl FnOnce(&mut ffi::WebPPicture) -> bool) -> Result<Vec<u8>, String> {
    let mut config = ffi::WebPConfig::new().map_err(|()| "libwebp is of another version")?;
    config.method = METHOD;
    config.alpha_quality = 100;
    config.thread_level = 0;
    match mode {
        Mode::Lossy(quality) => config.quality = quality.get().into(),
        Mode::Lossless => (config.lossless, config.quality) = (1, LOSSLESS_EFFORT),
    }
    let side = |length: u32| i32::try_from(length).map_err(|_| "a side is too long".to_owned());
    let (width, height) = (side(size.width)?, side(size.height)?);
    let mut job = Encoding {
        picture: ffi::WebPPicture::new().map_err(|()| "libwebp is of another version")?,
        written: ffi::WebPMemoryWriter { mem: std::ptr::null_mut(), size: 0, max_size: 0, pad: [0] },
    };
    job.picture.use_argb = config.lossless;
    (job.picture.width, job.picture.height) = (width, height);
    job.picture.writer = Some(ffi::WebPMemoryWrite);
    job.picture.custom_ptr = (&raw mut job.written).cast();
    // SAFETY: `job` is not moved until the encode has returned, so that `custom_ptr` stays valid; what the picture points
    // at was allocated by libwebp, or is checked and held by the caller of this function.
    let done = import(&mut job.picture) && unsafe { ffi::WebPEncode(&raw const config, &raw mut job.picture) != 0 };
    if !done {
        return Err(format!("{:?}", job.picture.error_code));
    }
    // SAFETY: a successful encode leaves `size` written bytes at `mem`.
    Ok(unsafe { std::slice::from_raw_parts(job.written.mem, job.written.size) }.to_vec())
}
