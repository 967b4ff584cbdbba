// The last minutes of the service, as plots.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300, HEIGHT = 80;
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const rate = value => `${short.format(value)} /s`;
const SIZES = ["B", "kB", "MB", "GB", "TB"];
export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < SIZES.length - 1) { value /= 1000; unit += 1; }
  return `${value >= 100 || unit === 0 ? whole.format(value) : short.format(value)} ${SIZES[unit]}`;
}

// What a counter grew by, for each second.
const grown = (...names) => (before, now) => {
  const sum = sample => names.reduce((all, name) => all + (sample.values[name] ?? 0), 0);
  // A process that began anew counts from zero.
  return Math.max(sum(now) - sum(before), 0) / Math.max(now.at - before.at, 0.001);
};
const gauge = name => (before, now) => now.values[name];
const ANSWERS = ["hit", "not_modified", "rendered", "joined", "refused", "failed", "overloaded"];
const share = (before, now) => {
  const good = grown("hit", "not_modified")(before, now), all = good + grown("rendered", "joined")(before, now);
  return all > 0 ? 100 * good / all : null;
};

const PLOTS = [
  ["Requests", grown(...ANSWERS), rate, ["hit"]],
  ["Found in the store", share, value => `${whole.format(value)} %`, ["hit"]],
  ["Renders", grown("renders"), rate, []],
  ["Waiting to be rendered", gauge("queue"), whole.format, ["queue"]],
  ["Memory of renders", gauge("memory"), bytes, ["memory"]],
  ["Refused or failed", grown("refused", "failed", "overloaded"), rate, ["hit"]],
  ["Store", gauge("store"), bytes, ["store"]],
  ["Evictions", grown("evictions"), rate, ["evictions"]],
];

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text ?? "";
  return made;
}

function plot([title, of, format], samples) {
  const values = samples.slice(1).map((now, index) => of(samples[index], now));
  const known = values.filter(value => value != null);
  const last = known.at(-1), most = Math.max(...known, 0);
  const card = element("section", "card plot");
  card.append(element("h3", "", title), element("p", "value", last == null ? "–" : format(last)));
  const says = known.length ? `${title}: now ${format(last)}, at most ${format(most)}` : `${title}: nothing yet`;
  const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": says });
  for (const y of [0, HEIGHT / 2, HEIGHT]) svg.append(node("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
  const x = index => values.length > 1 ? index / (values.length - 1) * WIDTH : WIDTH;
  const y = value => HEIGHT - 2 - (most > 0 ? value / most : 0) * (HEIGHT - 6);
  const points = values.map((value, index) => value == null ? null : [x(index), y(value)]).filter(Boolean);
  if (points.length > 1) {
    const line = points.map(point => point.map(n => n.toFixed(1)).join(",")).join(" L");
    svg.append(node("path", { class: "area", d: `M${points[0][0].toFixed(1)},${HEIGHT} L${line} L${points.at(-1)[0].toFixed(1)},${HEIGHT} Z` }),
      node("path", { class: "line", d: `M${line}` }));
  }
  const minutes = samples.length > 1 ? Math.max(Math.round((samples.at(-1).at - samples[0].at) / 60), 1) : 0;
  const range = element("p", "range");
  range.append(element("span", "", `${minutes} min ago`), element("span", "", `at most ${format(most)}`), element("span", "", "now"));
  card.append(svg, range);
  return card;
}

export function draw($, { samples, interval }) {
  const has = name => samples.some(sample => sample.values[name] !== undefined);
  const shown = PLOTS.filter(([, , , needs]) => needs.every(has));
  $("status-says").textContent = samples.length < 2
    ? "The first plots are here in a few seconds."
    : `Of this process, sampled every ${interval} seconds.`;
  $("plots").replaceChildren(...shown.map(one => plot(one, samples)));
}
