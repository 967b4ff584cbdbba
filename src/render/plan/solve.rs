//! The geometry of a filter spec: which part of the source, turned how, at what size.
//!
//! The arithmetic is that of Wagtail 8.0.1 (`wagtail.images.image_operations`), in doubles and in the same order; see
//! [`crate::model::geometry`] for the rounding rules. Our own operations join it as further steps of the same walk.

use super::PlanError;
use crate::{
    model::{
        DocumentSize, FocalPoint, Orientation, PixelRect, Size,
        geometry::{Rect, Transform, truncated_length},
    },
    spec::{Closeness, Dpr, FilterSpec, Operation},
};

/// What a spec's operations on geometry amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solved {
    /// How the upright source is turned.
    pub turn: Orientation,
    /// What to keep, in whole pixels of the turned source, within it.
    pub crop: PixelRect,
    /// The size to resample to.
    pub output_size: Size,
    /// The same, as a vector image has it: one that nothing was done to need not be whole.
    pub document: DocumentSize,
    /// The canvas around it, where `pad` asks for one.
    pub canvas: Option<Size>,
}

/// Solves a spec for an upright picture of `size`; of a trimmed source, only `content` is there.
///
/// # Errors
/// [`PlanError::EmptyCrop`] and [`PlanError::TooLarge`].
pub fn solve(
    size: impl Into<DocumentSize>,
    content: Option<PixelRect>,
    spec: &FilterSpec,
    focal_point: Option<FocalPoint>,
) -> Result<Solved, PlanError> {
    let size = size.into();
    let mut walk = Walk::new(size, focal_point, dpr(spec));
    if let Some(PixelRect { left, top, right, bottom }) = content {
        let [left, top, right, bottom] = [left, top, right, bottom].map(f64::from);
        walk.cut(Rect { left, top, right, bottom })?;
    }
    for operation in spec.operations() {
        walk.take(operation)?;
    }
    Ok(Solved {
        turn: walk.turn,
        crop: clamp(walk.transform.source_rect().rounded_outward(), walk.turn.upright(size.rounded_up()))?,
        output_size: output_size(&walk.transform)?,
        document: DocumentSize { width: walk.transform.size().0, height: walk.transform.size().1 },
        canvas: walk.canvas,
    })
}

/// The last `dpr-` counts.
pub(super) fn dpr(spec: &FilterSpec) -> Dpr {
    let ratio = |operation: &Operation| match operation {
        Operation::Dpr(dpr) => Some(*dpr),
        _ => None,
    };
    spec.operations().iter().rev().find_map(ratio).unwrap_or(Dpr::ONE)
}

/// The picture as it is after some of the operations.
struct Walk {
    /// From the turned source to the picture so far.
    transform: Transform,
    turn: Orientation,
    /// Of the turned source.
    size: Size,
    /// In pixels of the picture so far, as Wagtail's `fill` takes it: resizing does not move it, our cuts and turns do.
    focus: Option<FocalPoint>,
    dpr: Dpr,
    canvas: Option<Size>,
}

impl Walk {
    fn new(size: DocumentSize, focus: Option<FocalPoint>, dpr: Dpr) -> Self {
        let (transform, size) = (Transform::identity(size), size.rounded_up());
        Self { transform, turn: Orientation::Upright, size, focus, dpr, canvas: None }
    }

    fn take(&mut self, operation: &Operation) -> Result<(), PlanError> {
        match operation {
            Operation::Turn(turn) => self.turn(turn.orientation()),
            Operation::Crop { left, top, width, height } => {
                let [left, top, width, height] = [left, top, width, height].map(|length| *length as f64);
                self.cut(Rect { left, top, right: left + width, bottom: top + height })?;
            }
            Operation::Pad { width, height, .. } => {
                let [width, height] = [width, height].map(|length| self.dpr.times(*length));
                self.transform = sized(&Operation::Max(width, height), &self.transform, self.focus);
                let side = |length: u64| u32::try_from(length).map_err(|_| PlanError::TooLarge);
                self.canvas = Some(Size::new(side(width)?, side(height)?));
            }
            other => self.transform = sized(&denser(other, self.dpr), &self.transform, self.focus),
        }
        Ok(())
    }

    /// Cuts the picture so far down to a rectangle of it.
    fn cut(&mut self, rect: Rect) -> Result<(), PlanError> {
        let (width, height) = self.transform.size();
        let rect = Rect { right: rect.right.min(width), bottom: rect.bottom.min(height), ..rect };
        if rect.left >= rect.right || rect.top >= rect.bottom {
            return Err(PlanError::EmptyCrop);
        }
        self.transform = self.transform.cropped(rect);
        self.focus = self.focus.map(|focus| FocalPoint { x: focus.x - rect.left, y: focus.y - rect.top, ..focus });
        Ok(())
    }

    fn turn(&mut self, turn: Orientation) {
        let (width, height) = self.transform.size();
        self.focus = self.focus.map(|focus| {
            let (x, y) = turn.turn_point((focus.x, focus.y), (width, height));
            let (width, height) =
                if turn.swaps_sides() { (focus.height, focus.width) } else { (focus.width, focus.height) };
            FocalPoint { x, y, width, height }
        });
        self.transform = self.transform.turned(turn, self.size);
        self.size = turn.upright(self.size);
        self.turn = self.turn.then(turn);
    }
}

/// The operation on a screen with more pixels: longer lengths. A percentage and a crop mean the picture's own pixels.
fn denser(operation: &Operation, dpr: Dpr) -> Operation {
    let times = |length: u64| dpr.times(length);
    match *operation {
        Operation::Width(width) => Operation::Width(times(width)),
        Operation::Height(height) => Operation::Height(times(height)),
        Operation::Max(width, height) => Operation::Max(times(width), times(height)),
        Operation::Min(width, height) => Operation::Min(times(width), times(height)),
        Operation::Fill { width, height, closeness } => {
            Operation::Fill { width: times(width), height: times(height), closeness }
        }
        ref other => other.clone(),
    }
}

