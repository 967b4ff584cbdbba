//! What only the pixels can tell, and a plan has to know: where a picture's border ends, and where its subject is.
//!
//! A *look* is a job of its own, done once for a version of a source image. Its finding is a rectangle, so the plan that
//! follows is made of numbers like any other: limits, memory and the rendition's name are known before the render.

use serde::{Deserialize, Serialize};

use super::{
    RenderError, codec, orient,
    picture::Picture,
    plan::{Encoding, Plan},
    resample,
};
use crate::{
    model::{FocalPoint, ImageFormat, Orientation, PixelRect, Size, SourceFacts},
    spec::{FilterSpec, Operation},
};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// What is left without the border of the corner's colour.
    Trim {
        /// The most that a border's sample differs from the corner's, 0 to 255.
        tolerance: u8,
    },
    /// The part of this aspect ratio that shows the most.
    Interest {
        /// Parts of the width, in lowest terms.
        across: u32,
        /// Parts of the height.
        down: u32,
    },
}

impl Look {
    /// What `trim` needs to know; the last one counts.
    pub fn trim(spec: &FilterSpec) -> Option<Self> {
        spec.operations().iter().rev().find_map(|operation| match operation {
            Operation::Trim(tolerance) => Some(Self::Trim { tolerance: *tolerance }),
            _ => None,
        })
    }

    /// What `smart` needs to know: for the last `fill`, and where no focal point is set.
    pub fn interest(spec: &FilterSpec, focal_point: Option<FocalPoint>) -> Option<Self> {
        if focal_point.is_some() || !spec.operations().contains(&Operation::Smart) {
            return None;
        }
        let (mut turn, mut sides) = (Orientation::Upright, None);
        for operation in spec.operations() {
            match operation {
                Operation::Turn(next) => turn = turn.then(next.orientation()),
                Operation::Fill { width, height, .. } => sides = Some((*width, *height, turn)),
                _ => {}
            }
        }
        let (width, height, turn) = sides?;
        let (width, height) = if turn.swaps_sides() { (height, width) } else { (width, height) };
        let divisor = greatest_common_divisor(width, height).max(1);
        let part = |length: u64| u32::try_from(length / divisor).unwrap_or(u32::MAX);
        Some(Self::Interest { across: part(width), down: part(height) })
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// What looks have found in one version of a source image, in pixels of the upright picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Finding {
    look: Look,
    found: PixelRect,
}

impl Findings {
    /// Findings kept for one source; the oldest is forgotten for a new one.
    const MOST: usize = 64;

    /// What a look has found.
    pub fn of(&self, look: Look) -> Option<PixelRect> {
        self.0.iter().find(|finding| finding.look == look).map(|finding| finding.found)
    }

