//! A picture kept as lossy codecs have it: brightness, and two colour differences in planes of their own, often at half the
//! resolution.
//!
//! Where nothing has to be done in red, green and blue, a photograph goes from a lossy source to a lossy rendition without
//! ever being so: its colour differences are not widened to full resolution and narrowed again, and half as many samples
//! are resized. The way through [`Picture`] is the specification; `tests.rs` holds both against each other.
//!
//! All codecs here mean ITU-R BT.601's matrix, and a sample that lies in the middle of the pixels it stands for (JFIF 1.02,
//! RFC 6386 9.2, and AV1 where nothing else is said).

use super::{
    RenderError,
    orient::turn_upright,
    picture::{Layout, Picture},
    resample::{self, Cut},
};
use crate::model::{Orientation, Size};

/// Which values stand for black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// 0 to 255: JPEG.
    Full,
    /// 16 to 235, differences 16 to 240 (ITU-R BT.601, 2.5.3): WebP.
    Limited,
}

/// A decoded picture. The planes lie one behind the other, rows without gaps.
#[derive(Debug)]
pub struct Planes {
    /// The picture's size, at the decoder's reduction.
    pub size: Size,
    /// Width and height of the brightness as it lies in memory, padding at the right and below included.
    pub luma: Size,
    /// The same of each of the colour differences.
    pub chroma: Size,
    /// Pixels of the picture that one difference stands for, along each axis: 1, 2 or 4.
    pub subsampling: (u8, u8),
    /// All samples.
    pub samples: Vec<u8>,
    /// What the samples mean.
    pub range: Range,
    /// The source's ICC profile as found, unchecked.
    pub profile: Option<Vec<u8>>,
}

/// A resized picture, its colour differences at half the resolution along both axes (4:2:0), rounded up.
#[derive(Debug)]
pub struct Subsampled {
    /// Brightness and the differences towards blue and red, each as a gray picture.
    pub planes: [Picture; 3],
    /// What the samples mean.
    pub range: Range,
    /// The source's ICC profile as found, unchecked.
    pub profile: Option<Vec<u8>>,
}

impl Planes {
    /// Cuts out and resizes, each plane for itself.
    ///
    /// # Errors
    /// As [`resample::resize`].
    pub fn resized(&mut self, cut: Cut) -> Result<Subsampled, RenderError> {
        let &mut Self { size, luma, chroma, subsampling: (across, down), range, .. } = self;
        let [brightness, blue, red] = self.each().ok_or(RenderError::Changed)?;
        let visible = |stands_for: (u8, u8)| {
            let (across, down) = (u32::from(stands_for.0), u32::from(stands_for.1));
            Size::new(size.width.div_ceil(across), size.height.div_ceil(down))
        };
        let plane = |samples: &mut [u8], stored: Size, stands_for: (u8, u8), share: (f64, f64), output: Size| {
            let cut = Cut { output, ..cut };
            resample::resize_plane(samples, stored, visible(stands_for), stands_for, share, cut)
        };
        // The last difference of an odd row reaches over the picture's edge, where the source has nothing: it repeats the
        // one before, and those before are where they belong.
        let Size { width, height } = cut.output;
        let whole = Size::new((width / 2).max(1), (height / 2).max(1));
        let covered = |whole: u32, length: u32| f64::from(2 * whole).min(length.into()) / f64::from(length);
        let share = (covered(whole.width, width), covered(whole.height, height));
        let (odd_width, odd_height) = (whole.width < width.div_ceil(2), whole.height < height.div_ceil(2));
        let difference = |samples: &mut [u8]| {
            let resized = plane(samples, chroma, (across, down), share, whole)?;
            Ok::<_, RenderError>(with_last_again(resized, whole.width as usize, odd_width, odd_height))
        };
        let gray = |pixels: Vec<u8>, size: Size| Picture { size, layout: Layout::Gray8, pixels, profile: None };
        let halved = Size::new(width.div_ceil(2), height.div_ceil(2));
        let planes = [
            gray(plane(brightness, luma, (1, 1), (1.0, 1.0), cut.output)?, cut.output),
            gray(difference(blue)?, halved),
            gray(difference(red)?, halved),
        ];
        Ok(Subsampled { planes, range, profile: self.profile.clone() })
    }

