//! Reading renditions back, with decoders called apart from the renderer, and measuring how far two pictures differ.

use std::{io::Cursor, path::Path};

use sendimage::model::ImageFormat;

/// A decoded picture: 8 bits a channel, RGBA.
pub struct Pixels {
    pub width: u32,
    pub height: u32,
    pub rgba: Vec<u8>,
}

impl Pixels {
    pub fn decode(bytes: &[u8]) -> Self {
        match ImageFormat::detect(bytes) {
            Some(ImageFormat::Png) => Self::png(bytes),
            Some(ImageFormat::Jpeg) => Self::jpeg(bytes),
            Some(ImageFormat::Webp) => Self::webp(bytes),
            Some(ImageFormat::Avif) => Self::avif(bytes),
            Some(ImageFormat::Gif) => {
                let image = image::load_from_memory_with_format(bytes, image::ImageFormat::Gif).unwrap().into_rgba8();
                Self { width: image.width(), height: image.height(), rgba: image.into_raw() }
            }
            Some(ImageFormat::Ico) => {
                // All entries are equally deep, so that the crate picks the largest.
                let image = image::load_from_memory_with_format(bytes, image::ImageFormat::Ico).unwrap().into_rgba8();
                Self { width: image.width(), height: image.height(), rgba: image.into_raw() }
            }
            other => panic!("{other:?} is nothing a rendition should be"),
        }
    }

