/** A forward of one row that is one call of a kernel gives what windows give, to the bit, wherever its arrays are. */
import { test } from "vitest";
import { createEngine, type Lru } from "../src/index.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createPrivateEngine } from "./support/engines.js";
import { floats, hardParams } from "./support/problems.js";

/** Widths without padding: of others a row is never one call. */
const [dModel, dState, seqLen] = [8, 5, 130];

const rows = (x: Float32Array) => Float32Array.from([...x, ...x]);

/** The first of two equal rows: two are never one call. */
async function inWindows(lru: Lru, x: Float32Array, lengths: number[], before?: Float32Array) {
  const state = before && (await lru.forward(rows(before), { batch: 2 })).state;
  const options = { batch: 2, lengths: [...lengths, ...lengths], ...(state && { state }) };
  const { y, state: after } = await lru.forward(rows(x), options);
  const next = lru.stepSync(rows(x.subarray(0, dModel)), after).slice(0, dModel);
  return { y: y.slice(0, y.length / 2), next };
}

test.each(builds)("%s SIMD: in memory of the engine, or of the caller, or one of either", async (build) => {
  const shared = await createEngine({ backend: "wasm", simd: build, threads: 0 });
  const apart = await createPrivateEngine(build, { threads: 0 });
  for (const engine of [shared, apart]) {
    const lru = await engine.lru(hardParams(dModel, dState, 1));
    const [x, before] = [floats(seqLen * dModel, 2), floats(70 * dModel, 3)];
    for (const lengths of [[seqLen], [100], [1], [0]]) {
      for (const earlier of [undefined, before]) {
        const expected = await inWindows(lru, x, lengths, earlier);
        for (const place of [0, 1, 2, 3]) {
          const what = `${lengths} tokens, ${earlier ? "after others" : "at first"}, ${place}`;
          const from = place & 1 ? engine.allocate(x.length) : new Float32Array(x.length);
          const out = (place & 2 ? engine.allocate(x.length) : new Float32Array(x.length)).fill(7);
          from.set(x);
          // A cache whose state is in the kernels' memory, where a forward's state goes as well.
          const cache = lru.allocateInferenceCache(1);
          const twin = lru.allocateInferenceCache(1);
          lru.stepSync(before.subarray(0, dModel), cache);
          lru.stepSync(before.subarray(0, dModel), twin);
          const state = earlier && (await lru.forward(earlier)).state;
          const result = await lru.forward(from, { out, lengths, ...(state && { state }) });
          expectSameBits(out, expected.y, what);
          expectSameBits(from, x, `x, ${what}`);
          expectSameState([lru, cache], [lru, twin], `a cache beside it, ${what}`);
          expectSameBits(
            lru.stepSync(x.subarray(0, dModel), result.state),
            expected.next,
            `a step after ${what}`,
          );
          engine.free(from);
          engine.free(out);
        }
      }
    }
    await engine.dispose();
  }
});
