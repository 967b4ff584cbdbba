//! HEIC, by the system's libheif: sources only, and only with the feature `heic`.
//!
//! The few functions wanted are declared here: they are the same since libheif 1.4, whereas the crates that declare them all
//! want a newer library than Debian 12 has. libheif turns pictures upright itself.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    marker::PhantomData,
    ptr::null,
    sync::Once,
};

use super::{MAX_PROFILE_BYTES, corrupt, expect_size};
use crate::{
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::{
        RenderError,
        picture::{Layout, Picture},
    },
};

/// Reads the boxes; no HEVC is decoded.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let file = File::open(source)?;
    Ok(SourceFacts {
        format: ImageFormat::Heic,
        stored_size: file.size()?,
        orientation: Orientation::Upright,
        frames: 1,
        bytes_per_pixel: file.layout().bytes() as u8,
        progressive: false,
        document: None,
    })
}

/// Decodes the primary picture, upright, to eight bits.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    let file = File::open(source)?;
    expect_size(file.size()?, stored_size)?;
    let mut picture = file.decode(stored_size)?;
    picture.profile = file.profile();
    Ok(picture)
}

/// An opened file and its primary picture.
struct File<'a> {
    context: *mut ffi::Context,
    primary: *mut ffi::Handle,
    source: PhantomData<&'a [u8]>,
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        // SAFETY: each was given to us, is released once, and may be null.
        unsafe {
            if !self.primary.is_null() {
                ffi::heif_image_handle_release(self.primary);
            }
            ffi::heif_context_free(self.context);
        }
    }
}

impl<'a> File<'a> {
    fn open(source: &'a [u8]) -> Result<Self, RenderError> {
        /// Loads the decoders, which a worker can do before it is locked in only.
        static LOADED: Once = Once::new();
        LOADED.call_once(|| {
            // A failure shows when there is no decoder.
            // SAFETY: null stands for the defaults.
            let _ = unsafe { ffi::heif_init(null()) };
        });
        // SAFETY: takes nothing, and gives null or a context of our own.
        let context = unsafe { ffi::heif_context_alloc() };
        if context.is_null() {
            return Err(corrupt(ImageFormat::Heic, "no memory for a decoder"));
        }
        let mut file = Self { context, primary: std::ptr::null_mut(), source: PhantomData };
        // SAFETY: `context` is alive. `source` is readable for its length and, by `'a`, for longer than the context lives.
        unsafe {
            ffi::heif_context_set_max_decoding_threads(context, 0);
            let read =
                ffi::heif_context_read_from_memory_without_copy(context, source.as_ptr().cast(), source.len(), null());
            check(&read)?;
            check(&ffi::heif_context_get_primary_image_handle(context, &raw mut file.primary))?;
        }
        Ok(file)
    }

    /// The upright size.
    fn size(&self) -> Result<Size, RenderError> {
        // SAFETY: the handle is alive.
        let sides = unsafe {
            [ffi::heif_image_handle_get_width(self.primary), ffi::heif_image_handle_get_height(self.primary)]
        };
        match sides.map(u32::try_from) {
            [Ok(width @ 1..), Ok(height @ 1..)] => Ok(Size::new(width, height)),
            _ => Err(corrupt(ImageFormat::Heic, "a side has no pixels")),
        }
    }

    fn layout(&self) -> Layout {
        // SAFETY: the handle is alive.
        let alpha = unsafe { ffi::heif_image_handle_has_alpha_channel(self.primary) } != 0;
        if alpha { Layout::Rgba8 } else { Layout::Rgb8 }
    }

    fn profile(&self) -> Option<Vec<u8>> {
        // SAFETY: the handle is alive; the buffer has the length that the library names.
        unsafe {
            let length = ffi::heif_image_handle_get_raw_color_profile_size(self.primary);
            let mut profile = vec![0; Some(length).filter(|length| (1..=MAX_PROFILE_BYTES).contains(length))?];
            let got = ffi::heif_image_handle_get_raw_color_profile(self.primary, profile.as_mut_ptr().cast());
            // Colours named by numbers have no profile, which is an error here; they count as sRGB.
            check(&got).ok().map(|()| profile)
        }
    }

