/** linrec in one of its modes. */
import { existsSync, readFileSync } from "node:fs";
import { createEngine } from "../linrec.mjs";
import { walk } from "../pieces.mjs";
import { fillInput, inputLength, paramsOf } from "../shapes.mjs";

/** @param {{ threads: number, memory: "engine" | "ordinary" | "private", simd: "auto" | "baseline" }} options */
export async function open({ threads, memory, simd }) {
  // Kernels of one's own have private memory: threads then exchange messages, as in a page that is not isolated.
  const wasm = memory === "private" ? privateKernels() : undefined;
  const notes = [];
  const engine = await createEngine({
    backend: "wasm",
    threads,
    simd,
    wasm,
    onFallback: ({ reason }) => notes.push(reason),
  });
  const { reason } = engine.backends.wasm;
  return {
    engine,
    versions: { linrec: packageVersion() },
    notes: [reason],
    formulations: ({ batch, seqLen, dModel }) => [{ name: "linrec", bytes: 8 * batch * seqLen * dModel }],
    async prepare(shape) {
      const layer = await engine.lru(paramsOf(shape));
      const allocate = (length) => (memory === "engine" ? engine.allocate(length) : new Float32Array(length));
      const x = fillInput(allocate(inputLength(shape)));
      const out = allocate(x.length);
      const forward = (x, options) => layer.forward(x, options);
      return {
        /** Without copies: those of a piece would stay in cache. */
        pieces: (tokens) => (memory === "engine" ? walk(forward, x, out, shape, tokens) : undefined),
        async run() {
          await layer.forward(x, { batch: shape.batch, out });
          if (notes.length > 0) throw new Error(`linrec did not run as asked: ${notes.join("; ")}`);
        },
        read: () => out,
        dispose() {
          layer.dispose();
          if (memory === "engine") for (const array of [x, out]) engine.free(array);
        },
      };
    },
  };
}

/** Relaxed where this runtime takes it: from the build folder, for the package has only the baseline as a file. */
export function privateKernels() {
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
