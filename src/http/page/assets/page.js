// From an image to its link: the parts put together.

import { hasCatalogue, lookFor } from "./images.js";
import { copy, cut, focus, snippet, solve, stale } from "./link.js";
import { byFields, byText, fill, soon } from "./look.js";
import { $, get, guarded, later, only, state } from "./service.js";
import { DEFAULTS, FITS } from "./spec.js";
import { draw } from "./status.js";

function view() {
  const isStatus = location.hash === "#status";
  $("make").hidden = isStatus;
  $("status").hidden = !isStatus;
  for (const [name, here] of [["to-make", !isStatus], ["to-status", isStatus]]) {
    if (here) $(name).setAttribute("aria-current", "page"); else $(name).removeAttribute("aria-current");
  }
  if (isStatus) watch();
}

function watch() {
  if (location.hash !== "#status") return;
  guarded(async () => {
    const status = await (await get("api/status", {}, only("status"))).json();
    draw($, status);
    later("status", status.interval * 1000, watch);
  });
}

function option(select, value, text) {
  select.append(new Option(text, value));
}

function prepare(start) {
  state.start = start;
  document.querySelector("#logout [name=token]").value = start.csrf;
  if (start.has_catalogue) option($("where"), "", "All images");
  for (const { name } of start.sources) option($("where"), name, `Folder ${name}`);
  $("where-field").hidden = $("where").options.length < 2;
  for (const { name } of start.routes) option($("route"), name, name);
  $("route-field").hidden = start.routes.length < 2;
  const first = start.routes.find(({ name }) => name === "images") ?? start.routes[0];
  $("route").value = first.name;
  for (const name of start.watermarks) option($("f-watermark"), name, name);
  $("watermark-field").hidden = !start.watermarks.length;
  for (const [fit, [name]] of Object.entries(FITS)) {
    const [label, input, text] = ["label", "input", "span"].map(tag => document.createElement(tag));
    Object.assign(input, { type: "radio", name: "fit", value: fit });
    text.textContent = name;
    label.append(input, text);
    $("fits").append(label);
  }
  for (const [name, spec] of Object.entries(start.presets)) {
    const made = document.createElement("button");
    Object.assign(made, { type: "button", textContent: name, title: spec });
    made.setAttribute("aria-pressed", "false");
    made.addEventListener("click", () => { $("spec").value = name; byText(); });
    $("presets").append(made);
  }
  $("presets-field").hidden = !Object.keys(start.presets).length;
  option($("set"), "", "This rendition, and for sharp screens");
  for (const name of Object.keys(start.preset_sets)) option($("set"), name, `Preset set ${name}`);
  fill(DEFAULTS);
  $("spec").value = state.spec;
  routes();
}

// A route for presets only has no fields.
function routes() {
  const route = state.start.routes.find(({ name }) => name === $("route").value);
  const only = Boolean(route?.presets_only);
  $("fields").hidden = only;
  $("spec").closest(".field").hidden = only;
  const presets = Object.keys(state.start.presets);
  if (only && presets.length && !presets.includes(state.spec)) { $("spec").value = presets[0]; byText(); }
}

function listen() {
  $("search").addEventListener("submit", event => { event.preventDefault(); lookFor(); });
  $("text").addEventListener("input", () => { $("text").removeAttribute("aria-invalid"); $("ref-error").textContent = ""; later("search", 250, lookFor); });
  $("where").addEventListener("change", () => {
    $("text").value = "";
    $("text-label").textContent = hasCatalogue() ? "Title, file or id" : "Path";
    lookFor();
  });
  $("fields").addEventListener("input", byFields);
  $("fields").addEventListener("submit", event => event.preventDefault());
  $("spec").addEventListener("input", byText);
  for (const name of ["expires", "download"]) $(name).addEventListener("input", soon);
  $("route").addEventListener("change", () => { routes(); soon(); });
  $("copy").addEventListener("click", () => copy($("url").value, $("url"), $("copy"), "The link is in the clipboard."));
  $("url").addEventListener("focus", () => $("url").select());
  $("focus-reset").addEventListener("click", () => { state.focal = null; $("point").focus(); solve(); });
  $("focus-copy").addEventListener("click", () => {
    const { x, y, width, height } = focus.middle();
    copy(`x ${Math.round(x)}, y ${Math.round(y)}, width ${Math.round(width)}, height ${Math.round(height)}`, null, $("focus-copy"), "The focal point is in the clipboard.");
  });
  $("focus-crop").addEventListener("click", cut);
  $("focus-part").addEventListener("toggle", () => focus.draw());
  $("html-part").addEventListener("toggle", snippet);
  for (const name of ["set", "sizes", "alt"]) $(name).addEventListener("input", () => later("html", 250, snippet));
  $("html-copy").addEventListener("click", () => copy($("html").textContent, null, $("html-copy"), "The HTML is in the clipboard."));
  document.addEventListener("asked", solve);
  document.addEventListener("stale", stale);
  addEventListener("hashchange", () => { view(); $("main").focus({ preventScroll: true }); });
}

guarded(async () => {
  prepare(await (await get("api/start", {})).json());
  listen();
  $("copy").disabled = true;
  $("text-label").textContent = hasCatalogue() ? "Title, file or id" : "Path";
  view();
  lookFor();
});
