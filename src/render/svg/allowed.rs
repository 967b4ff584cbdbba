//! What may stay in a document: everything else is left out. Sorted, for they are searched.

/// Elements (SVG 2, SVG 1.1 text and filters, SMIL animation without what sets links).
#[rustfmt::skip]
pub const ELEMENTS: &[&str] = &[
    "a", "animate", "animateMotion", "animateTransform", "circle", "clipPath", "defs", "desc", "ellipse", "feBlend",
    "feColorMatrix", "feComponentTransfer", "feComposite", "feConvolveMatrix", "feDiffuseLighting",
    "feDisplacementMap", "feDistantLight", "feDropShadow", "feFlood", "feFuncA", "feFuncB", "feFuncG", "feFuncR",
    "feGaussianBlur", "feImage", "feMerge", "feMergeNode", "feMorphology", "feOffset", "fePointLight",
    "feSpecularLighting", "feSpotLight", "feTile", "feTurbulence", "filter", "g", "image", "line", "linearGradient",
    "marker", "mask", "mpath", "path", "pattern", "polygon", "polyline", "radialGradient", "rect", "set", "stop",
    "style", "svg", "switch", "symbol", "text", "textPath", "title", "tspan", "use",
];

/// Elements that change an attribute as time passes.
pub const ANIMATIONS: &[&str] = &["animate", "animateMotion", "animateTransform", "set"];

/// Attributes without a namespace, whose values are numbers, names, paths, colours or references by `url(#...)`. Not among
/// them, for they are looked at apart: `style`, `href` and the namespaces. An animation may change no other attribute.
#[rustfmt::skip]
pub const ATTRIBUTES: &[&str] = &[
    "accumulate", "additive", "alignment-baseline", "amplitude", "attributeName", "attributeType", "azimuth",
    "baseFrequency", "baseline-shift", "begin", "bias", "by", "calcMode", "class", "clip", "clip-path", "clip-rule",
    "clipPathUnits", "color", "color-interpolation", "color-interpolation-filters", "color-rendering", "cx", "cy", "d",
    "diffuseConstant", "direction", "display", "divisor", "dominant-baseline", "dur", "dx", "dy", "edgeMode",
    "elevation", "enable-background", "end", "exponent", "fill", "fill-opacity", "fill-rule", "filter", "filterRes",
    "filterUnits", "flood-color", "flood-opacity", "font", "font-family", "font-size", "font-size-adjust",
    "font-stretch", "font-style", "font-variant", "font-weight", "fr", "from", "fx", "fy",
    "glyph-orientation-horizontal", "glyph-orientation-vertical", "gradientTransform", "gradientUnits", "height", "id",
    "image-rendering", "in", "in2", "intercept", "isolation", "k1", "k2", "k3", "k4", "kernelMatrix",
    "kernelUnitLength", "kerning", "keyPoints", "keySplines", "keyTimes", "lang", "lengthAdjust", "letter-spacing",
    "lighting-color", "limitingConeAngle", "marker", "marker-end", "marker-mid", "marker-start", "markerHeight",
    "markerUnits", "markerWidth", "mask", "mask-type", "maskContentUnits", "maskUnits", "max", "method", "min",
    "mix-blend-mode", "mode", "numOctaves", "offset", "opacity", "operator", "order", "orient", "origin", "overflow",
    "paint-order", "path", "pathLength", "patternContentUnits", "patternTransform", "patternUnits", "points",
    "pointsAtX", "pointsAtY", "pointsAtZ", "preserveAlpha", "preserveAspectRatio", "primitiveUnits", "r", "radius",
    "refX", "refY", "repeatCount", "repeatDur", "requiredFeatures", "restart", "result", "role", "rotate", "rx", "ry",
    "scale", "seed", "shape-rendering", "side", "slope", "spacing", "specularConstant", "specularExponent",
    "spreadMethod", "startOffset", "stdDeviation", "stitchTiles", "stop-color", "stop-opacity", "stroke",
    "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit",
    "stroke-opacity", "stroke-width", "surfaceScale", "systemLanguage", "tableValues", "targetX", "targetY",
    "text-anchor", "text-decoration", "text-rendering", "textLength", "to", "transform", "transform-origin", "type",
    "unicode-bidi", "values", "vector-effect", "version", "viewBox", "visibility", "width", "word-spacing",
    "writing-mode", "x", "x1", "x2", "xChannelSelector", "y", "y1", "y2", "yChannelSelector", "z", "zoomAndPan",
];

/// Attributes that an animation may not touch: they name things, or steer animations.
pub const NOT_ANIMATED: &[&str] =
    &["attributeName", "attributeType", "begin", "by", "end", "from", "id", "to", "values"];

/// Functions in values of CSS and of attributes. None of them fetches anything but `url`, whose argument is checked.
#[rustfmt::skip]
pub const FUNCTIONS: &[&str] = &[
    "", "blur", "brightness", "calc", "circle", "clamp", "color", "color-mix", "contrast", "cubic-bezier",
    "drop-shadow", "ellipse", "grayscale", "hsl", "hsla", "hue-rotate", "hwb", "inset", "invert", "lab", "lch",
    "linear-gradient", "matrix", "matrix3d", "max", "min", "oklab", "oklch", "opacity", "path", "perspective",
    "polygon", "radial-gradient", "rgb", "rgba", "rotate", "rotate3d", "rotatex", "rotatey", "rotatez", "saturate",
    "scale", "scale3d", "scalex", "scaley", "scalez", "sepia", "skew", "skewx", "skewy", "steps", "translate",
    "translate3d", "translatex", "translatey", "translatez", "url", "var",
];

/// Whether a sorted list has the name.
pub fn has(list: &[&str], name: &str) -> bool {
    list.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted() {
        for list in [ELEMENTS, ANIMATIONS, ATTRIBUTES, NOT_ANIMATED, FUNCTIONS] {
            assert!(list.windows(2).all(|pair| pair[0] < pair[1]), "{list:?}");
        }
    }
}
