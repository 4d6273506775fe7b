// A hash of what each way of running on the CPU gives, in Node and in browsers.
import { kinds, openNetwork, randomNetwork } from "../calls/networks.mjs";
import { floats, random } from "../random.mjs";

/** A layer that is large enough for threads: y, and the state's file. */
async function ofLayer(linrec, engine, seqLens) {
  const parts = [];
  const lru = await engine.lru(linrec.initLru({ dModel: 17, dState: 23, seed: 1, rMin: 0.9, rMax: 0.9999 }));
  for (const seqLen of seqLens) {
    const x = Float32Array.from({ length: 3 * seqLen * 17 }, (_, i) => ((i * 7919) % 2003) / 1001 - 1);
    const { y, state } = await lru.forward(x, { batch: 3, lengths: [seqLen, seqLen >> 1, 1] });
    parts.push(bytesOf(y), lru.serializeState(state));
  }
  return parts;
}

/** Networks of every kind, with timesteps and without: all that is computed beside the scan. */
async function ofNetworks(engine, seqLens) {
  const parts = [];
  for (const [i, kind] of [...kinds, ...kinds].entries()) {
    const next = random(i);
    const network = await openNetwork(engine, randomNetwork(next, kind));
    const { vocabulary: ids, inputWidth } = network;
    for (const seqLen of seqLens.filter((tokens) => tokens > 40 && tokens < 5000)) {
      const x = ids
        ? Int32Array.from({ length: seqLen }, () => Math.floor(ids * next()))
        : floats(seqLen * inputWidth, i);
      const integrationTimesteps =
        i % 2 ? Float32Array.from({ length: seqLen }, () => 3 * next()) : undefined;
      const { y, state } = await network.forward(x, { integrationTimesteps });
      parts.push(bytesOf(y));
      if (state) parts.push(network.serializeState(state)); // what is bidirectional has none
    }
  }
  return parts;
}

const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength);

/**
 * Every way of running on the CPU here, with a build of the kernels: name -> hash of y and the state's file.
 * @param {typeof import("../../src/index.js")} linrec
 * @param {"baseline" | "relaxed"} simd
 * @param {number[]} seqLens
 */
async function hashes(linrec, simd, seqLens) {
  /** @type {Record<string, string>} */
  const result = {};
  const Real = globalThis.SharedArrayBuffer;
  for (const memory of ["shared", "transfer"]) {
    // So it is on a page that is not cross-origin isolated.
    if (memory === "transfer") Object.assign(globalThis, { SharedArrayBuffer: undefined });
    for (const threads of [0, 1, 2, 3, 4, 8]) {
      const engine = await linrec.createEngine({ backend: "wasm", threads, simd });
      const parts = [...(await ofLayer(linrec, engine, seqLens)), ...(await ofNetworks(engine, seqLens))];
      const all = await new Blob(/** @type {BlobPart[]} */ (parts)).arrayBuffer();
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", all)).subarray(0, 8);
      result[`${memory}, ${threads} threads`] = Array.from(digest, (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join("");
      await engine.dispose();
    }
  }
  Object.assign(globalThis, { SharedArrayBuffer: Real });
  return result;
}

/**
 * Of every build that runs here.
 * @param {typeof import("../../src/index.js")} linrec
 * @param {number[]} seqLens
 */
export async function hashesOfBuilds(linrec, seqLens) {
  /** @type {{ baseline: Record<string, string>, relaxed?: Record<string, string> }} */
  const result = { baseline: await hashes(linrec, "baseline", seqLens) };
  const probe = await linrec.createEngine({ backend: "wasm", threads: 0 });
  if (probe.backends.wasm.simd === "relaxed") result.relaxed = await hashes(linrec, "relaxed", seqLens);
  await probe.dispose();
  return result;
}
