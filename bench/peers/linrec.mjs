/** linrec in one of its modes, in Node. */
import { existsSync, readFileSync } from "node:fs";
import { contenderOf } from "./linrecEngine.mjs";

/** @param {Parameters<typeof contenderOf>[0]} options */
export async function open(options) {
  // Kernels of one's own have private memory: threads then exchange messages, as in a page that is not isolated.
  const wasm = options.memory === "private" ? privateKernels() : undefined;
  return { versions: { linrec: packageVersion() }, ...(await contenderOf(options, wasm)) };
}

/** Relaxed where this runtime takes it: from the build folder, for the package has only the baseline as a file. */
function privateKernels() {
  for (const file of ["../../build/relaxed.wasm", "../../dist/kernels.wasm"]) {
    const url = new URL(file, import.meta.url);
    if (!existsSync(url)) continue;
    const bytes = readFileSync(url);
    if (WebAssembly.validate(bytes)) return bytes;
  }
  throw new Error("no kernels in build/ or dist/: run `npm run build` first");
}

function packageVersion() {
  return JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")).version;
}
