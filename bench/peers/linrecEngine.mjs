/** How linrec computes an LRU, in Node or in a page. */
import { createEngine } from "../linrec.mjs";
import { walk } from "../pieces.mjs";
import { fillInput, inputLength, paramsOf } from "../shapes.mjs";

/**
 * @param {{ threads: number, memory: "engine" | "ordinary" | "private", simd: "auto" | "baseline" }} options
 * @param {Uint8Array} [wasm] kernels of one's own
 */
export async function contenderOf({ threads, memory, simd }, wasm) {
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
