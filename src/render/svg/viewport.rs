//! The root element's size, and what a crop makes of it: the arithmetic of Willow 1.12 (`willow.svg`), in doubles and in the
//! same order, for the numbers stand in the result as text.

use roxmltree::Node;

use super::damaged;
use crate::{
    model::{DocumentSize, PixelRect},
    render::RenderError,
};

/// CSS pixels in an inch, and in an em of the root.
const INCH: f64 = 96.0;
const EM: f64 = 16.0;
/// What browsers give a document that says nothing (CSS Images 3, "default object size").
const DEFAULT: DocumentSize = DocumentSize { width: 300.0, height: 150.0 };

/// How the document lies in its viewport.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Viewport {
    pub size: DocumentSize,
    /// Whether the document itself says its size.
    says_size: bool,
    view_box: ViewBox,
    align: Align,
}

/// The part of user space that the viewport shows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ViewBox {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// `preserveAspectRatio`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Align {
    None,
    /// Where spare room goes, as a share of it, and whether the view box covers the viewport.
    Uniform {
        x: f64,
        y: f64,
        slice: bool,
    },
}

/// What becomes of the root element's attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Root {
    pub width: String,
    pub height: String,
    pub view_box: String,
}

impl Viewport {
    /// Reads the root element.
    pub fn of(root: Node<'_, '_>) -> Result<Self, RenderError> {
        let view_box = root.attribute("viewBox").filter(|text| !text.is_empty()).map(ViewBox::parse).transpose()?;
        let align = Align::parse(root.attribute("preserveAspectRatio").unwrap_or_default())?;
        let length = |name| root.attribute(name).filter(|text| !text.is_empty()).map(Length::parse).transpose();
        // One that is missing, or relative to a page that does not exist, is taken from the other.
        let (width, height) = match (length("width")?, length("height")?) {
            (Some(width), None) => (Some(width), Some(width)),
            (None, height) => (height, height),
            (Some(Length::Relative), height) => (height, height),
            (width, Some(Length::Relative)) => (width, width),
            both => both,
        };
        let (size, says_size) = match (width, height) {
            (Some(Length::Pixels(width)), Some(Length::Pixels(height))) => (DocumentSize { width, height }, true),
            _ => match view_box {
                Some(ViewBox { width, height, .. }) => (DocumentSize { width, height }, true),
                None => (DEFAULT, false),
            },
        };
        let DocumentSize { width, height } = size;
        let view_box = view_box.unwrap_or(ViewBox { x: 0.0, y: 0.0, width, height });
        Ok(Self { size, says_size, view_box, align })
    }

    /// The whole document, as it is.
    pub fn whole(&self) -> Root {
        self.root(self.view_box, self.size)
    }

    /// A rectangle of the document, shown at a size.
    pub fn cut(&self, crop: PixelRect, size: DocumentSize) -> Root {
        let ViewBox { x, y, width, height } = self.view_box;
        let (mut scale_x, mut scale_y) = (self.size.width / width, self.size.height / height);
        let mut spare = (0.0, 0.0);
        if let Align::Uniform { x, y, slice } = self.align {
            let scale = if (scale_x > scale_y) == slice { scale_x } else { scale_y };
            (scale_x, scale_y) = (scale, scale);
            spare = ((self.size.width - width * scale) * x, (self.size.height - height * scale) * y);
        }
        let (move_x, move_y) = (x * scale_x - spare.0, y * scale_y - spare.1);
        let horizontal = |edge: u32| (f64::from(edge) + move_x) / scale_x;
        let vertical = |edge: u32| (f64::from(edge) + move_y) / scale_y;
        let (left, top) = (horizontal(crop.left), vertical(crop.top));
        let (right, bottom) = (horizontal(crop.right), vertical(crop.bottom));
        self.root(ViewBox { x: left, y: top, width: right - left, height: bottom - top }, size)
    }

    fn root(&self, view_box: ViewBox, size: DocumentSize) -> Root {
        let ViewBox { x, y, width, height } = view_box;
        // Python writes what it computed as a float with a point, and a whole number of pixels without.
        let untouched = size == self.size && self.says_size;
        let side = |length: f64| if untouched { format!("{length:?}") } else { format!("{length}") };
        Root {
            width: side(size.width),
            height: side(size.height),
            view_box: format!("{x:?} {y:?} {width:?} {height:?}"),
        }
    }
}

/// A `width` or `height`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Length {
    Pixels(f64),
    /// A share of a page.
    Relative,
}

impl Length {
    fn parse(text: &str) -> Result<Self, RenderError> {
        // An amount is multiplied by both numbers in turn.
        const UNITS: [(&str, f64, f64); 8] = [
            ("px", 1.0, 1.0),
            ("em", EM, 1.0),
            ("ex", EM, 0.5),
            ("in", INCH, 1.0),
            ("cm", INCH, 1.0 / 2.54),
            ("mm", INCH, 1.0 / 25.4),
            ("pt", INCH, 1.0 / 72.0),
            ("pc", INCH, 1.0 / 6.0),
        ];
        let text = text.trim();
        let unit = UNITS.iter().find_map(|(unit, a, b)| Some((text.strip_suffix(unit)?, Some((a, b)))));
        let (amount, pixels) = match text.strip_suffix('%') {
            Some(amount) => (amount, None),
            None => unit.unwrap_or((text, Some((&1.0, &1.0)))),
        };
        let amount = number(amount.trim()).filter(|amount| *amount > 0.0);
        let amount = amount.ok_or_else(|| damaged("its width or height is not a length"))?;
        match pixels.map(|(a, b)| amount * a * b) {
            None => Ok(Self::Relative),
            Some(pixels) if pixels.is_finite() && pixels > 0.0 => Ok(Self::Pixels(pixels)),
            Some(_) => Err(damaged("its width or height is not a length")),
        }
    }
}

impl ViewBox {
    fn parse(text: &str) -> Result<Self, RenderError> {
        let parts = text.split([',', ' ', '\t', '\n', '\r']).filter(|part| !part.is_empty());
        let numbers: Option<Vec<f64>> = parts.map(number).collect();
        match numbers.as_deref() {
            Some(&[x, y, width, height]) if width > 0.0 && height > 0.0 => Ok(Self { x, y, width, height }),
            _ => Err(damaged("its viewBox is not four numbers with a size")),
        }
    }
}

impl Align {
    fn parse(text: &str) -> Result<Self, RenderError> {
        let damaged = || damaged("its preserveAspectRatio is unknown");
        let mut words = text.split_ascii_whitespace();
        let align = words.next().unwrap_or("xMidYMid");
        let slice = match (words.next(), words.next()) {
            (None | Some("meet"), None) => false,
            (Some("slice"), None) => true,
            _ => return Err(damaged()),
        };
        if align == "none" {
            return Ok(Self::None);
        }
        let share = |word| match word {
            "Min" => Some(0.0),
            "Mid" => Some(0.5),
            "Max" => Some(1.0),
            _ => None,
        };
        let halves = align.strip_prefix('x').and_then(|rest| rest.split_once('Y'));
        let shares = halves.and_then(|(x, y)| Some((share(x)?, share(y)?)));
        let (x, y) = shares.ok_or_else(damaged)?;
        Ok(Self::Uniform { x, y, slice })
    }
}

/// A number of SVG's grammar; what a float may also be called (`nan`, `inf`) is none.
fn number(text: &str) -> Option<f64> {
    let digits = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    text.chars().all(digits).then(|| text.parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}
