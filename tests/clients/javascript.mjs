// What the JavaScript client makes of the vectors, as JSON; by node:crypto, or with a third argument by Web Crypto.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [file, folder, web] = process.argv.slice(2);
const { Sendimage, expiry } = await import(pathToFileURL(`${folder}/sendimage.mjs`));
const vectors = JSON.parse(readFileSync(file, "utf8"));
const { key, public_url: publicUrl, prefix, presets, preset_sets: presetSets } = vectors;
const images = new Sendimage({ key, publicUrl, prefix, presets, presetSets });
const url = web ? (...wanted) => images.urlAsync(...wanted) : (...wanted) => images.url(...wanted);
const urls = web ? (...wanted) => images.urlsAsync(...wanted) : (...wanted) => images.urls(...wanted);

const options = ({ expires, download, filename }) => ({ expires, download, filename });
async function refuses(row) {
  try {
    return await url(row.ref, row.spec, options(row));
  } catch (error) {
    return error instanceof RangeError || error instanceof URIError;
  }
}

console.log(JSON.stringify({
  urls: await Promise.all(vectors.urls.map((row) => url(row.ref, row.spec, options(row)))),
  sets: await Promise.all(vectors.sets.map((row) => urls(row.ref, row.preset_set, options(row)))),
  expiries: vectors.expiries.map((row) => expiry(row.expires_in, row.window, row.now)),
  refused: await Promise.all(vectors.refused.map(refuses)),
  window: await url(42, "width-1", { expiresIn: 60 }),
  half: await refuses({ ref: "media/\ud800.jpg", spec: "width-1" }),
}));
