//! The pixel buffer that the steps of a render hand on.

use sendimage_pixels::Kind;

use crate::model::Size;

/// How a picture's samples lie in memory: interleaved, without padding between rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One byte of brightness.
    Gray8,
    /// Brightness and alpha.
    GrayAlpha8,
    /// Red, green, blue.
    Rgb8,
    /// Red, green, blue, alpha; not premultiplied.
    Rgba8,
    /// Cyan, magenta, yellow, black; 255 is full ink.
    Cmyk8,
    /// Two bytes of brightness, in the machine's byte order.
    Gray16,
}

impl Layout {
    /// Bytes of one pixel.
    pub fn bytes(self) -> usize {
        match self {
            Self::Gray8 => 1,
            Self::GrayAlpha8 | Self::Gray16 => 2,
            Self::Rgb8 => 3,
            Self::Rgba8 | Self::Cmyk8 => 4,
        }
    }

    /// How the resizer sees such pixels.
    pub fn kind(self) -> Kind {
        match self {
            Self::Gray8 => Kind::Bytes1,
            Self::GrayAlpha8 => Kind::Bytes2,
            Self::Rgb8 => Kind::Bytes3,
            Self::Rgba8 | Self::Cmyk8 => Kind::Bytes4,
            Self::Gray16 => Kind::Word1,
        }
    }

    /// Whether the last byte of a pixel is its opacity.
    pub fn has_alpha(self) -> bool {
        matches!(self, Self::GrayAlpha8 | Self::Rgba8)
    }

    /// The ICC signature (ICC.1:2022, 7.2.6) of profiles that can speak about such pixels.
    fn profile_signature(self) -> &'static [u8; 4] {
        match self {
            Self::Gray8 | Self::GrayAlpha8 | Self::Gray16 => b"GRAY",
            Self::Rgb8 | Self::Rgba8 => b"RGB ",
            Self::Cmyk8 => b"CMYK",
        }
    }
}

/// A decoded picture with the colour profile that came with it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Width and height.
    pub size: Size,
    /// What the bytes mean.
    pub layout: Layout,
    /// `width * height * layout.bytes()` bytes.
    pub pixels: Vec<u8>,
    /// The source's ICC profile as found, unchecked.
    pub profile: Option<Vec<u8>>,
}

impl Picture {
    /// A picture of zeros (lazily zeroed by the allocator, so untouched rows cost nothing).
    pub fn blank(size: Size, layout: Layout) -> Self {
        Self { size, layout, pixels: vec![0; buffer_bytes(size, layout)], profile: None }
    }

    /// Bytes of one row.
    pub fn stride(&self) -> usize {
        self.size.width as usize * self.layout.bytes()
    }

    /// The profile, if it is about pixels of this layout: a CMYK or gray profile on RGB pixels would be worse than none.
    pub fn usable_profile(&self) -> Option<&[u8]> {
        usable_profile(self.profile.as_deref()?, self.layout)
    }

    /// The same picture in a layout that screens understand: CMYK becomes RGB, anything else stays.
    ///
    /// `255 - min(255, ink + black)` would be wrong: like Pillow's `cmyk2rgb`, each ink darkens what black leaves over.
    pub fn into_screen_colours(self) -> Self {
        match self.layout {
            Layout::Cmyk8 => self.mapped(Layout::Rgb8, |[c, m, y, k]: [u8; 4]| {
                let paper = 255 - k;
                [c, m, y].map(|ink| paper - scaled(ink, paper))
            }),
            Layout::Gray8 | Layout::GrayAlpha8 | Layout::Rgb8 | Layout::Rgba8 | Layout::Gray16 => self,
        }
    }

    /// Eight bits a sample: the high byte, as Pillow shows 16-bit pictures.
    pub fn into_8_bits(self) -> Self {
        match self.layout {
            Layout::Gray16 => self.mapped(Layout::Gray8, |sample: [u8; 2]| [(u16::from_ne_bytes(sample) >> 8) as u8]),
            Layout::Gray8 | Layout::GrayAlpha8 | Layout::Rgb8 | Layout::Rgba8 | Layout::Cmyk8 => self,
        }
    }

    /// RGB, or RGBA where there is alpha.
    pub fn into_colour(self) -> Self {
        let picture = self.into_screen_colours().into_8_bits();
        match picture.layout {
            Layout::Gray8 => picture.mapped(Layout::Rgb8, |[gray]: [u8; 1]| [gray; 3]),
            Layout::GrayAlpha8 => picture.mapped(Layout::Rgba8, |[gray, alpha]: [u8; 2]| [gray, gray, gray, alpha]),
            Layout::Rgb8 | Layout::Rgba8 | Layout::Cmyk8 | Layout::Gray16 => picture,
        }
    }

    /// Maps pixels of `FROM` bytes, which must be what the layout has, to pixels of `TO` bytes.
    pub fn mapped<const FROM: usize, const TO: usize>(
        self,
        layout: Layout,
        pixel: impl Fn([u8; FROM]) -> [u8; TO],
    ) -> Self {
        debug_assert_eq!((self.layout.bytes(), layout.bytes()), (FROM, TO));
        let (from, _) = self.pixels.as_chunks::<FROM>();
        let mut pixels = Vec::with_capacity(from.len() * TO);
        pixels.extend(from.iter().flat_map(|&from| pixel(from)));
        Self { layout, pixels, ..self }
    }
}

/// The profile, if it is about pixels of this layout.
pub fn usable_profile(profile: &[u8], layout: Layout) -> Option<&[u8]> {
    const COLOUR_SPACE: std::ops::Range<usize> = 16..20;
    (profile.get(COLOUR_SPACE)? == layout.profile_signature()).then_some(profile)
}

/// Bytes of a picture's pixels.
pub fn buffer_bytes(size: Size, layout: Layout) -> usize {
    size.width as usize * size.height as usize * layout.bytes()
}

/// `value * share / 255`, rounded.
pub fn scaled(value: u8, share: u8) -> u8 {
    ((u32::from(value) * u32::from(share) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_convert() {
        let size = Size::new(2, 1);
        let gray = Picture { size, layout: Layout::Gray8, pixels: vec![7, 9], profile: None };
        assert_eq!(gray.into_colour().pixels, [7, 7, 7, 9, 9, 9]);
        let cmyk = Picture { size, layout: Layout::Cmyk8, pixels: vec![255, 0, 0, 0, 0, 0, 0, 255], profile: None };
        assert_eq!(cmyk.into_screen_colours().pixels, [0, 255, 255, 0, 0, 0]);
        let deep = [0x12FF_u16, 0xFFFF].map(u16::to_ne_bytes).concat();
        let deep = Picture { size, layout: Layout::Gray16, pixels: deep, profile: None };
        assert_eq!(deep.into_8_bits().pixels, [0x12, 0xFF]);
    }

    #[test]
    fn a_profile_of_another_colour_space_is_dropped() {
        let mut picture = Picture::blank(Size::new(1, 1), Layout::Rgb8);
        let mut profile = vec![0; 128];
        profile[16..20].copy_from_slice(b"CMYK");
        picture.profile = Some(profile.clone());
        assert!(picture.usable_profile().is_none());
        profile[16..20].copy_from_slice(b"RGB ");
        picture.profile = Some(profile);
        assert!(picture.usable_profile().is_some());
        picture.profile = Some(vec![1, 2, 3]);
        assert!(picture.usable_profile().is_none());
    }
}
