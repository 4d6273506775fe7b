// NaN and infinity at every position of x.
import { floats, lruParams, settled } from "../support.mjs";

export default {
  promise:
    'A NaN or an infinity is refused under nonFinite: "reject", and under "propagate" reaches its own row from its token on, and nothing else.',
  how: "NaN, +∞ and −∞ at every position of x [2, 120, 3]: forwards on the calling thread, on workers and on the GPU, and steps.",
  plants: [
    {
      says: "only the first values of x are looked at",
      file: "src/validate.ts",
      find: "some((fault) => values.includes(fault))",
      replace: "some((fault) => values.subarray(0, 64).includes(fault))",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const [batch, seqLen, dModel] = [2, 120, 3];
    const params = lruParams(linrec, dModel, 5);
    const clean = floats(batch * seqLen * dModel, 1);
    const figures = {};
    const ways = {
      "the calling thread": { backend: "wasm", threads: 0 },
      "two workers": { backend: "wasm", threads: 2 },
      "the GPU": { backend: "webgpu" },
    };
    for (const [on, options] of Object.entries(ways)) {
      const strict = await linrec.createEngine({ ...options, nonFinite: "reject" });
      const engine = await linrec.createEngine(options);
      const [refusing, lru] = [await strict.lru(params), await engine.lru(params)];
      const stepped = async (lru, x) => {
        const cache = lru.allocateInferenceCache(batch);
        const y = new Float32Array(x.length);
        const at = (row, t) => (row * seqLen + t) * dModel;
        for (let t = 0; t < seqLen; t++) {
          const xt = new Float32Array(batch * dModel);
          for (let row = 0; row < batch; row++) xt.set(x.subarray(at(row, t), at(row, t + 1)), row * dModel);
          const yt = await lru.step(xt, cache);
          for (let row = 0; row < batch; row++)
            y.set(yt.subarray(row * dModel, (row + 1) * dModel), at(row, t));
        }
        return y;
      };
      const forward = async (lru, x) => (await lru.forward(x, { batch })).y;
      const verbs = on === "the calling thread" ? { forward, step: stepped } : { forward };
      for (const [verb, run] of Object.entries(verbs)) {
        const expected = await run(lru, clean);
        let [refused, propagated] = [0, 0];
        for (let i = 0; i < clean.length; i += isFull ? 1 : 13) {
          for (const bad of [Number.NaN, Infinity, -Infinity]) {
            const x = clean.slice();
            x[i] = bad;
            const outcome = await settled(run(refusing, x), 10_000);
            if (outcome.error?.code !== "non-finite")
              fail(`${bad} at ${i} was not refused: ${outcome.error}`);
            else refused++;
            const y = await run(lru, x);
            const token = Math.floor(i / dModel);
            const [row, t] = [Math.floor(token / seqLen), token % seqLen];
            for (let r = 0; r < batch; r++) {
              for (let s = 0; s < seqLen; s++) {
                const at = (r * seqLen + s) * dModel;
                const touched = r === row && s >= t;
                const values = y.subarray(at, at + dModel);
                const ok = touched
                  ? s > t || values.some((v) => !Number.isFinite(v))
                  : values.every((v, j) => Object.is(v, expected[at + j]));
                if (!ok)
                  fail(
                    `${bad} at row ${row}, token ${t}: row ${r}, token ${s} is ${values}, ${verb} on ${on}`,
                  );
              }
            }
            propagated++;
          }
        }
        figures[`refused; let through, and seen only where they may be: ${verb} on ${on}`] =
          `${refused}; ${propagated}`;
      }
      await strict.dispose();
      await engine.dispose();
    }
    return figures;
  },
};
