//! Cutting out and resizing.

use sendimage_pixels::{Kind, Resize, Window};

use super::{
    RenderError,
    picture::{Layout, Picture},
};
use crate::model::{PixelRect, Size};

/// What to cut out of a decoded picture, and what to make of it.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// In pixels of the full-size picture, as stored.
    pub crop: PixelRect,
    /// What the decoder divided both sides by. The crop's edges may then fall between pixels.
    pub reduction: u8,
    /// The size to resize to, as stored.
    pub output: Size,
    /// The first of the two passes.
    pub first: Axis,
}

/// An axis of the picture as stored. The resize makes one pass along each, with 8-bit samples between them: where an
/// overshoot is clipped, the order shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Changes the width.
    Horizontal,
    /// Changes the height. Faster when it comes first, for whole rows are added up.
    Vertical,
}

/// Cuts out of a picture and resizes, by Lanczos (a = 3) as Wagtail does.
///
/// Wagtail crops first and resizes then, so that no pixel from outside the crop has weight at its edge: the resampler gets
/// a view that ends there.
///
/// # Errors
/// [`RenderError::Changed`] when the crop is not within the picture, [`RenderError::Resample`] when the resizer refuses.
pub fn resize(picture: Picture, cut: Cut) -> Result<Picture, RenderError> {
    let n = cut.reduction;
    let area = Area::new(cut.crop, (n.into(), n.into()), picture.size).ok_or(RenderError::Changed)?;
    match cut.reduction == 1 && cut.crop.size() == cut.output {
        true if cut.output == picture.size => Ok(picture),
        true => Ok(copied(picture, cut.crop)),
        false => resampled(picture, &area, cut).map_err(|detail| RenderError::Resample { detail }),
    }
}

/// The crop on the decoded grid: the whole pixels that it touches, and where within them it begins and ends.
struct Area {
    pixels: PixelRect,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Area {
    /// `pixels` is how many pixels of the full-size picture a decoded one stands for, along each axis.
    fn new(crop: PixelRect, (across, down): (u32, u32), decoded: Size) -> Option<Self> {
        let (across, down) = (across.max(1), down.max(1));
        let pixels = PixelRect {
            left: crop.left / across,
            top: crop.top / down,
            right: crop.right.div_ceil(across),
            bottom: crop.bottom.div_ceil(down),
        };
        let within = crop.left < crop.right
            && crop.top < crop.bottom
            && pixels.right <= decoded.width
            && pixels.bottom <= decoded.height;
        let part = |length: u32, n: u32| f64::from(length) / f64::from(n);
        within.then(|| Self {
            left: part(crop.left % across, across),
            top: part(crop.top % down, down),
            width: part(crop.right - crop.left, across),
            height: part(crop.bottom - crop.top, down),
            pixels,
        })
    }

    /// Whether it consists of whole pixels, as many as are wanted.
    fn is_exactly(&self, output: Size) -> bool {
        (self.left, self.top, self.width, self.height) == (0.0, 0.0, f64::from(output.width), f64::from(output.height))
    }

    fn resize(
        &self,
        kind: Kind,
        size: Size,
        pixels: impl AsMut<[u8]>,
        cut: Cut,
        alpha: bool,
    ) -> Result<Vec<u8>, String> {
        let window = self.pixels;
        let how = Resize {
            size: (size.width, size.height),
            window: Window {
                left: window.left,
                top: window.top,
                width: window.size().width,
                height: window.size().height,
            },
            origin: (self.left, self.top),
            extent: (self.width, self.height),
            output: (cut.output.width, cut.output.height),
            horizontal_first: cut.first == Axis::Horizontal,
            alpha,
        };
        sendimage_pixels::resize(kind, pixels, &how)
    }
}

/// As [`resize`], of one plane of bytes whose rows lie as `stored` says. `visible` of them are of the picture; each stands
/// for `stands_for` of its pixels. `share` is how much of the crop is wanted, from its upper left.
///
/// # Errors
/// As [`resize`].
pub fn resize_plane(
    samples: &mut [u8],
    stored: Size,
    visible: Size,
    stands_for: (u8, u8),
    share: (f64, f64),
    cut: Cut,
) -> Result<Vec<u8>, RenderError> {
    let n = u32::from(cut.reduction).max(1);
    let divisors = (n * u32::from(stands_for.0), n * u32::from(stands_for.1));
    let mut area = Area::new(cut.crop, divisors, visible).ok_or(RenderError::Changed)?;
    (area.width, area.height) = (area.width * share.0, area.height * share.1);
    if area.is_exactly(cut.output) {
        let PixelRect { left, top, .. } = area.pixels;
        let exactly = PixelRect { left, top, right: left + cut.output.width, bottom: top + cut.output.height };
        return Ok(rows_of(samples, stored.width as usize, exactly, 1));
    }
    area.resize(Kind::Bytes1, stored, samples, cut, false).map_err(|detail| RenderError::Resample { detail })
}

/// A resize of a picture that comes in bands of rows from top to bottom. Each is resized along its rows at once, and what is
/// held is as wide as the result; the result is that of [`resize`] with [`Axis::Horizontal`] first.
pub struct Bands {
    cut: Cut,
    area: Area,
    /// Rows that have come.
    top: u32,
    layout: Layout,
    halfway: Vec<u8>,
}

impl Bands {
    /// For a picture of `size`.
    ///
    /// # Errors
    /// [`RenderError::Changed`] when the crop is not within the picture.
    pub fn new(cut: Cut, size: Size) -> Result<Self, RenderError> {
        let area = Area::new(cut.crop, (1, 1), size).ok_or(RenderError::Changed)?;
        Ok(Self { cut, area, top: 0, layout: Layout::Gray8, halfway: Vec::new() })
    }

