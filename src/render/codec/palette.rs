//! Reducing a picture to 256 colours.

use std::collections::HashMap;

use quantette::{ImageRef, PaletteSize, Pipeline, deps::palette::Srgb};

use crate::render::picture::{Layout, Picture};

/// Pixels at least this opaque are shown; the others become the transparent index. GIF knows nothing in between.
const OPAQUE_FROM: u8 = 128;

/// A pixel as GIF can show it: a colour, or a hole.
pub type Visible = Option<[u8; 3]>;

/// A picture's pixels as GIF can show them.
pub fn visible_pixels(picture: Picture) -> Vec<Visible> {
    let picture = picture.into_colour();
    match picture.layout {
        Layout::Rgba8 => {
            let (pixels, _) = picture.pixels.as_chunks::<4>();
            pixels.iter().map(|&[r, g, b, alpha]| (alpha >= OPAQUE_FROM).then_some([r, g, b])).collect()
        }
        _ => picture.pixels.as_chunks::<3>().0.iter().copied().map(Some).collect(),
    }
}

/// A picture of at most 256 colours.
#[derive(Default)]
pub struct Indexed {
    /// Three bytes a colour.
    pub palette: Vec<u8>,
    /// One byte a pixel.
    pub indices: Vec<u8>,
    /// The index of pixels that let the ground show; it is the palette's last.
    pub transparent: Option<u8>,
}

impl Indexed {
    /// Keeps the colours where they are few enough, else picks the best ones. No dithering, as in Wagtail: it adds noise to
    /// flat art and bytes to every file.
    pub fn new(picture: Picture) -> Result<Self, String> {
        let pixels = visible_pixels(picture);
        let has_holes = pixels.contains(&None);
        Self::of(&pixels, has_holes)
    }

    /// Like [`Indexed::new`], with an index for holes whether there are any or not.
    pub fn with_hole(pixels: &[Visible]) -> Result<Self, String> {
        Self::of(pixels, true)
    }

    /// Other pixels in the same colours, if these are enough.
    pub fn reused(&self, pixels: &[Visible]) -> Option<Self> {
        let hole = self.transparent?;
        let mut known: HashMap<[u8; 3], u8> = HashMap::new();
        for (index, color) in self.palette.as_chunks::<3>().0.iter().enumerate().take(hole.into()) {
            known.entry(*color).or_insert(index as u8);
        }
        let index = |pixel: &Visible| pixel.map_or(Some(hole), |color| known.get(&color).copied());
        let indices = pixels.iter().map(index).collect::<Option<_>>()?;
        Some(Self { palette: Vec::new(), indices, transparent: Some(hole) })
    }

    fn of(pixels: &[Visible], hole: bool) -> Result<Self, String> {
        let room = 256 - usize::from(hole);
        let mut indexed = match exact(pixels, room) {
            Some(indexed) => indexed,
            None => reduced(pixels, room)?,
        };
        if hole {
            let hole = (indexed.palette.len() / 3) as u8;
            indexed.palette.extend_from_slice(&[0; 3]);
            indexed.transparent = Some(hole);
            for (index, pixel) in indexed.indices.iter_mut().zip(pixels) {
                if pixel.is_none() {
                    *index = hole;
                }
            }
        }
        Ok(indexed)
    }
}

/// The picture's own colours, in order of appearance, unless there are more than `room`.
fn exact(pixels: &[Visible], room: usize) -> Option<Indexed> {
    let mut known: HashMap<[u8; 3], u8> = HashMap::new();
    let mut palette = Vec::new();
    let mut indices = Vec::with_capacity(pixels.len());
    for pixel in pixels {
        let Some(color) = pixel else {
            indices.push(0);
            continue;
        };
        let index = match known.get(color) {
            Some(&index) => index,
            None if known.len() == room => return None,
            None => {
                let index = known.len() as u8;
                known.insert(*color, index);
                palette.extend_from_slice(color);
                index
            }
        };
        indices.push(index);
    }
    Some(Indexed { palette, indices, transparent: None })
}

/// Wu's quantiser over the visible pixels.
fn reduced(pixels: &[Visible], room: usize) -> Result<Indexed, String> {
    let visible: Vec<Srgb<u8>> = pixels.iter().flatten().map(|&[r, g, b]| Srgb::new(r, g, b)).collect();
    let size = PaletteSize::try_from(room).map_err(|_| "a palette of no colours")?;
    let row = ImageRef::new(visible.len() as u32, 1, &visible).map_err(|_| "too many pixels for a palette")?;
    let image = Pipeline::new().palette_size(size).ditherer(None).input_image(row).output_srgb8_indexed_image();
    let mut found = image.indices().iter().copied();
    let indices = pixels.iter().map(|pixel| if pixel.is_some() { found.next().unwrap_or_default() } else { 0 });
    Ok(Indexed {
        indices: indices.collect(),
        palette: image.palette().iter().flat_map(|color| [color.red, color.green, color.blue]).collect(),
        transparent: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Size;

    fn ramp(count: u32, alpha: impl Fn(u32) -> u8) -> Picture {
        let pixels = (0..count).flat_map(|i| [i as u8, (i / 7) as u8, (i / 256) as u8, alpha(i)]).collect();
        Picture { size: Size::new(count, 1), layout: Layout::Rgba8, pixels, profile: None }
    }

    #[test]
    fn few_colours_are_kept() {
        let indexed = Indexed::new(ramp(255, |i| if i == 3 { 0 } else { 255 })).unwrap();
        assert_eq!(indexed.palette.len(), 255 * 3);
        assert_eq!(indexed.transparent, Some(254));
        assert_eq!(indexed.indices[3], 254);
        let at = usize::from(indexed.indices[100]) * 3;
        assert_eq!(indexed.palette[at..at + 3], [100, 14, 0]);
    }

    #[test]
    fn many_colours_leave_room_for_the_hole() {
        let indexed = Indexed::new(ramp(2000, |i| if i % 2 == 0 { 255 } else { 10 })).unwrap();
        assert!(indexed.palette.len() <= 256 * 3);
        let hole = indexed.transparent.unwrap();
        assert_eq!(usize::from(hole) + 1, indexed.palette.len() / 3);
        assert!(indexed.indices.iter().skip(1).step_by(2).all(|&index| index == hole));
        assert!(indexed.indices.iter().step_by(2).all(|&index| index != hole));
    }

    #[test]
    fn nothing_visible_is_still_a_picture() {
        let indexed = Indexed::new(ramp(4, |_| 0)).unwrap();
        assert_eq!((indexed.palette.len(), indexed.transparent), (3, Some(0)));
    }
}
