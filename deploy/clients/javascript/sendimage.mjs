// Signed image URLs for sendimage, without dependencies: Node 18 or newer, Deno, Bun, and whatever has Web Crypto.
//
//     const images = new Sendimage({ key: process.env.SENDIMAGE_KEY, publicUrl: "https://www.example.org",
//                                    presetSets: { article: ["hero", "width-800"] } });
//     images.url(42, "fill-400x300|format-webp");
//     images.url("media/2026/report.jpg", "width-1600", { expiresIn: 3600, download: "The report.jpg" });
//     images.urls(42, "article");                 // { hero: "https://...", "width-800": "https://..." }
//     await images.urlAsync(42, "hero");          // by Web Crypto, where there is no node:crypto
//
// The URLs are those that `sendimage sign` prints, byte for byte. The key is for servers: who has it can sign anything.

/** First line of what is signed. */
export const LABEL = "sendimage-v1";
/** `signing.expiry_window_seconds`, unless the config says otherwise: links made within one window are equal. */
export const EXPIRY_WINDOW = 3600;
/** The end of the year 9999: no link lives longer. */
export const LAST_SECOND = 253_402_300_799;

const EXTENSIONS = { jpeg: "jpg", png: "png", webp: "webp", avif: "avif", gif: "gif", ico: "ico" };
/** Control characters, which no field may hold: C0, DEL and C1. */
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/u;

// Elsewhere there is Web Crypto, which answers later.
const nodeCrypto = await import("node:crypto").then(
  (module) => (typeof module.createHmac === "function" ? module : null),
  () => null,
);

/**
 * The Unix time at which a link that is to work for `expiresIn` seconds ends: rounded up to a multiple of `window`.
 * @param {number} expiresIn
 * @param {number} [window]
 * @param {number} [now] Unix seconds
 */
export function expiry(expiresIn, window = EXPIRY_WINDOW, now = Date.now() / 1000) {
  if (!(expiresIn > 0)) throw new RangeError("a link works for a second at least");
  const step = Math.max(window, 1);
  return Math.ceil(Math.floor(now + expiresIn) / step) * step;
}

/** Makes URLs with one native key. */
export class Sendimage {
  #key;
  #webKey;

  /**
   * @param {object} config
   * @param {string | Uint8Array} config.key `signing.secret`: text (its UTF-8 is the key) or bytes
   * @param {string} [config.publicUrl] what URLs begin with
   * @param {string} [config.prefix] `server.url_prefix`, or the route's
   * @param {Record<string, string>} [config.presets] as in the config; only their format counts, for the decorative name
   * @param {Record<string, string[]>} [config.presetSets] as in the config
   * @param {number} [config.expiryWindow] `signing.expiry_window_seconds`
   */
  constructor({ key, publicUrl = "", prefix = "/images/", presets = {}, presetSets = {}, expiryWindow = EXPIRY_WINDOW }) {
    this.#key = typeof key === "string" ? new TextEncoder().encode(key) : Uint8Array.from(key);
    Object.assign(this, { publicUrl, prefix, expiryWindow });
    this.presets = new Map(Object.entries(presets));
    this.presetSets = new Map(Object.entries(presetSets));
  }

