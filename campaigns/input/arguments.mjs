// Wrong arguments to every public call.
import {
  between,
  floats,
  inherited,
  isTyped,
  lruParams,
  pick,
  random,
  sameBits,
  settled,
} from "../support.mjs";

const junk = [
  undefined,
  null,
  Number.NaN,
  -1,
  0.5,
  2 ** 53,
  Infinity,
  "",
  "auto",
  "constructor",
  true,
  Symbol("s"),
  () => {},
  {},
  [],
  [1, 2],
  new Map(),
  new Date(Number.NaN),
  10n,
  new Float64Array(8),
  new Uint8Array(3),
  new ArrayBuffer(8),
  Object.create(null),
  new Proxy({}, {}),
];

/** Copies `options` with one of them replaced, or an unknown one added. */
function spoil(next, options) {
  const names = [...Object.keys(options), "unknown"];
  return { ...options, [pick(next, names)]: pick(next, junk) };
}

export default {
  promise:
    "A wrong argument gets an error from the list before anything has happened; whatever is accepted works.",
  how: "200,000 calls of the public functions with arguments and options replaced by values that no type allows.",
  plants: [
    {
      says: "a count may be a fraction",
      file: "src/validate.ts",
      find: "if (!Number.isSafeInteger(value) || (value as number) < least) {",
      replace: "if ((value as number) < least) {",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const calls = isFull ? 200_000 : 40_000;
    const next = random(7);
    const params = lruParams(linrec, 4, 6);
    const engine = await linrec.createEngine({ backend: "wasm", threads: 0 });
    const lru = await engine.lru(params);
    const x = floats(2 * 10 * 4, 1);
    const { y: expected } = await lru.forward(x, { batch: 2 });
    const plain = inherited();
    const counts = {};
    let slowest = 0;
    const targets = {
      forward: () => {
        const options = {
          batch: 2,
          lengths: [10, 3],
          out: new Float32Array(80),
          backend: "wasm",
          onProgress: () => {},
        };
        return lru.forward(
          next() < 0.3 ? pick(next, junk) : x,
          next() < 0.1 ? pick(next, junk) : spoil(next, options),
        );
      },
      stepSync: () => {
        const options = { out: new Float32Array(8), integrationTimesteps: new Float32Array(2) };
        const args = [x.subarray(0, 8), lru.allocateInferenceCache(2), spoil(next, options)];
        args[between(next, 0, 2)] = pick(next, junk);
        return lru.stepSync(...args);
      },
      allocateInferenceCache: () => {
        const count = pick(next, junk);
        return lru.allocateInferenceCache(count);
      },
      cache: () => {
        const cache = lru.allocateInferenceCache(2);
        return next() < 0.5 ? cache.set(pick(next, junk), floats(12, 1)) : cache.reset(pick(next, junk));
      },
      deserializeState: () => lru.deserializeState(pick(next, junk)),
      explain: () =>
        engine.explain(
          pick(next, ["forward", "step", ...junk]),
          spoil(next, { batch: 1, seqLen: 9, dModel: 4, dState: 4 }),
        ),
      lru: () => engine.lru(next() < 0.3 ? pick(next, junk) : spoil(next, params)),
      model: () => engine.model(pick(next, junk), pick(next, junk)),
      createEngine: () =>
        linrec
          .createEngine(spoil(next, { backend: "wasm", threads: 0, simd: "auto" }))
          .then((e) => e.dispose()),
      initLru: () => linrec.initLru(spoil(next, { dModel: 4, dState: 4, seed: 1 })),
      readSafetensors: () => linrec.readSafetensors(pick(next, junk)),
      writeSafetensors: () => linrec.writeSafetensors(pick(next, junk), pick(next, junk)),
    };
    const names = Object.keys(targets);
    for (let i = 0; i < calls; i++) {
      const name = names[i % names.length];
      // Making an engine takes a millisecond.
      if (name === "createEngine" && i % (names.length * 20) !== names.indexOf(name)) continue;
      const start = performance.now();
      const outcome = await settled((async () => targets[name]())(), 10_000);
      const kind = outcome === "late" ? "late" : outcome.error ? "error" : "value";
      counts[kind] = (counts[kind] ?? 0) + 1;
      if (kind === "late") fail(`${name} ${i}: never settled`);
      if (kind === "error") slowest = Math.max(slowest, performance.now() - start);
      if (kind === "error" && !isTyped(linrec, outcome.error))
        fail(`${name} ${i}: ${outcome.error?.stack ?? outcome.error}`);
    }
    const { y } = await lru.forward(x, { batch: 2 });
    if (!sameBits(y, expected)) fail("the layer gives other numbers afterwards");
    if (inherited() !== plain) fail("Object.prototype has changed");
    if (slowest > 100) fail(`a wrong argument took ${slowest.toFixed(0)} ms to refuse`);
    await engine.dispose();
    return {
      calls,
      "errors from the list": counts.error,
      "calls that were allowed": counts.value,
      "the slowest refusal, ms": slowest.toFixed(1),
    };
  },
};
