// Choosing an image: by a search of the catalogue, or in a source's folders.

import { $, get, guarded, later, only, state } from "./service.js";

export const hasCatalogue = () => $("where").value === "";

export function lookFor() {
  const signal = only("search"), text = $("text").value.trim();
  guarded(async () => {
    if (hasCatalogue()) {
      const { searchable, images } = await (await get("api/search", { text }, signal)).json();
      $("text-label").textContent = searchable ? "Title, file or id" : "Id";
      listImages(images);
      say(images.length, text, searchable ? "image" : "image with this id", 50);
    } else {
      const source = $("where").value;
      const listed = await (await get("api/browse", { source, path: text }, signal)).json();
      listFolder(source, text, listed);
    }
    if (!$("text").getAttribute("aria-invalid")) $("ref-error").textContent = "";
  });
}

function say(count, text, what, most) {
  const many = count === 1 ? `1 ${what}` : `${count} ${what}s`;
  $("found").textContent = count === 0 ? (text ? "Nothing found." : "Type to find one.") : count >= most ? `The first ${most}; type more to find others.` : `${many}.`;
}

function button(name, place, thumb, chosen, act) {
  const [item, made] = [document.createElement("li"), document.createElement("button")];
  made.type = "button";
  if (chosen !== undefined) made.setAttribute("aria-pressed", String(chosen));
  const [label, where] = [document.createElement("span"), document.createElement("span")];
  label.className = "name"; label.textContent = name;
  where.className = "place"; where.textContent = place; where.title = place;
  made.append(thumb, label, where);
  made.addEventListener("click", act);
  item.append(made);
  return item;
}

function thumbnail(ref) {
  const image = document.createElement("img");
  Object.assign(image, { className: "thumb", alt: "", loading: "lazy", decoding: "async" });
  image.src = `preview?${new URLSearchParams({ ref, spec: "max-240x240|format-webp" })}`;
  return image;
}

// No font need have a sign for these.
const SVG = "http://www.w3.org/2000/svg";
const FOLDER = "M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2z", UP = "M12 19V6m-6 6 6-6 6 6";
function sign(shape) {
  const made = document.createElement("span"), picture = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  made.className = "thumb sign";
  made.setAttribute("aria-hidden", "true");
  picture.setAttribute("viewBox", "0 0 24 24");
  path.setAttribute("d", shape);
  picture.append(path);
  made.append(picture);
  return made;
}

function offer(ref, name, place) {
  const item = button(name, place, thumbnail(ref), state.image?.ref === ref, () => choose({ ref, name }));
  item.dataset.ref = ref;
  return item;
}

export const fileOf = place => place.split("/").at(-1);
function listImages(images) {
  $("results").replaceChildren(...images.map(({ ref, title, file }) => offer(ref, title || fileOf(file), `${ref} · ${file}`)));
}

function listFolder(source, path, listed) {
  const folder = path.slice(0, path.lastIndexOf("/") + 1), items = [];
  const enter = to => { $("text").value = to; lookFor(); $("text").focus(); };
  if (folder) {
    const up = folder.slice(0, folder.slice(0, -1).lastIndexOf("/") + 1);
    items.push(button("Up", up || source, sign(UP), undefined, () => enter(up)));
  }
  const entries = listed?.entries ?? [];
  for (const { name, is_file } of entries) {
    if (is_file) items.push(offer(`${source}/${folder}${name}`, name, `${source}/${folder}${name}`));
    else items.push(button(name, "Folder", sign(FOLDER), undefined, () => enter(`${folder}${name}/`)));
  }
  // A source that cannot be listed takes a path as it is typed.
  if (!listed && path && !path.endsWith("/")) items.push(offer(`${source}/${path}`, fileOf(path), `${source}/${path}`));
  $("results").replaceChildren(...items);
  $("found").textContent = !listed ? "This source has no list: type a whole path."
    : entries.length ? `${entries.length} here${listed.more ? ", and more: type to find others" : ""}.` : "Nothing here begins like this.";
}

function choose(image) {
  state.image = image;
  state.focal = null;
  state.solved = null;
  state.shown = "";
  for (const item of $("results").children) {
    const made = item.firstElementChild;
    if (item.dataset.ref) made.setAttribute("aria-pressed", String(item.dataset.ref === image.ref));
  }
  $("alt").value = image.name && image.name !== fileOf(image.ref) && !/\.\w{2,5}$/.test(image.name) ? image.name : "";
  $("empty").hidden = true;
  $("result").hidden = false;
  $("whole").src = `preview?${new URLSearchParams({ ref: image.ref, spec: "max-1000x1000|format-webp" })}`;
  document.dispatchEvent(new Event("asked"));
  // On a narrow screen the link is far below: bring it into view.
  if (matchMedia("(max-width: 61.99rem)").matches) {
    $("h-result").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  }
}