    /// See [`resample::undo_means`]; for a picture that was decoded reduced, once.
    pub fn undo_means(&mut self) {
        let (picture, luma, chroma) = (self.size, self.luma, self.chroma);
        repeat_edges(&mut self.samples, luma, picture);
        for (samples, size) in self.each().into_iter().flatten().zip([luma, chroma, chroma]) {
            resample::undo_means(samples, size, 1);
        }
    }

    fn each(&mut self) -> Option<[&mut [u8]; 3]> {
        let (brightness, differences) = self.samples.split_at_mut_checked(self.luma.pixels() as usize)?;
        let (blue, red) = differences.split_at_mut_checked(self.chroma.pixels() as usize)?;
        Some([brightness, blue, red])
    }
}

/// Makes what lies right of and below a picture in its plane a repetition of its edge. Of the colour
/// differences nothing does.
fn repeat_edges(samples: &mut [u8], plane: Size, picture: Size) {
    let (stride, width, height) = (plane.width as usize, picture.width as usize, picture.height as usize);
    for row in samples.chunks_exact_mut(stride).take(height) {
        if let Some(&last) = row[..width].last() {
            row[width..].fill(last);
        }
    }
    for row in height..plane.height as usize {
        samples.copy_within((height - 1) * stride..height * stride, row * stride);
    }
}

/// Rows of `width` samples with the last column, and the last row, once more where asked for.
pub fn with_last_again(samples: Vec<u8>, width: usize, column: bool, row: bool) -> Vec<u8> {
    if !(column || row) || width == 0 {
        return samples;
    }
    let wide = width + usize::from(column);
    let mut all = Vec::with_capacity(wide * (samples.len() / width + usize::from(row)));
    for line in samples.chunks_exact(width) {
        all.extend_from_slice(line);
        all.extend(line.last().filter(|_| column));
    }
    if row && all.len() >= wide {
        all.extend_from_within(all.len() - wide..);
    }
    all
}

impl Subsampled {
    /// The picture's size.
    pub fn size(&self) -> Size {
        self.planes[0].size
    }

    /// Turned upright. The plan asks for it only where both sides are even: the last difference of an odd row reaches over
    /// the edge, and would come first.
    pub fn upright(self, turn: Orientation) -> Self {
        Self { planes: self.planes.map(|plane| turn_upright(plane, turn)), ..self }
    }

    /// With samples of another meaning.
    pub fn in_range(mut self, range: Range) -> Self {
        if range != self.range {
            let [luma, differences @ ..] = &mut self.planes;
            convert(luma, |value| match range {
                Range::Full => (value - 16.0) * 255.0 / 219.0,
                Range::Limited => value * 219.0 / 255.0 + 16.0,
            });
            for plane in differences {
                convert(plane, |value| match range {
                    Range::Full => (value - 128.0) * 255.0 / 224.0 + 128.0,
                    Range::Limited => (value - 128.0) * 224.0 / 255.0 + 128.0,
                });
            }
            self.range = range;
        }
        self
    }

    /// The profile, if it is about colours.
    pub fn usable_profile(&self) -> Option<&[u8]> {
        super::picture::usable_profile(self.profile.as_deref()?, Layout::Rgb8)
    }
}

fn convert(plane: &mut Picture, value: impl Fn(f32) -> f32) {
    // A cast saturates.
    let table: [u8; 256] = std::array::from_fn(|index| value(index as f32).round() as u8);
    plane.pixels.iter_mut().for_each(|sample| *sample = table[usize::from(*sample)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_at_black_white_and_gray() {
        let plane = |pixels: &[u8]| Picture {
            size: Size::new(pixels.len() as u32, 1),
            layout: Layout::Gray8,
            pixels: pixels.to_vec(),
            profile: None,
        };
        let full = Subsampled {
            planes: [plane(&[0, 255, 128]), plane(&[128, 0]), plane(&[128, 255])],
            range: Range::Full,
            profile: None,
        };
        let pixels = |picture: &Subsampled| picture.planes.clone().map(|plane| plane.pixels);
        let limited = full.in_range(Range::Limited);
        assert_eq!(pixels(&limited), [vec![16, 235, 126], vec![128, 16], vec![128, 240]]);
        assert_eq!(pixels(&limited.in_range(Range::Full)), [vec![0, 255, 128], vec![128, 1], vec![128, 255]]);
    }
}
