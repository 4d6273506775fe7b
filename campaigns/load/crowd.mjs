// Many streams and many calls at once: none may see another.
import { floats, lruParams, random, sameBits, sameResult } from "../support.mjs";

export default {
  promise:
    "Streams and calls do not see each other: each gets the bits that it would get alone, in the order of the calls.",
  how: "10,000 caches are stepped 100 times each in random order, and compared with isolated runs; 64 forwards run at once on one engine.",
  plants: [
    {
      says: "a forward starts from the state that another one left",
      file: "src/cpu/windows.ts",
      find: "this.#memory().set(stateBytes, this.#states);",
      replace: "",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const [dModel, dState] = [3, 5];
    const [streams, steps] = isFull ? [10_000, 100] : [300, 100];
    const engine = await linrec.createEngine({ backend: "wasm", threads: 2 });
    const lru = await engine.lru(lruParams(linrec, dModel, dState));
    const input = (stream) => floats(steps * dModel, stream + 1);
    const caches = Array.from({ length: streams }, () => lru.allocateInferenceCache(1));
    const inputs = caches.map((_, stream) => input(stream));
    const at = new Uint16Array(streams);
    const outputs = caches.map(() => new Float32Array(steps * dModel));
    const next = random(1);
    for (let left = streams * steps; left > 0; ) {
      const stream = Math.floor(next() * streams);
      // One to eight steps of the stream, as a server would; late in the run most streams are done.
      for (let run = 1 + Math.floor(8 * next()); run > 0 && at[stream] < steps; run--, left--) {
        const [from, to] = [at[stream] * dModel, ++at[stream] * dModel];
        const out = outputs[stream].subarray(from, to);
        lru.stepSync(inputs[stream].subarray(from, to), caches[stream], { out });
      }
    }
    let different = 0;
    for (let stream = 0; stream < streams; stream++) {
      const alone = await lru.forward(inputs[stream], { backend: "wasm" });
      if (!sameResult(lru, { y: outputs[stream], state: caches[stream] }, lru, alone)) different++;
    }
    if (different > 0) fail(`${different} of ${streams} interleaved streams differ from isolated runs`);

    const crowd = 64;
    const order = [];
    const wide = Array.from({ length: crowd }, (_, i) => floats((2000 + 37 * i) * dModel, 7000 + i));
    const starts = wide.map((_, i) => {
      const cache = lru.allocateInferenceCache(1);
      cache.set(floats(dState, i), floats(dState, 2 * i));
      return cache;
    });
    const together = await Promise.all(
      wide.map((x, i) =>
        lru.forward(x, { state: starts[i] }).then((result) => {
          order.push(i);
          return result;
        }),
      ),
    );
    let wrong = 0;
    for (const [i, x] of wide.entries()) {
      const { y, state } = await lru.forward(x, { state: starts[i] });
      const same = sameBits(y, together[i].y);
      if (!same || !sameBits(lru.serializeState(state), lru.serializeState(together[i].state))) wrong++;
    }
    if (wrong > 0) fail(`${wrong} of ${crowd} forwards at once differ from the same alone`);
    if (order.some((i, place) => i !== place)) fail(`forwards ended in the order ${order}`);
    await engine.dispose();
    return {
      "streams, steps of each": `${streams}, ${steps}`,
      "streams that differ from isolated runs": different,
      "forwards at once": crowd,
      "of them wrong or out of order": wrong,
    };
  },
};