    /// Notes what a look has found.
    pub fn note(&mut self, look: Look, found: PixelRect) {
        self.0.retain(|finding| finding.look != look);
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push(Finding { look, found });
    }
}

/// The longer side of the picture that `smart` looks at.
const THUMBNAIL_SIDE: u32 = 256;

impl Plan {
    /// The decoding and shrinking that a look needs.
    pub fn to_look(facts: &SourceFacts, look: Look) -> Self {
        let size = facts.upright_size();
        let (output_size, decode_reduction) = match look {
            // The border ends at a pixel, not at the eighth of one.
            Look::Trim { .. } => (size, 1),
            Look::Interest { .. } => {
                let longer = size.width.max(size.height).max(1);
                let share = (f64::from(THUMBNAIL_SIDE) / f64::from(longer)).min(1.0);
                let side = |length: u32| ((f64::from(length) * share) as u32).max(1);
                let reduction = [8, 4, 2].into_iter().find(|n| longer / n >= 2 * THUMBNAIL_SIDE).unwrap_or(1);
                let jpeg = facts.format == ImageFormat::Jpeg;
                (Size::new(side(size.width), side(size.height)), if jpeg { reduction as u8 } else { 1 })
            }
        };
        Self { decode_reduction, output_size, ..Self::whole(facts.clone(), Encoding::Png) }
    }
}

/// Looks at a source image. The finding is in pixels of the upright picture, and within it.
///
/// # Errors
/// When the source cannot be decoded, or is not what the plan was made for.
pub fn look(source: &[u8], plan: &Plan, look: Look) -> Result<PixelRect, RenderError> {
    let cut = plan.cut_as_stored()?;
    let picture = codec::decode(source, plan)?;
    let upright_size = plan.source.upright_size();
    match look {
        Look::Trim { tolerance } => {
            let stored = picture.size;
            let found = content(&picture.into_screen_colours().into_8_bits(), tolerance);
            let back = plan.turn.inverse();
            Ok(found.map_or(PixelRect::whole(upright_size), |rect| {
                orient::rect_as_stored(rect, back, plan.turn.upright(stored))
            }))
        }
        Look::Interest { across, down } => {
            let small = orient::turn_upright(resample::resize(picture, cut)?, plan.turn).into_colour();
            Ok(interest(&small, upright_size, across, down))
        }
    }
}

/// What is inside the border of the top left corner's colour; `None` where that is all there is.
fn content(picture: &Picture, tolerance: u8) -> Option<PixelRect> {
    let bytes = picture.layout.bytes();
    let corner = picture.pixels.get(..bytes)?;
    // Of transparent pixels, the colour does not show.
    let clear = |pixel: &[u8]| picture.layout.has_alpha() && pixel[bytes - 1] == 0;
    let differs = |pixel: &[u8]| {
        !(clear(pixel) && clear(corner)) && pixel.iter().zip(corner).any(|(a, b)| a.abs_diff(*b) > tolerance)
    };
    let (mut left, mut right) = (u32::MAX, 0);
    let (mut top, mut bottom) = (None, 0);
    for (y, row) in (0u32..).zip(picture.pixels.chunks_exact(picture.stride())) {
        let Some(first) = row.chunks_exact(bytes).position(differs) else { continue };
        let last = row.chunks_exact(bytes).rposition(differs).unwrap_or(first);
        left = left.min(first as u32);
        right = right.max(last as u32 + 1);
        top = top.or(Some(y));
        bottom = y + 1;
    }
    Some(PixelRect { left, top: top?, right, bottom })
}

/// The best crop of an aspect ratio, found on a small picture, in pixels of the whole one.
fn interest(small: &Picture, size: Size, across: u32, down: u32) -> PixelRect {
    let whole = PixelRect::whole(size);
    // Only the ratio counts; extreme ones are still one pixel wide.
    let ratio = f64::from(across) / f64::from(down.max(1));
    let (width, height) = if ratio >= 1.0 { (1000.0, 1000.0 / ratio) } else { (1000.0 * ratio, 1000.0) };
    let sides = [width, height].map(|side| std::num::NonZeroU32::new(side.round() as u32));
    let [Some(width), Some(height)] = sides else { return whole };
    let Ok(found) = smartcrop::find_best_crop(&Seen::whole(small), width, height) else { return whole };
    let scale = |at: u32, small: u32, whole: u32| (u64::from(at) * u64::from(whole) / u64::from(small.max(1))) as u32;
    let crop = found.crop;
    let rect = PixelRect {
        left: scale(crop.x, small.size.width, size.width),
        top: scale(crop.y, small.size.height, size.height),
        right: scale(crop.x.saturating_add(crop.width), small.size.width, size.width).min(size.width),
        bottom: scale(crop.y.saturating_add(crop.height), small.size.height, size.height).min(size.height),
    };
    if rect.left < rect.right && rect.top < rect.bottom { rect } else { whole }
}

/// A picture as the analysis wants it.
struct Seen {
    width: u32,
    height: u32,
    pixels: Vec<smartcrop::RGB>,
}

impl Seen {
    /// Of a picture in colour.
    fn whole(picture: &Picture) -> Self {
        let bytes = picture.layout.bytes();
        let pixels = picture.pixels.chunks_exact(bytes).map(|pixel| smartcrop::RGB::new(pixel[0], pixel[1], pixel[2]));
        Self { width: picture.size.width, height: picture.size.height, pixels: pixels.collect() }
    }

    /// A part of it at another size: the nearest pixels, for the picture is a thumbnail already.
    fn part(&self, (left, top): (u32, u32), from: (u32, u32), to: (u32, u32)) -> Self {
        use smartcrop::Image as _;
        let near = |at: u32, to: u32, from: u32| (u64::from(at) * u64::from(from) / u64::from(to.max(1))) as u32;
        let rows = (0..to.1).map(|y| top + near(y, to.1, from.1));
        let pixels = rows.flat_map(|y| (0..to.0).map(move |x| self.get(left + near(x, to.0, from.0), y))).collect();
        Self { width: to.0, height: to.1, pixels }
    }
}

impl smartcrop::Image for Seen {
    fn width(&self) -> u32 {
        self.width
    }

    fn height(&self) -> u32 {
        self.height
    }

    fn get(&self, x: u32, y: u32) -> smartcrop::RGB {
        let at = y as usize * self.width as usize + x as usize;
        self.pixels.get(at).copied().unwrap_or(smartcrop::RGB::new(0, 0, 0))
    }
}

impl smartcrop::ResizableImage<Self> for Seen {
    fn resize(&self, width: u32, height: u32) -> Self {
        self.part((0, 0), (self.width, self.height), (width, height))
    }

    fn crop_and_resize(&self, crop: smartcrop::Crop, width: u32, height: u32) -> Self {
        self.part((crop.x, crop.y), (crop.width, crop.height), (width, height))
    }
}