    fn decode(&self, size: Size) -> Result<Picture, RenderError> {
        let layout = self.layout();
        let chroma = if layout.has_alpha() { ffi::INTERLEAVED_RGBA } else { ffi::INTERLEAVED_RGB };
        let mut image = Image(std::ptr::null_mut());
        // SAFETY: the handle is alive, and null stands for the default options.
        check(&unsafe { ffi::heif_decode_image(self.primary, &raw mut image.0, ffi::RGB, chroma, null()) })?;
        let mut stride: c_int = 0;
        // SAFETY: the image is alive, and owns the samples it points at.
        let (found, samples) = unsafe {
            let sides = [
                ffi::heif_image_get_width(image.0, ffi::INTERLEAVED),
                ffi::heif_image_get_height(image.0, ffi::INTERLEAVED),
            ];
            (sides, ffi::heif_image_get_plane_readonly(image.0, ffi::INTERLEAVED, &raw mut stride))
        };
        let mut picture = Picture::blank(size, layout);
        let row = picture.stride();
        let stride = usize::try_from(stride).unwrap_or(0);
        if samples.is_null() || found != [size.width as c_int, size.height as c_int] || stride < row {
            return Err(RenderError::Changed);
        }
        for (y, to) in picture.pixels.chunks_exact_mut(row).enumerate() {
            // SAFETY: the plane has `height` rows that begin `stride` bytes apart, each at least `row` bytes long.
            to.copy_from_slice(unsafe { std::slice::from_raw_parts(samples.add(y * stride), row) });
        }
        Ok(picture)
    }
}

/// A decoded image, released however the copying ends.
struct Image(*mut ffi::Image);

impl Drop for Image {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: given to us by a decode, and released once.
            unsafe { ffi::heif_image_release(self.0) };
        }
    }
}

fn check(error: &ffi::Error) -> Result<(), RenderError> {
    /// `heif_error_code`: the file is of a kind, or its codec of a sort, that the library does not read.
    const UNSUPPORTED: [c_int; 2] = [3, 4];
    if error.code == 0 {
        return Ok(());
    }
    let text = match error.message.is_null() {
        true => "unknown".into(),
        // SAFETY: a text of the library's, which stays while its context does.
        false => unsafe { CStr::from_ptr(error.message) }.to_string_lossy(),
    };
    Err(match UNSUPPORTED.contains(&error.code) {
        true => RenderError::Unsupported { format: ImageFormat::Heic, detail: text.into_owned() },
        false => corrupt(ImageFormat::Heic, text),
    })
}

/// What is used of `libheif/heif.h`.
mod ffi {
    use super::{c_char, c_int, c_void};

    #[repr(C)]
    pub struct Error {
        pub code: c_int,
        pub subcode: c_int,
        pub message: *const c_char,
    }

    pub enum Context {}
    pub enum Handle {}
    pub enum Image {}

    /// `heif_colorspace_RGB`.
    pub const RGB: c_int = 1;
    /// `heif_chroma_interleaved_RGB` and `..._RGBA`.
    pub const INTERLEAVED_RGB: c_int = 10;
    pub const INTERLEAVED_RGBA: c_int = 11;
    /// `heif_channel_interleaved`.
    pub const INTERLEAVED: c_int = 10;

    #[link(name = "heif")]
    unsafe extern "C" {
        pub fn heif_init(parameters: *const c_void) -> Error;
        pub fn heif_context_alloc() -> *mut Context;
        pub fn heif_context_free(context: *mut Context);
        pub fn heif_context_set_max_decoding_threads(context: *mut Context, threads: c_int);
        pub fn heif_context_read_from_memory_without_copy(
            context: *mut Context,
            bytes: *const c_void,
            length: usize,
            options: *const c_void,
        ) -> Error;
        pub fn heif_context_get_primary_image_handle(context: *mut Context, handle: *mut *mut Handle) -> Error;
        pub fn heif_image_handle_release(handle: *const Handle);
        pub fn heif_image_handle_get_width(handle: *const Handle) -> c_int;
        pub fn heif_image_handle_get_height(handle: *const Handle) -> c_int;
        pub fn heif_image_handle_has_alpha_channel(handle: *const Handle) -> c_int;
        pub fn heif_image_handle_get_raw_color_profile_size(handle: *const Handle) -> usize;
        pub fn heif_image_handle_get_raw_color_profile(handle: *const Handle, out: *mut c_void) -> Error;
        pub fn heif_decode_image(
            handle: *const Handle,
            out: *mut *mut Image,
            colorspace: c_int,
            chroma: c_int,
            options: *const c_void,
        ) -> Error;
        pub fn heif_image_get_width(image: *const Image, channel: c_int) -> c_int;
        pub fn heif_image_get_height(image: *const Image, channel: c_int) -> c_int;
        pub fn heif_image_get_plane_readonly(image: *const Image, channel: c_int, stride: *mut c_int) -> *const u8;
        pub fn heif_image_release(image: *const Image);
    }
}