fn output_size(transform: &Transform) -> Result<Size, PlanError> {
    let (width, height) = transform.size();
    let side = |length: f64| {
        if length >= 1.0 && length <= f64::from(u32::MAX) { Ok(length as u32) } else { Err(PlanError::TooLarge) }
    };
    Ok(Size::new(side(width)?, side(height)?))
}

/// The rectangle within the picture, as Willow's `crop` clamps it.
fn clamp(rect: Rect, size: Size) -> Result<PixelRect, PlanError> {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    if rect.left >= rect.right
        || rect.left >= width
        || rect.right <= 0.0
        || rect.top >= rect.bottom
        || rect.top >= height
        || rect.bottom <= 0.0
    {
        return Err(PlanError::EmptyCrop);
    }
    Ok(PixelRect {
        left: rect.left.max(0.0) as u32,
        top: rect.top.max(0.0) as u32,
        right: rect.right.min(width) as u32,
        bottom: rect.bottom.min(height) as u32,
    })
}

/// One of Wagtail's own steps.
fn sized(operation: &Operation, transform: &Transform, focal_point: Option<FocalPoint>) -> Transform {
    let (image_width, image_height) = transform.size();
    match *operation {
        Operation::Width(width) => {
            let width = width as f64;
            if image_width <= width {
                return *transform;
            }
            let scale = width / image_width;
            transform.resized(width.max(1.0), truncated_length(image_height * scale))
        }
        Operation::Height(height) => {
            let height = height as f64;
            if image_height <= height {
                return *transform;
            }
            let scale = height / image_height;
            transform.resized(truncated_length(image_width * scale), height.max(1.0))
        }
        Operation::Max(width, height) => {
            let (width, height) = (width as f64, height as f64);
            if image_width <= width && image_height <= height {
                return *transform;
            }
            let (horizontal, vertical) = (width / image_width, height / image_height);
            fit(transform, width, height, horizontal < vertical, horizontal, vertical)
        }
        Operation::Min(width, height) => {
            let (width, height) = (width as f64, height as f64);
            if image_width <= width || image_height <= height {
                return *transform;
            }
            let (horizontal, vertical) = (width / image_width, height / image_height);
            fit(transform, width, height, horizontal > vertical, horizontal, vertical)
        }
        Operation::Scale(percent) => {
            let scale = percent / 100.0;
            transform.resized(truncated_length(image_width * scale), truncated_length(image_height * scale))
        }
        Operation::Fill { width, height, closeness } => {
            fill(transform, width as f64, height as f64, closeness, focal_point)
        }
        // What `Walk` sees to, and what does not touch the geometry.
        _ => *transform,
    }
}

/// Resizes to the given width or the given height, the other side in proportion.
fn fit(transform: &Transform, width: f64, height: f64, by_width: bool, horizontal: f64, vertical: f64) -> Transform {
    let (image_width, image_height) = transform.size();
    if by_width {
        transform.resized(width.max(1.0), truncated_length(image_height * horizontal))
    } else {
        transform.resized(truncated_length(image_width * vertical), height.max(1.0))
    }
}

/// The largest crop of the target's aspect ratio, moved over the focal point and, with closeness, drawn in on it; then
/// down to the target size, never up.
fn fill(
    transform: &Transform,
    width: f64,
    height: f64,
    closeness: Closeness,
    focal_point: Option<FocalPoint>,
) -> Transform {
    let (image_width, image_height) = transform.size();
    let focus = focal_point.map(|f| Rect::around(f.x, f.y, f.width, f.height));
    let aspect_ratio = width / height;

    let largest_width = image_width.min(image_height * aspect_ratio);
    let largest_height = largest_width / aspect_ratio;
    let (mut crop_width, mut crop_height) = (largest_width, largest_height);

    if let Some(focus) = focus {
        // A chained `max`/`min` here is Python's: the first argument wins a tie, and a NaN in second place is dropped.
        let smallest_width = python_max(focus.width(), focus.height() * aspect_ratio);
        let smallest_height = smallest_width / aspect_ratio;
        // The focal point may be larger than the picture.
        if smallest_width < largest_width || smallest_width.is_nan() {
            let without_enlarging = python_max(
                1.0 - (width - smallest_width) / (largest_width - smallest_width),
                1.0 - (height - smallest_height) / (largest_height - smallest_height),
            );
            let wanted = f64::from(closeness.percent()) / 100.0;
            let closeness = if without_enlarging < wanted { without_enlarging } else { wanted };
            if (0.0..=1.0).contains(&closeness) {
                crop_width = largest_width + (smallest_width - largest_width) * closeness;
                crop_height = largest_height + (smallest_height - largest_height) * closeness;
            }
        }
    }

    let (focus_x, focus_y) = focus.map_or((image_width / 2.0, image_height / 2.0), Rect::centre);
    let (u, v) = (focus_x / image_width, focus_y / image_height);
    let x = focus_x - (u - 0.5) * crop_width;
    let y = focus_y - (v - 0.5) * crop_height;

    let mut rect = Rect::around(x, y, crop_width, crop_height);
    if let Some(focus) = focus {
        rect = rect.moved_to_cover(focus);
    }
    let image = Rect { left: 0.0, top: 0.0, right: image_width, bottom: image_height };
    let cropped = transform.cropped(rect.moved_inside(image).rounded_outward());

    if width / cropped.size().0 < 1.0 { cropped.resized(width, height) } else { cropped }
}

fn python_max(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}
