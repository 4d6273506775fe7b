/** A forward whose rows are one call of a kernel each gives what steps give, to the bit, wherever its arrays are. */
import { expect, test } from "vitest";
import { createEngine, type Lru } from "../src/index.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createPrivateEngine } from "./support/engines.js";
import { floats, hardParams } from "./support/problems.js";

/** A width without padding: of others a row is never one call. */
const [dModel, dState, seqLen] = [8, 5, 130];

/** Each row by itself, token by token, from a cache's state on. */
function stepped(lru: Lru, x: Float32Array, lengths: number[], before: Float32Array) {
  const y = new Float32Array(x.length);
  const after = lengths.map((length, row) => {
    const cache = lru.allocateInferenceCache(1);
    for (let t = 0; t < before.length; t += dModel) lru.stepSync(before.subarray(t, t + dModel), cache);
    for (let t = 0; t < length; t++) {
      const at = (row * seqLen + t) * dModel;
      y.set(lru.stepSync(x.subarray(at, at + dModel), cache), at);
    }
    return lru.stepSync(before.subarray(0, dModel), cache).slice();
  });
  return { y, after: after.flatMap((values) => [...values]) };
}

test.each(builds)("%s SIMD: in memory of the engine, or of the caller, or one of either", async (build) => {
  const shared = await createEngine({ backend: "wasm", simd: build, threads: 0 });
  const apart = await createPrivateEngine(build, { threads: 0 });
  for (const engine of [shared, apart]) {
    const lru = await engine.lru(hardParams(dModel, dState, 1));
    const before = floats(70 * dModel, 3);
    const token = before.subarray(0, dModel);
    // More rows than a block has go through windows.
    const many = Array.from({ length: 65 }, (_, row) => row % 4);
    for (const lengths of [[seqLen], [100], [1], [0], [seqLen, 0, 97], [3, seqLen, 48], many]) {
      const batch = lengths.length;
      const x = floats(batch * seqLen * dModel, 2);
      const all = (values: Float32Array) => Float32Array.from(lengths.flatMap(() => [...values]));
      for (const earlier of [new Float32Array(), before]) {
        const expected = stepped(lru, x, lengths, earlier.length ? before : token);
        for (const place of [0, 1, 2, 3]) {
          const what = `${lengths} tokens after ${earlier.length}, arrays ${place}`;
          const from = place & 1 ? engine.allocate(x.length) : new Float32Array(x.length);
          const out = (place & 2 ? engine.allocate(x.length) : new Float32Array(x.length)).fill(7);
          from.set(x);
          const { state } = await lru.forward(all(earlier.length ? before : token), { batch });
          // A cache whose state is in the kernels' memory, where a forward's states go as well.
          const [cache, twin] = [lru.allocateInferenceCache(1), lru.allocateInferenceCache(1)];
          lru.stepSync(token, twin);
          lru.stepSync(token, cache);
          let done = 0;
          const onProgress = (progress: { done: number }) => {
            done = progress.done;
          };
          const result = await lru.forward(from, { batch, out, lengths, state, onProgress });
          expectSameBits(out, expected.y, what);
          expectSameBits(from, x, `x, ${what}`);
          expect(done, what).toBe(batch * seqLen);
          expectSameState([lru, cache], [lru, twin], `a cache beside it, ${what}`);
          const next = lru.stepSync(all(token), result.state);
          expectSameBits(next, Float32Array.from(expected.after), `a step after ${what}`);
          engine.free(from);
          engine.free(out);
        }
      }
    }
    await engine.dispose();
  }
});