    pub fn open(path: &Path) -> Self {
        Self::decode(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn png(bytes: &[u8]) -> Self {
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let mut reader = decoder.read_info().unwrap();
        let mut data = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut data).unwrap();
        let rgba = match frame.color_type {
            png::ColorType::Grayscale => data.iter().flat_map(|&v| [v, v, v, 255]).collect(),
            png::ColorType::GrayscaleAlpha => data.as_chunks().0.iter().flat_map(|&[v, a]| [v, v, v, a]).collect(),
            png::ColorType::Rgb => data.as_chunks().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect(),
            png::ColorType::Rgba => data,
            png::ColorType::Indexed => panic!("expanded above"),
        };
        Self { width: frame.width, height: frame.height, rgba }
    }

    fn jpeg(bytes: &[u8]) -> Self {
        let image = turbojpeg::decompress(bytes, turbojpeg::PixelFormat::RGBA).unwrap();
        Self { width: image.width as u32, height: image.height as u32, rgba: image.pixels }
    }

    fn webp(bytes: &[u8]) -> Self {
        let (mut width, mut height) = (0, 0);
        // SAFETY: the bytes are readable for their length; the returned buffer has width x height x 4 bytes, is copied
        // and freed once.
        let rgba = unsafe {
            let data = libwebp_sys::WebPDecodeRGBA(bytes.as_ptr(), bytes.len(), &raw mut width, &raw mut height);
            assert!(!data.is_null());
            let rgba = std::slice::from_raw_parts(data, (width * height * 4) as usize).to_vec();
            libwebp_sys::WebPFree(data.cast());
            rgba
        };
        Self { width: width as u32, height: height as u32, rgba }
    }

    fn avif(bytes: &[u8]) -> Self {
        use libavif_sys as ffi;
        // SAFETY: the bytes outlive the decoder; the pixels have height x rowBytes bytes, as the conversion wants; what was
        // created is destroyed once.
        unsafe {
            let (decoder, image) = (ffi::avifDecoderCreate(), ffi::avifImageCreateEmpty());
            let status = ffi::avifDecoderReadMemory(decoder, image, bytes.as_ptr(), bytes.len());
            assert_eq!(status, ffi::AVIF_RESULT_OK, "{:?}", std::ffi::CStr::from_ptr((*decoder).diag.error.as_ptr()));
            let (width, height) = ((*image).width, (*image).height);
            let mut rgba = vec![0; (width * height * 4) as usize];
            let mut rgb = ffi::avifRGBImage::default();
            ffi::avifRGBImageSetDefaults(&raw mut rgb, image);
            (rgb.depth, rgb.pixels, rgb.rowBytes) = (8, rgba.as_mut_ptr(), width * 4);
            assert_eq!(ffi::avifImageYUVToRGB(image, &raw mut rgb), ffi::AVIF_RESULT_OK);
            ffi::avifImageDestroy(image);
            ffi::avifDecoderDestroy(decoder);
            Self { width, height, rgba }
        }
    }

    pub fn is_opaque(&self) -> bool {
        self.rgba.as_chunks::<4>().0.iter().all(|pixel| pixel[3] == 255)
    }

    /// Peak signal to noise ratio in dB, 99 for equal pictures. Colours are compared premultiplied, so that what nobody
    /// sees does not count; alpha counts as a fourth channel where either picture has any.
    pub fn psnr(&self, other: &Self) -> f64 {
        assert_eq!((self.width, self.height), (other.width, other.height));
        let opaque = self.is_opaque() && other.is_opaque();
        let (mut sum, mut samples) = (0.0, 0_u64);
        for (a, b) in self.rgba.as_chunks::<4>().0.iter().zip(other.rgba.as_chunks::<4>().0) {
            for channel in 0..3 {
                let seen = |pixel: &[u8; 4]| f64::from(pixel[channel]) * f64::from(pixel[3]) / 255.0;
                sum += (seen(a) - seen(b)).powi(2);
            }
            sum += (f64::from(a[3]) - f64::from(b[3])).powi(2);
            samples += if opaque { 3 } else { 4 };
        }
        let error = sum / samples as f64;
        if error == 0.0 { 99.0 } else { (10.0 * (255.0 * 255.0 / error).log10()).min(99.0) }
    }
}

/// The first row of a JPEG's luma quantisation table, from the file itself.
pub fn jpeg_luma_row(jpeg: &[u8]) -> Vec<u64> {
    const FIRST_ROW_IN_ZIGZAG: [usize; 8] = [0, 1, 5, 6, 14, 15, 27, 28];
    let at = jpeg.windows(2).position(|marker| marker == [0xFF, 0xDB]).unwrap() + 5;
    FIRST_ROW_IN_ZIGZAG.iter().map(|&i| u64::from(jpeg[at + i])).collect()
}

/// The sizes of an icon's entries, from its directory.
pub fn icon_sizes(icon: &[u8]) -> Vec<(u64, u64)> {
    let count = usize::from(u16::from_le_bytes([icon[4], icon[5]]));
    let side = |byte: u8| if byte == 0 { 256 } else { byte.into() };
    icon[6..].as_chunks::<16>().0.iter().take(count).map(|entry| (side(entry[0]), side(entry[1]))).collect()
}

/// The ICC profile in a JPEG, PNG, WebP or AVIF.
pub fn profile(bytes: &[u8]) -> Option<Vec<u8>> {
    match ImageFormat::detect(bytes)? {
        ImageFormat::Jpeg => {
            let at = bytes.windows(12).position(|window| window == b"ICC_PROFILE\0")?;
            let length = usize::from(u16::from_be_bytes([bytes[at - 2], bytes[at - 1]]));
            Some(bytes[at + 14..at - 2 + length].to_vec())
        }
        ImageFormat::Png => {
            let reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
            reader.info().icc_profile.as_ref().map(|profile| profile.to_vec())
        }
        ImageFormat::Webp => {
            let at = bytes.windows(4).position(|window| window == b"ICCP")?;
            let length = u32::from_le_bytes(*bytes[at + 4..].first_chunk().unwrap()) as usize;
            Some(bytes[at + 8..at + 8 + length].to_vec())
        }
        ImageFormat::Avif => {
            let at = bytes.windows(8).position(|window| window == b"colrprof")?;
            let length = u32::from_be_bytes(*bytes[at - 4..].first_chunk().unwrap()) as usize;
            Some(bytes[at + 8..at - 4 + length].to_vec())
        }
        _ => None,
    }
}
