/**
 * `reset`, `every` and `integrationTimesteps` where the rate changes: what is between two resets is a sequence of its own,
 * and a slower token is as far from the one before it as the mean of those that it stands for.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEngine,
  type Engine,
  type ForwardResult,
  type Model,
  type ModelCache,
  type ModelSpec,
  writeSafetensors,
} from "../src/index.js";
import { buildProgram } from "../src/models/build.js";
import type { BackendName } from "../src/program.js";
import { shortestOf } from "../src/rates.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines, type NamedEngine, needBackend } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { randomClassifier, randomUnet } from "./support/lrnnx.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, random } from "./support/problems.js";
import { runNetwork, shortenSegments } from "./support/rates.js";
import { cut, rows } from "./support/sequences.js";

type Made = ReturnType<typeof randomClassifier>;

/** From 0 to 2: a few values, or all different. */
function timesOf({ batch, seqLen }: Made, seed: number): Float32Array {
  return floats(batch * seqLen, seed).map((v) => (seed % 2 ? v + 1 : Math.round(4 * v + 4) / 4));
}

/** About one reset in every 20 tokens, none of which leaves less than `least` tokens of a row. */
function resetsOf({ batch, seqLen, lengths }: Made, seed: number, least: number): Uint8Array {
  const next = random(seed);
  return Uint8Array.from({ length: batch * seqLen }, (_, i) => {
    const [row, t] = [Math.floor(i / seqLen), i % seqLen];
    return next() < 0.05 && t < (lengths[row] as number) && seqLen - t >= least ? 1 : 0;
  });
}

const [classifiers, unets] = [
  [1, 2, 3, 4, 5, 6].map((seed) => ({ name: `classifier ${seed}`, seed, made: randomClassifier(seed) })),
  [1, 2, 3, 4].map((seed) => ({ name: `U-Net ${seed}`, seed, made: randomUnet(seed) })),
];
const all = [...classifiers, ...unets];

const backends: { backend: BackendName; limit: number }[] = [
  { backend: "reference", limit: 2e-7 },
  { backend: "wasm", limit: 1e-5 },
  { backend: "webgpu", limit: 5e-5 },
];

describe.each(backends)("integrationTimesteps on $backend", ({ backend, limit }) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ backend: [backend, "reference"] });
  });
  afterAll(() => engine.dispose());

  test.for(all)("$name, against the oracle", async ({ seed, made }, context) => {
    needBackend(context, engine, backend);
    const { checkpoint, spec, x, batch, seqLen, lengths } = made;
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const integrationTimesteps = timesOf(made, seed);
    const { y } = await model.forward(x, { batch, lengths, backend, integrationTimesteps });
    const network = buildProgram(checkpoint, {}, spec);
    const expected = runNetwork(network, { x, batch, seqLen, lengths, timesteps: integrationTimesteps });
    expect(relativeError(y, expected.y)).toBeLessThanOrEqual(limit);
    const untimed = runNetwork(network, { x, batch, seqLen, lengths });
    expect(relativeError(y, untimed.y)).toBeGreaterThan(10 * limit);
    const ones = await model.forward(x, {
      batch,
      lengths,
      backend,
      integrationTimesteps: new Float32Array(batch * seqLen).fill(1),
    });
    expect(relativeError(ones.y, untimed.y)).toBeLessThanOrEqual(limit);
    model.dispose();
  });
});

