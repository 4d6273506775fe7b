// A hash of what each way of running on the CPU gives, in Node and in browsers.

/**
 * Every way of running on the CPU here: name -> hash of y and the state's file.
 * @param {typeof import("../../src/index.js")} linrec
 * @param {string} library the address that it came from
 * @param {number[]} seqLens
 */
export async function hashes(linrec, library, seqLens) {
  const kernels = await bytesOf(new URL("kernels.wasm", library)); // baseline, private memory: transfer mode
  /** @type {Record<string, string>} */
  const result = {};
  for (const [memory, options] of /** @type {const} */ ([
    ["shared", { simd: "baseline" }],
    ["transfer", { wasm: kernels }],
  ])) {
    for (const threads of [0, 1, 2, 3, 4, 8]) {
      const engine = await linrec.createEngine({ backend: "wasm", threads, ...options });
      const lru = await engine.lru(
        linrec.initLru({ dModel: 17, dState: 23, seed: 1, rMin: 0.9, rMax: 0.9999 }),
      );
      const parts = [];
      for (const seqLen of seqLens) {
        const x = Float32Array.from({ length: 3 * seqLen * 17 }, (_, i) => ((i * 7919) % 2003) / 1001 - 1);
        const { y, state } = await lru.forward(x, { batch: 3, lengths: [seqLen, seqLen >> 1, 1] });
        parts.push(new Uint8Array(y.buffer, y.byteOffset, y.byteLength), lru.serializeState(state));
      }
      const all = await new Blob(/** @type {BlobPart[]} */ (parts)).arrayBuffer();
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", all)).subarray(0, 8);
      result[`${memory}, ${threads} threads`] = Array.from(digest, (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join("");
      await engine.dispose();
    }
  }
  return result;
}

/** @param {URL} url */
async function bytesOf(url) {
  if (url.protocol !== "file:") return new Uint8Array(await (await fetch(url)).arrayBuffer());
  const { readFileSync } = await import("node:fs");
  return new Uint8Array(readFileSync(url));
}
