//! Sizes, rectangles and the transform that a chain of operations builds up.
//!
//! Wagtail computes geometry in IEEE doubles and rounds at three places only; every rounding rule is stated once, here:
//! lengths are truncated ([`truncated_length`]), a crop's left and top are rounded down, its right and bottom up
//! ([`Rect::rounded_outward`]). The order of the floating-point operations is part of the contract: changing
//! `a * (b / c)` into `a * b / c` moves an edge by a pixel for some sizes. `tests/vectors/wagtail_geometry.json` decides.

use serde::{Deserialize, Serialize};

use super::DocumentSize;

use super::Orientation;

/// Width and height in pixels, both at least 1 in every valid image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl Size {
    /// A size from its two sides, in pixels.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Width x height; cannot overflow.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Both sides swapped, as a quarter turn does.
    pub fn transposed(self) -> Self {
        Self { width: self.height, height: self.width }
    }
}

/// A rectangle of whole pixels inside an image: `left..right` by `top..bottom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PixelRect {
    pub left: u32,
    pub top: u32,
    pub right: u32,
    pub bottom: u32,
}

impl PixelRect {
    /// The whole of an image.
    pub fn whole(size: Size) -> Self {
        Self { left: 0, top: 0, right: size.width, bottom: size.height }
    }

    /// Whether it holds a pixel, and none outside an image of this size.
    pub fn is_within(self, size: Size) -> bool {
        self.left < self.right && self.top < self.bottom && self.right <= size.width && self.bottom <= size.height
    }

    /// The rectangle's own size; none where its edges are the wrong way round.
    pub fn size(self) -> Size {
        Size::new(self.right.saturating_sub(self.left), self.bottom.saturating_sub(self.top))
    }
}

/// The part of a picture that must stay visible: a box in pixels of the upright source image, given by its centre and
/// size as Wagtail stores it. It may reach over the image's edge.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct FocalPoint {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl FocalPoint {
    /// The focal point that covers a rectangle.
    pub fn of(rect: PixelRect) -> Self {
        let [left, top, right, bottom] = [rect.left, rect.top, rect.right, rect.bottom].map(f64::from);
        Self { x: (left + right) / 2.0, y: (top + bottom) / 2.0, width: right - left, height: bottom - top }
    }
}

/// One of nine places, row by row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Place {
    TopLeft,
    Top,
    TopRight,
    Left,
    Center,
    Right,
    BottomLeft,
    Bottom,
    #[default]
    BottomRight,
}

/// A rectangle in doubles, as the arithmetic has it before rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Rect {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Rect {
    /// A rectangle around a centre.
    pub fn around(x: f64, y: f64, width: f64, height: f64) -> Self {
        Self { left: x - width / 2.0, top: y - height / 2.0, right: x + width / 2.0, bottom: y + height / 2.0 }
    }

    /// Right minus left.
    pub fn width(self) -> f64 {
        self.right - self.left
    }

    /// Bottom minus top.
    pub fn height(self) -> f64 {
        self.bottom - self.top
    }

    /// The middle of both axes.
    pub fn centre(self) -> (f64, f64) {
        ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0)
    }

    /// Moves the rectangle, without resizing, until `inner` is inside where that is possible. When `inner` is the larger
    /// one, right and bottom win, for they are looked at last.
    pub fn moved_to_cover(mut self, inner: Self) -> Self {
        if self.left > inner.left {
            self.right -= self.left - inner.left;
            self.left = inner.left;
        }
        if self.top > inner.top {
            self.bottom -= self.top - inner.top;
            self.top = inner.top;
        }
        if self.right < inner.right {
            self.left += inner.right - self.right;
            self.right = inner.right;
        }
        if self.bottom < inner.bottom {
            self.top += inner.bottom - self.bottom;
            self.bottom = inner.bottom;
        }
        self
    }

    /// Moves the rectangle, without resizing, until it is inside `outer`.
    pub fn moved_inside(mut self, outer: Self) -> Self {
        if self.left < outer.left {
            self.right -= self.left - outer.left;
            self.left = outer.left;
        }
        if self.top < outer.top {
            self.bottom -= self.top - outer.top;
            self.top = outer.top;
        }
        if self.right > outer.right {
            self.left -= self.right - outer.right;
            self.right = outer.right;
        }
        if self.bottom > outer.bottom {
            self.top -= self.bottom - outer.bottom;
            self.bottom = outer.bottom;
        }
        self
    }

    /// Whole pixels: left and top rounded down, right and bottom up.
    pub fn rounded_outward(self) -> Self {
        Self { left: self.left.floor(), top: self.top.floor(), right: self.right.ceil(), bottom: self.bottom.ceil() }
    }
}

/// A length after scaling: truncated towards zero, and never less than one pixel.
pub fn truncated_length(length: f64) -> f64 {
    length.trunc().max(1.0)
}

/// What a chain of crops and resizes amounts to: the size so far, and the scale and offset that lead from the source
/// image to it. All lengths are whole numbers held in doubles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    size: (f64, f64),
    scale: (f64, f64),
    offset: (f64, f64),
}

impl Transform {
    /// The transform that leaves an image of this size alone.
    pub fn identity(size: impl Into<DocumentSize>) -> Self {
        let DocumentSize { width, height } = size.into();
        Self { size: (width, height), scale: (1.0, 1.0), offset: (0.0, 0.0) }
    }

    /// Width and height so far.
    pub fn size(&self) -> (f64, f64) {
        self.size
    }

    /// Stretches the picture to a size.
    pub fn resized(&self, width: f64, height: f64) -> Self {
        Self {
            size: (width, height),
            scale: (self.scale.0 * width / self.size.0, self.scale.1 * height / self.size.1),
            offset: self.offset,
        }
    }

    /// Cuts the picture down to a rectangle of its present pixels.
    pub fn cropped(&self, rect: Rect) -> Self {
        Self {
            size: (rect.width(), rect.height()),
            scale: self.scale,
            offset: (self.offset.0 - rect.left / self.scale.0, self.offset.1 - rect.top / self.scale.1),
        }
    }

    /// Turns the picture, and with it the source, of which `source` is the size before.
    pub fn turned(&self, turn: Orientation, source: Size) -> Self {
        let swap = |(x, y): (f64, f64)| if turn.swaps_sides() { (y, x) } else { (x, y) };
        let shown = self.source_rect();
        let source = (f64::from(source.width), f64::from(source.height));
        let corners =
            [(shown.left, shown.top), (shown.right, shown.bottom)].map(|corner| turn.turn_point(corner, source));
        let [(x0, y0), (x1, y1)] = corners;
        Self { size: swap(self.size), scale: swap(self.scale), offset: (-x0.min(x1), -y0.min(y1)) }
    }

    /// The rectangle of the *source* image that this transform shows.
    pub fn source_rect(&self) -> Rect {
        Rect {
            left: -self.offset.0,
            top: -self.offset.1,
            right: -self.offset.0 + self.size.0 / self.scale.0,
            bottom: -self.offset.1 + self.size.1 / self.scale.1,
        }
    }
}
