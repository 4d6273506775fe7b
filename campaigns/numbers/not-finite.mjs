// NaN and infinity at every position of x.
import { floats, lruParams, settled } from "../support.mjs";

export default {
  promise:
    'A NaN or an infinity is refused under nonFinite: "reject", and under "propagate" reaches its own row from its token on, and nothing else.',
  how: "NaN, +∞ and −∞ at every position of x [2, 120, 3], on the calling thread, on workers and through step.",
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
    let [refused, propagated] = [0, 0];
    for (const threads of [0, 2]) {
      const strict = await linrec.createEngine({ backend: "wasm", threads, nonFinite: "reject" });
      const engine = await linrec.createEngine({ backend: "wasm", threads });
      const [refusing, lru] = [await strict.lru(params), await engine.lru(params)];
      const { y: expected } = await lru.forward(clean, { batch });
      for (let i = 0; i < clean.length; i += isFull ? 1 : 13) {
        for (const bad of [Number.NaN, Infinity, -Infinity]) {
          const x = clean.slice();
          x[i] = bad;
          const outcome = await settled(refusing.forward(x, { batch }), 10_000);
          if (outcome.error?.code !== "non-finite") fail(`${bad} at ${i} was not refused: ${outcome.error}`);
          else refused++;
          const { y } = await lru.forward(x, { batch });
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
                  `${bad} at row ${row}, token ${t}: row ${r}, token ${s} is ${values}, threads ${threads}`,
                );
            }
          }
          propagated++;
        }
      }
      await strict.dispose();
      await engine.dispose();
    }
    return { "inputs refused": refused, "inputs let through, and only where they may be seen": propagated };
  },
};
