// The spec and its fields: each writes the other.

import { $, later, state } from "./service.js";
import { FITS, build, qualityOf, read } from "./spec.js";

const fields = () => {
  const values = Object.fromEntries(new FormData($("fields")));
  return { ...values, fit: values.fit ?? "original" };
};

function fitFields() {
  const { fit, format } = fields();
  const shown = [...FITS[fit][1], ...(qualityOf(format) ? ["quality"] : [])];
  for (const field of document.querySelectorAll("[data-for]")) field.hidden = !shown.includes(field.dataset.for);
  $("fit-hint").textContent = FITS[fit][2];
  const usual = state.start?.qualities[format];
  $("f-quality").placeholder = usual === undefined ? "" : `${usual}`;
}

export function fill(values) {
  const form = $("fields");
  for (const input of form.elements) {
    if (!input.name) continue;
    if (input.type === "radio") input.checked = input.value === values.fit;
    else if (input.type === "checkbox") input.checked = Boolean(values[input.name]);
    else input.value = values[input.name] ?? (input.type === "range" ? "0" : "");
  }
  fitFields();
}

export function byFields(event) {
  const form = $("fields");
  if (event?.target.name === "fit") {
    // Another way to size it needs both lengths: something to begin with.
    const wanted = FITS[event.target.value][1];
    for (const [name, usual] of [["width", "800"], ["height", "600"], ["scale", "50"]]) {
      if (wanted.includes(name) && form.elements[name].value === "") form.elements[name].value = usual;
    }
  }
  fitFields();
  state.spec = build(fields());
  $("spec").value = state.spec;
  $("spec-hint").textContent = "The fields write this; you may also type it.";
  pressPreset();
  soon();
}

export function byText() {
  state.spec = $("spec").value;
  const values = read(state.spec);
  if (values) fill(values);
  const isPreset = Object.hasOwn(state.start.presets, state.spec);
  $("spec-hint").textContent = isPreset ? `A preset: ${state.start.presets[state.spec]}`
    : values ? "The fields write this; you may also type it." : "Typed by hand: a field that you change writes it anew.";
  pressPreset();
  soon();
}

function pressPreset() {
  for (const made of $("presets").children) made.setAttribute("aria-pressed", String(made.textContent === state.spec));
}

// A moment after the last change.
export const soon = () => later("solve", 250, () => document.dispatchEvent(new Event("asked")));
