// Questions to the service, and where their errors are shown. Whatever it says is put in place as text.

import { DEFAULTS, build } from "./spec.js";

export const $ = id => document.getElementById(id);
export const state = { start: null, image: null, spec: build(DEFAULTS), focal: null, solved: null, shown: "" };
const ERRORS = ["ref", "spec", "expires", "route", "download", "set"];
const FIELD_OF = { ref: "text", spec: "spec", expires: "expires", route: "route", download: "download", set: "set" };

export class Failure extends Error {
  constructor({ message, field, offset }) { super(message); Object.assign(this, { field, offset }); }
}

async function answered(response) {
  if (response.status === 401) location.reload();
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Failure(said.error ?? { message: `The service answered ${response.status}.` });
}

const ACCEPT = "application/json, image/avif, image/webp, image/*;q=0.8";
export const get = async (path, query, signal) =>
  answered(await fetch(`${path}?${new URLSearchParams(query)}`, { signal, headers: { Accept: ACCEPT } }));
export const post = async (path, body, signal) => (await answered(await fetch(path, {
  method: "POST", signal, body: JSON.stringify(body),
  headers: { Accept: ACCEPT, "Content-Type": "application/json", "X-CSRF-Token": state.start.csrf },
}))).json();

// Only the latest question of a kind counts.
export const latest = {};
export function only(kind) {
  latest[kind]?.abort();
  latest[kind] = new AbortController();
  return latest[kind].signal;
}
export function later(kind, ms, work) {
  clearTimeout(latest[`${kind} timer`]);
  latest[`${kind} timer`] = setTimeout(work, ms);
}
export async function guarded(work) {
  try {
    await work();
    $("trouble").textContent = "";
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof Failure && ERRORS.includes(error.field)) return complain(error);
    $("trouble").textContent = error instanceof Failure ? error.message : "The service cannot be reached.";
  }
}

export function clear() {
  for (const field of ERRORS) {
    $(`${field}-error`).textContent = "";
    $(FIELD_OF[field]).removeAttribute("aria-invalid");
  }
  $("spec-mark").hidden = true;
}

// The spec again, with a mark under the place.
function mark(offset) {
  const box = $("spec-mark");
  box.hidden = offset === undefined;
  if (offset === undefined) return;
  const place = document.createElement("b");
  place.textContent = "^";
  // As wide as what is before it: a letter outside of the basic plane is two units and one place.
  const before = [...$("spec").value.slice(0, offset)].length;
  box.replaceChildren(`${$("spec").value || " "}\n${" ".repeat(before)}`, place);
}

function complain({ field, message, offset }) {
  clear();
  $(`${field}-error`).textContent = offset === undefined ? message : `${message} (at character ${offset + 1})`;
  $(FIELD_OF[field]).setAttribute("aria-invalid", "true");
  if (field === "spec") {
    mark(offset);
    $("preview-error").textContent = "No preview while there is something wrong with the spec.";
    // Whoever shows a link takes it away: it is none of this spec.
    document.dispatchEvent(new Event("stale"));
  }
}

