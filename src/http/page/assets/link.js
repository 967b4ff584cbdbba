// The link, its preview, its focal point and its HTML.

import { Focus } from "./focus.js";
import { byText, soon } from "./look.js";
import { $, Failure, clear, get, guarded, later, latest, only, post, state } from "./service.js";
import { forOne, forSet } from "./snippet.js";
import { bytes } from "./status.js";

const NAMES = { jpeg: "JPEG", png: "PNG", webp: "WebP", avif: "AVIF", gif: "GIF", svg: "SVG", heic: "HEIC", tiff: "TIFF", bmp: "BMP", ico: "ICO" };
const nameOf = format => NAMES[format] ?? format;

const asked = () => ({
  ref: state.image.ref, spec: state.spec, focal: state.focal ?? undefined,
  expires: $("expires").value ? Number($("expires").value) : undefined,
  download: $("download").value || undefined,
  route: $("route").value || undefined,
});

export function stale() {
  $("url").value = "";
  $("copy").disabled = true;
  $("copied").textContent = "";
  $("preview").removeAttribute("src");
  $("made").textContent = "–";
  $("saved").textContent = "";
  $("share").style.width = "0";
  state.solved = null;
  state.shown = "";
  latest.preview?.abort();
  $("canvas").classList.remove("busy");
}

export function solve() {
  if (!state.image) return checkAlone();
  const signal = only("solve");
  guarded(async () => {
    const solved = await post("api/solve", asked(), signal);
    clear();
    state.solved = solved;
    if ($("url").value !== solved.url) $("copied").textContent = "";
    $("url").value = solved.url;
    $("copy").disabled = false;
    const { source, output } = solved;
    $("original").textContent = `${source.size.join(" × ")} · ${bytes(source.bytes)} · ${nameOf(source.format)}${source.frames > 1 ? `, ${source.frames} frames` : ""}`;
    $("made").textContent = `${output.size.join(" × ")} · ${nameOf(output.format)}`;
    note();
    showFocus();
    render();
    snippet();
  });
}

// Without an image yet, a spec can be wrong all the same: one that no image has is asked about last.
function checkAlone() {
  const signal = only("solve");
  guarded(async () => {
    try {
      await post("api/solve", { ref: "0", spec: state.spec }, signal);
    } catch (error) {
      if (!(error instanceof Failure) || error.field === "spec") throw error;
    }
    clear();
  });
}

function note() {
  const route = state.start.routes.find(({ name }) => name === ($("route").value || state.start.routes[0].name));
  const says = [];
  if (state.focal) says.push("The preview tries your focal point; the link has the catalogue’s, until it is changed there.");
  if (route?.private) says.push("Besides the link, this route asks who is looking: it works for those who are logged in there.");
  $("note").textContent = says.join(" ");
  $("note").hidden = !says.length;
}

function render() {
  const { solved, image, spec, focal } = state;
  const query = { ref: image.ref, spec };
  if (focal) query.focal = [focal.x, focal.y, focal.width, focal.height].join(",");
  const wanted = `${solved.url}${solved.source.bytes} ${query.focal ?? ""}`;
  if (state.shown === wanted) return;
  const signal = only("preview");
  $("canvas").classList.add("busy");
  guarded(async () => {
    let blob;
    try {
      blob = await (await get("preview", query, signal)).blob();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      $("canvas").classList.remove("busy");
      $("preview").removeAttribute("src");
      $("preview-error").textContent = error.message;
      return;
    }
    const url = URL.createObjectURL(blob), old = $("preview").src;
    $("preview").src = url;
    if (old.startsWith("blob:")) URL.revokeObjectURL(old);
    $("preview").alt = `Preview: ${image.name ?? image.ref}, ${solved.output.size.join(" by ")} pixels`;
    $("canvas").classList.remove("busy");
    $("preview-error").textContent = "";
    state.shown = wanted;
    const { size, format } = solved.output, share = blob.size / solved.source.bytes;
    $("made").textContent = `${size.join(" × ")} · ${bytes(blob.size)} · ${nameOf(format)}`;
    $("share").style.width = `${Math.min(Math.max(share, 0.01), 1) * 100}%`;
    $("saved").textContent = share <= 1 ? `${share < 0.01 ? "Less than 1" : Math.round(share * 100)} % of the original’s bytes.`
      : `${share.toFixed(1)} times the original’s bytes.`;
  });
}

export async function copy(text, from, button, says) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS there is no clipboard for scripts: the old way.
    const area = from ?? document.createElement("textarea");
    if (!from) { area.value = text; area.className = "hidden"; document.body.append(area); }
    area.select();
    document.execCommand("copy");
    if (!from) area.remove();
    button.focus();
  }
  const usual = button.dataset.usual ??= button.textContent;
  button.textContent = "Copied";
  later(`copied ${button.id}`, 2000, () => { button.textContent = usual; });
  $("copied").textContent = says;
}

function showFocus() {
  const { solved, image } = state;
  const isRow = /^\d+$/.test(image.ref);
  const crop = solved.crop.turned || solved.crop.whole ? null : solved.crop;
  focus.show(solved.source.size, state.focal ?? solved.focal, crop);
  const idle = solved.crop.whole ? " With this size and shape nothing is cropped: it would change nothing." : "";
  $("focus-says").textContent = (isRow
    ? "A link cannot carry a focal point: it is kept with the image. Try one here, then copy its numbers into the CMS, or put the cut that it makes into the link."
    : "An image that is named by its path has no focal point of its own. Try one here, and put the cut that it makes into the link.") + idle;
  $("focus-reset").hidden = !state.focal;
  $("focus-reset").textContent = isRow ? "Back to the catalogue’s" : "Without one";
  $("focus-crop").hidden = !crop || !/(^|\|)fill-/.test(solved.spec) || /(^|\|)(crop|trim|rotate|flip)-/.test(solved.spec);
}

export function cut() {
  const { left, top, width, height } = state.solved.crop;
  const rest = state.solved.spec.replace(/(^|\|)(fill-\d+x\d+)-c\d+/, "$1$2");
  state.spec = `crop-${left},${top},${width},${height}|${rest}`;
  state.focal = null;
  $("spec").value = state.spec;
  byText();
}

export function snippet() {
  if (!$("html-part").open || !state.image) return;
  const signal = only("html"), set = $("set").value;
  const body = { ...asked(), focal: undefined, spec: undefined };
  guarded(async () => {
    if (set) {
      const { links } = await post("api/links", { ...body, set }, signal);
      $("html").textContent = forSet(links, $("alt").value, $("sizes").value.trim());
    } else {
      const isPreset = Object.hasOwn(state.start.presets, state.spec);
      const specs = isPreset || /dpr-/.test(state.spec) ? [state.spec] : [state.spec, `${state.spec}|dpr-2`];
      const { links } = await post("api/links", { ...body, specs }, signal);
      $("html").textContent = forOne(links, $("alt").value);
    }
    $("set-error").textContent = "";
    $("set").removeAttribute("aria-invalid");
    $("sizes").disabled = !set;
  });
}

export const focus = new Focus($, focal => {
  state.focal = focal;
  $("focus-reset").hidden = false;
  soon();
});