    /// Takes the next band.
    ///
    /// # Errors
    /// [`RenderError::Resample`] when the resizer refuses.
    pub fn add(&mut self, mut band: Picture) -> Result<(), RenderError> {
        let wanted = self.area.pixels;
        let (first, end) = (self.top, self.top + band.size.height);
        self.top = end;
        self.layout = band.layout;
        let (from, to) = (wanted.top.max(first), wanted.bottom.min(end));
        if from >= to {
            return Ok(());
        }
        multiply_alpha(&mut band, true)?;
        let rows = to - from;
        let how = Resize {
            size: (band.size.width, band.size.height),
            window: Window { left: wanted.left, top: from - first, width: wanted.size().width, height: rows },
            origin: (self.area.left, 0.0),
            extent: (self.area.width, rows.into()),
            output: (self.cut.output.width, rows),
            horizontal_first: true,
            alpha: false,
        };
        let resized = sendimage_pixels::resize_one_way(band.layout.kind(), &mut band.pixels, &how)
            .map_err(|detail| RenderError::Resample { detail })?;
        if self.halfway.is_empty() {
            self.halfway
                .reserve_exact(self.cut.output.width as usize * wanted.size().height as usize * band.layout.bytes());
        }
        self.halfway.extend_from_slice(&resized);
        Ok(())
    }

