/** onnxruntime in Node. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { contenderOf } from "./onnxruntime.mjs";

/** @param {{ web: boolean, threads: number }} options */
export async function open(options) {
  const name = options.web ? "onnxruntime-web" : "onnxruntime-node";
  const ort = await import(name);
  return { versions: { [name]: versionOf(name) }, ...contenderOf(ort.default ?? ort, options) };
}

function versionOf(name) {
  // The package's exports hide its package.json; the file stands two folders above the entry.
  const entry = createRequire(import.meta.url).resolve(name);
  const root = entry.slice(0, entry.lastIndexOf(name) + name.length);
  return JSON.parse(readFileSync(`${root}/package.json`, "utf8")).version;
}