  /**
   * The URL of one rendition.
   * @param {number | string | bigint} ref an image's id, or "source/path"
   * @param {string} spec a filter spec or the name of a preset
   * @param {object} [options]
   * @param {number} [options.expiresIn] for how many seconds it works, rounded up to the window
   * @param {number} [options.expires] or the Unix time of its end, as it is
   * @param {string} [options.download] the name that the browser saves it under
   * @param {string} [options.filename] the decorative end of an id's URL
   * @throws {RangeError | URIError} for what the service would not take
   */
  url(ref, spec, options = {}) {
    if (!nodeCrypto) throw new Error("there is no node:crypto here: await urlAsync() instead");
    const fields = this.#fields(ref, spec, options);
    const signature = nodeCrypto.createHmac("sha256", this.#key).update(text(fields)).digest("base64url");
    return this.#build(signature, fields);
  }

  /** As `url`, by Web Crypto. */
  async urlAsync(ref, spec, options = {}) {
    const fields = this.#fields(ref, spec, options);
    const { subtle } = globalThis.crypto;
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    this.#webKey ??= subtle.importKey("raw", this.#key, algorithm, false, ["sign"]);
    const digest = await subtle.sign("HMAC", await this.#webKey, new TextEncoder().encode(text(fields)));
    const base64 = btoa(String.fromCharCode(...new Uint8Array(digest)));
    return this.#build(base64.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""), fields);
  }

  /** The URLs of a preset set, by preset or spec, in its order; options as for `url`. Ready for a serializer. */
  urls(ref, presetSet, options = {}) {
    return Object.fromEntries(this.#set(presetSet).map((spec) => [spec, this.url(ref, spec, options)]));
  }

  /** As `urls`, by Web Crypto. */
  async urlsAsync(ref, presetSet, options = {}) {
    const made = this.#set(presetSet).map(async (spec) => [spec, await this.urlAsync(ref, spec, options)]);
    return Object.fromEntries(await Promise.all(made));
  }

  #set(name) {
    const specs = this.presetSets.get(name);
    if (!specs) throw new RangeError(`there is no preset set ${JSON.stringify(name)}`);
    return specs;
  }

  #fields(ref, spec, { expiresIn, expires, download, filename }) {
    const { subject, path } = split(String(ref));
    check("spec", spec);
    if (spec.includes("/") || ["", ".", ".."].includes(spec)) throw new RangeError("a filter spec is neither empty nor a path");
    if (expiresIn !== undefined) {
      if (expires !== undefined) throw new RangeError("give expiresIn or expires, not both");
      expires = expiry(expiresIn, this.expiryWindow);
    }
    if (expires !== undefined && !(Number.isInteger(expires) && expires >= 0 && expires <= LAST_SECOND)) {
      throw new RangeError("a link ends at a whole second, and not beyond the year 9999");
    }
    if (download !== undefined) {
      check("download", download);
      if (download === "") throw new RangeError("the name of a download is not empty");
    }
    filename ??= `${subject}.${extension(this.presets.get(spec) ?? spec)}`;
    check("filename", filename);
    if (filename.includes("/") || filename === "." || filename === "..") {
      throw new RangeError("a decorative file name is one segment of a path");
    }
    return { subject, path, spec, expires, download, filename };
  }

  #build(signature, { subject, path, spec, expires, download, filename }) {
    const last = path === "" ? [filename] : path.split("/");
    const url = this.publicUrl + this.prefix + [signature, subject, spec, ...last].map(segment).join("/");
    const query = [];
    if (expires !== undefined) query.push(`expires=${expires}`);
    if (download !== undefined) query.push(`download=${queryValue(download)}`);
    return query.length ? `${url}?${query.join("&")}` : url;
  }
}

function text({ subject, path, spec, expires, download }) {
  return [LABEL, subject, spec, path, expires ?? "", download ?? "", ""].join("\n");
}

/** An id and no path, or a source and a path. */
function split(ref) {
  if (/^[0-9]+$/.test(ref)) return { subject: ref, path: "" };
  check("ref", ref);
  const slash = ref.indexOf("/");
  const [source, path] = slash < 0 ? ["", ""] : [ref.slice(0, slash), ref.slice(slash + 1)];
  const isBad = (part) => part === "" || part === "." || part === "..";
  if (isBad(source) || path.includes("\\") || path.split("/").some(isBad) || /^[0-9]+$/.test(source)) {
    throw new RangeError(`${JSON.stringify(ref)} is neither an image id (42) nor a source and a path (media/a/b.jpg)`);
  }
  return { subject: source, path };
}

function check(name, value) {
  // Throws a URIError for half a character: UTF-8 has none.
  encodeURIComponent(value);
  if (CONTROL.test(value)) throw new RangeError(`${name} holds a control character`);
}

/** encodeURIComponent leaves -._~!'()* and encodes the rest; these stay readable too. */
function segment(value) {
  return encodeURIComponent(value).replace(/%(24|2B|2C|3A|3B|3D|40)/g, decodeURIComponent);
}

function queryValue(value) {
  return encodeURIComponent(value).replace(/%(24|2C|3A|40)/g, decodeURIComponent).replaceAll("'", "%27");
}

/** That of the last `format-` in a spec; the name is decoration, so a guess will do where there is none. */
function extension(spec) {
  for (const operation of spec.split("|").reverse()) {
    const [name, format] = operation.split("-");
    if (name === "format" && Object.hasOwn(EXTENSIONS, format ?? "")) return EXTENSIONS[format];
  }
  return "jpg";
}
