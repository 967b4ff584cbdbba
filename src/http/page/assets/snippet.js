// Links to the HTML of a web page: pictures of one shape belong together.

const quoted = text => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
// What browsers choose from first stands first.
const RANK = ["avif", "webp"];
const rank = link => { const at = RANK.indexOf(link.format); return at < 0 ? RANK.length : at; };

function shapes(links) {
  const groups = [];
  for (const link of links) {
    const ratio = link.size[0] / link.size[1];
    // Whole pixels bend a ratio a little.
    const near = group => Math.abs(group.ratio / ratio - 1) < 0.02;
    let group = groups.find(near);
    if (!group) groups.push(group = { ratio, links: [] });
    group.links.push(link);
  }
  return groups.map(group => group.links.sort((a, b) => a.size[0] - b.size[0]));
}

const srcset = (links, describe) => links.map(link => `${link.url} ${describe(link)}`).map(quoted).join(",\n       ");

function element(links, { alt, sizes, describe }) {
  const byFormat = new Map();
  for (const link of [...links].sort((a, b) => rank(a) - rank(b))) {
    byFormat.set(link.media_type, [...(byFormat.get(link.media_type) ?? []), link]);
  }
  const kinds = [...byFormat.entries()];
  const [, fallback] = kinds.at(-1);
  const largest = fallback.at(-1);
  const sized = sizes ? `\n     sizes="${quoted(sizes)}"` : "";
  const set = fallback.length > 1 ? `\n     srcset="${srcset(fallback, describe)}"${sized}` : "";
  const img = `<img src="${quoted(largest.url)}"${set}\n     width="${largest.size[0]}" height="${largest.size[1]}" alt="${quoted(alt)}">`;
  if (kinds.length === 1) return img;
  const sources = kinds.slice(0, -1).map(([type, links]) =>
    `  <source type="${quoted(type)}"${sized.replace("\n    ", "")} srcset="${srcset(links, describe)}">\n`);
  return `<picture>\n${sources.join("")}  ${img.replaceAll("\n", "\n  ")}\n</picture>`;
}

// A preset set: by width, one element for each shape.
export function forSet(links, alt, sizes) {
  return shapes(links).map(group => element(group, { alt, sizes, describe: link => `${link.size[0]}w` })).join("\n\n");
}

// One rendition, and the same for screens with twice the pixels, where the original has them.
export function forOne([once, twice], alt) {
  const sharper = twice && twice.size[0] > once.size[0];
  const set = sharper ? `\n     srcset="${quoted(once.url)} 1x,\n       ${quoted(twice.url)} ${twice.size[0] === 2 * once.size[0] ? "2x" : `${(twice.size[0] / once.size[0]).toFixed(2)}x`}"` : "";
  return `<img src="${quoted(once.url)}"${set}\n     width="${once.size[0]}" height="${once.size[1]}" alt="${quoted(alt)}">`;
}