describe.each(builds)("bit for bit, %s SIMD", (build) => {
  let engines: NamedEngine[];
  beforeAll(async () => {
    engines = await createEngines(build, [0, 2], [0, 2]);
  });
  afterAll(() => Promise.all(engines.map(({ engine }) => engine.dispose())));
  const first = () => (engines[0] as NamedEngine).engine;

  describe.each(all)("$name", ({ seed, made }) => {
    const { checkpoint, spec, x, batch, seqLen, lengths } = made;
    const bytes = writeSafetensors(checkpoint);
    const pooled = "pooling" in spec;
    let model: Model;
    beforeAll(async () => {
      model = await first().model(bytes, spec);
    });

    test.each([false, true])("what is between two resets is a sequence (timesteps: %s)", async (timed) => {
      const reset = resetsOf(made, seed, shortestOf(model.program));
      const times = timed ? timesOf(made, seed) : undefined;
      const every = pooled ? 1 : 3;
      const { inputWidth, outputWidth } = model;
      const outputs = pooled ? 1 : Math.floor(seqLen / every);
      const expected = new Float32Array(batch * outputs * outputWidth);
      expect(reset.includes(1)).toBe(true);
      for (let row = 0; row < batch; row++) {
        const length = lengths[row] as number;
        const mask = reset.subarray(row * seqLen, row * seqLen + length);
        const starts = [0, ...[...mask.keys()].filter((t) => t > 0 && mask[t])];
        let to = row * outputs * outputWidth;
        for (const [i, start] of starts.entries()) {
          const end = starts[i + 1] ?? length;
          if (pooled && end < length) continue;
          // A row that pools may end inside a window, which is one of those of the longest row.
          const until = pooled ? seqLen : end;
          const own = cut(rows(x, batch, [row]), 1, inputWidth, start, until);
          const integrationTimesteps = times && cut(rows(times, batch, [row]), 1, 1, start, until);
          const piece = await model.forward(own, { lengths: [end - start], integrationTimesteps });
          for (let t = pooled ? 0 : every - 1; t * outputWidth < piece.y.length; t += every) {
            expected.set(piece.y.subarray(t * outputWidth, (t + 1) * outputWidth), to);
            to += outputWidth;
          }
        }
      }
      for (const { name, engine } of engines) {
        const other = await engine.model(bytes, spec);
        const options = { batch, lengths, reset, every, integrationTimesteps: times };
        expectSameBits((await other.forward(x, options)).y, expected, name);
        shortenSegments(other.program);
        expectSameBits((await other.forward(x, options)).y, expected, `${name}, in many segments`);
        other.dispose();
      }
    });

    if (!pooled) return;
    test("step = forward, cut anywhere, through a file, with resets and timesteps", async () => {
      const reset = resetsOf(
        { ...made, lengths: lengths.map(() => seqLen) },
        seed,
        shortestOf(model.program),
      );
      const times = timesOf(made, seed);
      const part = (from: number, to: number) => {
        const integrationTimesteps = cut(times, batch, 1, from, to);
        const mask = cut(Float32Array.from(reset), batch, 1, from, to);
        return [
          cut(x, batch, model.inputWidth, from, to),
          { batch, reset: mask, integrationTimesteps },
        ] as const;
      };
      const whole = await model.forward(...part(0, seqLen));
      const cache = model.allocateInferenceCache(batch);
      let y = new Float32Array();
      for (let t = 0; t < seqLen; t++) {
        const [xt, { reset, integrationTimesteps }] = part(t, t + 1);
        y = model.stepSync(xt, cache, { reset, integrationTimesteps }) as Float32Array<ArrayBuffer>;
      }
      expectSameBits(y, whole.y, "steps");
      expectSameState([model, cache], [model, whole.state], "state by steps");
      const at = seqLen - shortestOf(model.program) - 1;
      const head = model.allocateInferenceCache(batch);
      for (let t = 0; t < at; t++) {
        const [xt, { reset, integrationTimesteps }] = part(t, t + 1);
        model.stepSync(xt, head, { reset, integrationTimesteps });
      }
      const restored = model.deserializeState(model.serializeState(head));
      const [rest, options] = part(at, seqLen);
      const end = await model.forward(rest, { ...options, state: restored });
      expectSameBits(end.y, whole.y, "cut");
      expectSameState([model, end.state], [model, whole.state], "state");
    });

    test("a stream of marked chunks ends on what forward says, many steps at once on what steps say", async () => {
      const reset = resetsOf(
        { ...made, lengths: lengths.map(() => seqLen) },
        seed,
        shortestOf(model.program),
      );
      const times = timesOf(made, seed);
      const own = rows(x, batch, [0]);
      const chunks = [0, 1, 9, 30].map((from, i, cuts) => {
        const to = cuts[i + 1] ?? seqLen;
        const integrationTimesteps = times.subarray(from, to);
        const part = cut(own, 1, model.inputWidth, from, to);
        return { x: part, reset: reset.subarray(from, to), integrationTimesteps };
      });
      const said: ForwardResult<ModelCache>[] = [];
      for await (const result of model.forwardStream(chunks)) said.push(result);
      const options = { reset: reset.subarray(0, seqLen), integrationTimesteps: times.subarray(0, seqLen) };
      const whole = await model.forward(own, options);
      const last = said.at(-1) as ForwardResult<ModelCache>;
      expectSameBits(last.y, whole.y, "stream");
      expectSameState([model, last.state], [model, whole.state], "state of the stream");
      const cache = model.allocateInferenceCache();
      const steps = await model.stepMany(own, cache, options);
      expectSameBits(steps.subarray(-model.outputWidth), whole.y, "many steps");
      expectSameState([model, cache], [model, whole.state], "state of many steps");
    });
  });
});

test("a reset that leaves too little to pool", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const { checkpoint, spec, x, batch, seqLen } = randomClassifier(1);
  const model = await engine.model(writeSafetensors(checkpoint), spec);
  const reset = new Uint8Array(batch * seqLen);
  reset[2 * seqLen - 1] = 1;
  expectLinrecError(
    await errorOf(() => model.forward(x, { batch, reset })),
    "invalid-argument",
    new RegExp(`1 tokens from the reset at token ${seqLen - 1} on \\(row 1\\)`),
  );
  expectLinrecError(
    await errorOf(() => model.forward(x, { batch, every: 2 })),
    "unsupported",
    /one output for each row/,
  );
  await engine.dispose();
});

test("from a state that was set, the first token of a stride is as far as its own timestep says, whatever the factor", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const { checkpoint, x } = randomClassifier(1);
  const ys: Float32Array[] = [];
  for (const delta of [3, 1]) {
    for (const poolingFactor of [2, 5]) {
      const spec = { architecture: "lrnnx/classifier", intermediatePooling: "stride", poolingFactor };
      const model = await engine.model(writeSafetensors(checkpoint), spec as ModelSpec);
      const state = model.allocateInferenceCache();
      const layers = state.get();
      state.set(layers.map(({ re, im }, i) => ({ re: floats(re.length, i), im: floats(im.length, i + 9) })));
      const integrationTimesteps = Float32Array.of(delta);
      ys.push((await model.forward(x.slice(0, model.inputWidth), { state, integrationTimesteps })).y);
    }
  }
  const [there, alsoThere, near] = ys as [Float32Array, Float32Array, Float32Array];
  expectSameBits(alsoThere, there, "another factor");
  expect(near).not.toEqual(there);
  await engine.dispose();
});