    /// The resized picture, when all bands have come.
    ///
    /// # Errors
    /// [`RenderError::Resample`] when the resizer refuses, or rows are missing.
    pub fn finish(self, profile: Option<Vec<u8>>) -> Result<Picture, RenderError> {
        let Self { cut, area, layout, mut halfway, .. } = self;
        let size = (cut.output.width, area.pixels.size().height);
        let how = Resize {
            size,
            window: Window { left: 0, top: 0, width: size.0, height: size.1 },
            origin: (0.0, area.top),
            extent: (size.0.into(), area.height),
            output: (cut.output.width, cut.output.height),
            horizontal_first: false,
            alpha: false,
        };
        let pixels = sendimage_pixels::resize_one_way(layout.kind(), &mut halfway, &how)
            .map_err(|detail| RenderError::Resample { detail })?;
        let mut picture = Picture { size: cut.output, layout, pixels, profile };
        multiply_alpha(&mut picture, false)?;
        Ok(picture)
    }
}

/// A plain copy of some rows, for what needs no resizing.
fn copied(picture: Picture, crop: PixelRect) -> Picture {
    let pixels = rows_of(&picture.pixels, picture.stride(), crop, picture.layout.bytes());
    Picture { size: crop.size(), pixels, ..picture }
}

fn rows_of(pixels: &[u8], stride: usize, crop: PixelRect, bytes: usize) -> Vec<u8> {
    let columns = crop.left as usize * bytes..crop.right as usize * bytes;
    let mut rows = Vec::with_capacity(crop.size().pixels() as usize * bytes);
    for row in pixels.chunks_exact(stride).take(crop.bottom as usize).skip(crop.top as usize) {
        rows.extend_from_slice(&row[columns.clone()]);
    }
    rows
}

fn resampled(picture: Picture, area: &Area, cut: Cut) -> Result<Picture, String> {
    let Picture { size, layout, pixels, profile } = picture;
    let pixels = area.resize(layout.kind(), size, pixels, cut, layout.has_alpha())?;
    Ok(Picture { size: cut.output, layout, pixels, profile })
}

/// Gives back some of what taking means took. A reduced JPEG decode is the mean of each square of pixels, which dims the
/// finest detail that a rendition can show by up to a quarter. 1/32 of the difference to both neighbours along each axis
/// brought the result nearer to that of a full decode on every photograph and at every size measured: by 0.1 to 1.7 dB at
/// 1/8, 0.4 to 0.9 at 1/4, 1.5 to 3 at 1/2. A pixel has `bytes` samples of one byte.
pub fn undo_means(samples: &mut [u8], size: Size, bytes: usize) {
    let (width, height) = (size.width as usize * bytes, size.height as usize);
    if size.width < 3 || size.height < 3 || bytes == 0 || samples.len() != width * height {
        return;
    }
    let sharper = |before: u8, at: u8, after: u8| {
        let value = 34 * i16::from(at) - i16::from(before) - i16::from(after) + 16;
        (value >> 5).clamp(0, 255) as u8
    };
    // Rows first, and columns with the row above as it was.
    let mut above = samples[..width].to_vec();
    let mut row = above.clone();
    for top in (0..height).map(|y| y * width) {
        row.copy_from_slice(&samples[top..top + width]);
        let (this, below) = samples[top..].split_at_mut(width);
        let below = below.get(..width).unwrap_or(&row);
        for (((to, &before), &at), &after) in this.iter_mut().zip(&above).zip(&row).zip(below) {
            *to = sharper(before, at, after);
        }
        std::mem::swap(&mut above, &mut row);
    }
    for line in samples.chunks_exact_mut(width) {
        row.copy_from_slice(line);
        for (to, around) in line[bytes..].iter_mut().zip(row.windows(2 * bytes + 1)) {
            *to = sharper(around[0], around[bytes], around[2 * bytes]);
        }
    }
}

/// Multiplies a picture's alpha into its colours, or divides it out again.
///
/// # Errors
/// [`RenderError::Resample`] when the picture is not what its layout says; a bug if it happens.
pub fn multiply_alpha(picture: &mut Picture, multiply: bool) -> Result<(), RenderError> {
    if !picture.layout.has_alpha() {
        return Ok(());
    }
    let (kind, size) = (picture.layout.kind(), (picture.size.width, picture.size.height));
    sendimage_pixels::multiply_alpha(kind, &mut picture.pixels, size, multiply)
        .map_err(|detail| RenderError::Resample { detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::picture::buffer_bytes;

    #[test]
    fn bands_come_to_the_same_picture() {
        let size = Size::new(157, 211);
        for layout in [Layout::Rgba8, Layout::Rgb8, Layout::Gray16, Layout::GrayAlpha8, Layout::Gray8] {
            let mut seed = 1_u32;
            let noise = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            });
            let pixels: Vec<u8> = noise.take(buffer_bytes(size, layout)).collect();
            for (crop, output) in
                [((0, 0, 157, 211), (40, 33)), ((3, 50, 140, 133), (90, 41)), ((10, 7, 50, 30), (99, 60))]
            {
                let crop = PixelRect { left: crop.0, top: crop.1, right: crop.2, bottom: crop.3 };
                let output = Size::new(output.0, output.1);
                let cut = Cut { crop, reduction: 1, output, first: Axis::Horizontal };
                let whole = resize(Picture { size, layout, pixels: pixels.clone(), profile: None }, cut).unwrap();
                let mut bands = Bands::new(cut, size).unwrap();
                for rows in pixels.chunks(37 * size.width as usize * layout.bytes()) {
                    let height = (rows.len() / layout.bytes()) as u32 / size.width;
                    let size = Size::new(size.width, height);
                    bands.add(Picture { size, layout, pixels: rows.to_vec(), profile: None }).unwrap();
                }
                assert!(bands.finish(None).unwrap().pixels == whole.pixels, "{layout:?} {crop:?}");
            }
        }
    }

    #[test]
    fn flat_areas_and_ramps_stay_as_they_are() {
        let size = Size::new(9, 7);
        for pixel in [|_: usize, _: usize| 77, |x: usize, _| (x * 20) as u8, |_, y: usize| (y * 30) as u8] {
            let made = |x0: usize| (0..63).map(|at| pixel(at % 9 + x0, at / 9)).collect::<Vec<u8>>();
            let mut samples = made(0);
            undo_means(&mut samples, size, 1);
            // At the edges a neighbour is missing.
            for (at, (found, expected)) in samples.iter().zip(made(0)).enumerate() {
                let inner = (1..8).contains(&(at % 9)) && (1..6).contains(&(at / 9));
                assert!(!inner || *found == expected, "{at}: {found}, not {expected}");
            }
        }
        let mut edge = [0, 0, 0, 100, 100, 100].repeat(5);
        undo_means(&mut edge, Size::new(6, 5), 1);
        assert_eq!(edge[12..18], [0, 0, 0, 103, 100, 100]);
        let mut colours: Vec<u8> =
            [0, 0, 0, 100, 100, 100].repeat(5).into_iter().flat_map(|sample| [sample, 7]).collect();
        undo_means(&mut colours, Size::new(6, 5), 2);
        assert_eq!(colours[24..36], [0, 7, 0, 7, 0, 7, 103, 7, 100, 7, 100, 7]);
    }
}
