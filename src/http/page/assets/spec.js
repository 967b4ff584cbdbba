// The fields' values to a filter spec, and back where the fields can say it.

export const FITS = {
  width: ["Width", ["width"], "As wide as this; never enlarged."],
  height: ["Height", ["height"], "As high as this; never enlarged."],
  max: ["Fit", ["width", "height"], "All of it, within this box."],
  fill: ["Fill", ["width", "height", "closeness"], "Exactly this size: what does not fit is cropped, around the focal point, and closer to it where you like."],
  pad: ["Pad", ["width", "height", "padding"], "All of it, in a canvas of exactly this size."],
  min: ["Cover", ["width", "height"], "Just large enough to cover this box."],
  scale: ["Scale", ["scale"], "By a percentage."],
  original: ["Original", [], "As large as it is."],
};
const QUALITY = { jpeg: "jpegquality", webp: "webpquality", avif: "avifquality" };
export const qualityOf = format => QUALITY[format];
export const DEFAULTS = { fit: "width", width: "800" };

const number = value => String(value ?? "").trim();

export function build(f) {
  const parts = [];
  const add = (name, value) => { if (number(value) !== "") parts.push(`${name}-${number(value)}`); };
  add("trim", f.trim);
  if ([f.cx, f.cy, f.cw, f.ch].some(value => number(value) !== "")) {
    parts.push(`crop-${number(f.cx) || 0},${number(f.cy) || 0},${number(f.cw)},${number(f.ch)}`);
  }
  add("rotate", f.rotate);
  if (f.fliph) parts.push("flip-h");
  if (f.flipv) parts.push("flip-v");
  const box = `${number(f.width)}x${number(f.height)}`;
  switch (f.fit) {
    case "width": parts.push(`width-${number(f.width)}`); break;
    case "height": parts.push(`height-${number(f.height)}`); break;
    case "scale": parts.push(`scale-${number(f.scale)}`); break;
    case "fill": parts.push(`fill-${box}${Number(f.closeness) > 0 ? `-c${number(f.closeness)}` : ""}`); break;
    case "pad": parts.push(`pad-${box}${number(f.padding) ? `-${number(f.padding).replace("#", "")}` : ""}`); break;
    case "max": case "min": parts.push(`${f.fit}-${box}`); break;
    default: break;
  }
  if (f.smart) parts.push("smart");
  add("blur", f.blur);
  add("sharpen", f.sharpen);
  if (f.grayscale) parts.push("grayscale");
  if (f.invert) parts.push("invert");
  add("bgcolor", number(f.bgcolor).replace("#", ""));
  add("watermark", f.watermark);
  add("format", f.format);
  if (QUALITY[f.format]) add(QUALITY[f.format], f.quality);
  if (f.meta) parts.push("keep-meta");
  return parts.join("|") || "original";
}

const READERS = [
  [/^trim-(\d+)$/, (f, m) => { f.trim = m[1]; }],
  [/^crop-(\d+),(\d+),(\d+),(\d+)$/, (f, m) => { [, f.cx, f.cy, f.cw, f.ch] = m; }],
  [/^rotate-(90|180|270)$/, (f, m) => { f.rotate = m[1]; }],
  [/^flip-h$/, f => { f.fliph = true; }],
  [/^flip-v$/, f => { f.flipv = true; }],
  [/^(width|height)-(\d+)$/, (f, m) => { f.fit = m[1]; f[m[1]] = m[2]; }],
  [/^(max|min)-(\d+)x(\d+)$/, (f, m) => { [, f.fit, f.width, f.height] = m; }],
  [/^fill-(\d+)x(\d+)(?:-c(\d+))?$/, (f, m) => { f.fit = "fill"; [, f.width, f.height, f.closeness = "0"] = m; }],
  [/^pad-(\d+)x(\d+)(?:-([0-9a-fA-F]+))?$/, (f, m) => { f.fit = "pad"; [, f.width, f.height, f.padding = ""] = m; }],
  [/^scale-([\d.]+)$/, (f, m) => { f.fit = "scale"; f.scale = m[1]; }],
  [/^original$/, f => { f.fit = "original"; }],
  [/^smart$/, f => { f.smart = true; }],
  [/^(blur|sharpen)-([\d.]+)$/, (f, m) => { f[m[1]] = m[2]; }],
  [/^(grayscale|invert)$/, (f, m) => { f[m[1]] = true; }],
  [/^bgcolor-([0-9a-fA-F]+)$/, (f, m) => { f.bgcolor = m[1]; }],
  [/^watermark-([\w-]+)$/, (f, m) => { f.watermark = m[1]; }],
  [/^format-([a-z-]+)$/, (f, m) => { f.format = m[1]; }],
  [/^(?:jpeg|webp|avif)quality-(\d+)$/, (f, m) => { f.quality = m[1]; }],
  [/^keep-meta$/, f => { f.meta = true; }],
];

// The fields that say the same, or nothing where they cannot: another order, an operation twice.
export function read(spec) {
  const fields = { fit: "original" };
  for (const part of spec.split("|")) {
    const found = READERS.find(([pattern]) => pattern.test(part));
    if (!found) return null;
    found[1](fields, part.match(found[0]));
  }
  return build(fields) === spec ? fields : null;
}
