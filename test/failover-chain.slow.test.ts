/**
 * A network whose rate changes is left after any of its parts, and another backend goes on: what was committed stays, and
 * the whole is what one run gives, to the bit.
 */
import fc from "fast-check";
import { afterAll, describe, expect, test, vi } from "vitest";
import type { ForwardJob, Runner } from "../src/backend.js";
import { openWasm } from "../src/cpu/backend.js";
import { widen } from "../src/cpu/widen.js";
import { createEngine, type Engine, type ForwardOptions, writeSafetensors } from "../src/index.js";
import { buildProgram } from "../src/models/build.js";
import { Chain } from "../src/networks/chain.js";
import { inputWidth, outputWidth, poolOf } from "../src/program.js";
import { partsOf, type Rates, ratesOf, shortestOf } from "../src/rates.js";
import { State, stateLayout } from "../src/state.js";
import { outputsOf } from "../src/timeline.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { type Change, changedGpu, onSubmit, shrink, standInGpu } from "./support/gpus.js";
import { randomClassifier, randomUnet } from "./support/lrnnx.js";
import { errorOf } from "./support/misuse.js";
import { floats, random } from "./support/problems.js";

// Each device compiles its kernels, which takes a software adapter seconds.
vi.setConfig({ testTimeout: 180_000 });

/** Of so many features a segment has few tokens. */
const features = 3000;
const classifiers = [1, 2, 3].map((seed) => ({
  name: `classifier ${seed}`,
  ...randomClassifier(seed, { features }),
}));
const unets = [1, 2].map((seed) => ({ name: `U-Net ${seed}`, ...randomUnet(seed) }));
type Made = (typeof classifiers)[number];
type Context = { skip(reason: string): never };

const options = { threads: 0, sharedMemory: false, workerUrl: undefined, wasm: undefined };
const backend = await openWasm({ simd: "baseline", ...options, onTrouble: () => {} });
await widen(backend);
afterAll(() => backend.dispose());

describe.each([...classifiers, ...unets])("$name", ({ checkpoint, spec, seqLen }) => {
  const network = buildProgram(checkpoint, {}, spec);
  const runners = partsOf(network).map((part) => backend.prepare(part));
  const [width, outWidth, pools] = [inputWidth(network), outputWidth(network), poolOf(network) !== undefined];
  // A segment and a half.
  const batch = Math.ceil(1.5 * ((ratesOf(network) as Rates).segmentTokens(1) / seqLen));

  /** A chain of which part `nth` that is run, from 0 on, fails in the middle: of what it writes, half is there. */
  function chain(nth: number): Chain<Runner> {
    const parts = runners.map((runner) => ({
      async forward(job: ForwardJob) {
        const fails = nth-- === 0;
        await runner.forward(job);
        if (!fails) return;
        job.y.fill(Number.NaN, job.y.length >> 1);
        throw new Error("lost");
      },
      dispose() {},
    }));
    return new Chain(network, parts, false);
  }

  test("left anywhere, another goes on to the same bits", async () => {
    const settings = fc.record({
      seed: fc.integer({ min: 0, max: 1000 }),
      falls: fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 2 }),
      resets: fc.boolean(),
      timed: fc.boolean(),
      every: fc.constantFrom(1, 3),
      begun: fc.boolean(),
    });
    let went = 0;
    const check = async ({
      seed,
      falls,
      resets,
      timed,
      every,
      begun,
    }: ReturnType<typeof settings.generate>["value_"]) => {
      const next = random(seed);
      const lengths = Int32Array.from({ length: batch }, (_, i) =>
        i === 1 ? seqLen : Math.floor(next() * (seqLen + 1)),
      );
      const least = shortestOf(network);
      const initial = new State(stateLayout(network), batch);
      const job: Omit<ForwardJob, "state" | "y"> = {
        ...{ batch, seqLen, lengths, threads: 0, signal: undefined, onProgress: undefined },
        every: pools ? 1 : every,
        timesteps: timed ? floats(batch * seqLen, 5).map(Math.abs) : undefined,
        resets: resets
          ? Array.from(lengths, (length) =>
              Int32Array.from([0.3, 0.7], (share) => Math.floor(share * length)).filter(
                (t, i, all) => t > 0 && t !== all[i - 1] && seqLen - t >= least,
              ),
            )
          : undefined,
        x: floats(batch * seqLen * width, seed),
      };
      if (begun && pools) {
        const before = {
          ...job,
          y: new Float32Array(batch * outWidth),
          timesteps: undefined,
          resets: undefined,
        };
        await chain(-1).forward({ ...before, state: initial });
      }
      const outputs = pools
        ? 1
        : Math.max(...initial.count.map((count) => outputsOf(count, seqLen, job.every as number)));
      const make = () => new Float32Array(batch * outputs * outWidth).fill(Number.NaN);
      const whole = { y: make(), state: initial.clone() };
      await chain(-1).forward({ ...job, ...whole });

      const done = new Int32Array(batch);
      const own = { y: make(), state: initial.clone(), done };
      // The last one goes through.
      for (const nth of [...falls, -1]) {
        const before = done.slice();
        const told: number[] = [];
        const onProgress = (tokens: number) => told.push(tokens);
        const error = await chain(nth)
          .forward({ ...job, ...own, onProgress })
          .catch((error) => error);
        if (!error) break;
        expect(error.message).toBe("lost");
        expect(done.every((tokens, row) => tokens >= (before[row] as number))).toBe(true);
        if (told.length > 0) expect(told.at(-1)).toBe(done.reduce((a, b) => a + b));
        else expect(done).toEqual(before);
        went += told.length;
      }
      expectSameBits(own.y, whole.y, "y");
      const states = [
        [own.state, whole.state],
        ...own.state.parts.map((part, i) => [part, whole.state.parts[i]]),
      ];
      for (const [i, [a, b]] of (states as [State, State][]).entries()) {
        expectSameBits(a.bytes, b.bytes, `state ${i}`);
        expect([a.count, a.k]).toEqual([b.count, b.k]);
      }
    };
    const second = {
      seed: 1,
      falls: [runners.length + 1],
      resets: !pools,
      timed: false,
      every: 1,
      begun: false,
    };
    await fc.assert(fc.asyncProperty(settings, check), {
      examples: [[second]],
      numRuns: 6,
      endOnFailure: true,
    });
    expect(went, "segments that were not run again").toBeGreaterThan(0);
  });
});

const engines: Engine[] = [];
afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

/** An engine whose GPUs are changed, and what its listener heard. */
async function open(context: Context, change: Change, find = standInGpu) {
  const changed = await find((handle, nth) => {
    shrink(handle, 2 ** 27); // the same pieces on either kind
    change(handle, nth);
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const told: string[] = [];
  const engine = await createEngine({
    ...{ backend: ["webgpu", "wasm"], simd: "baseline", threads: 0, gpu: changed.gpu },
    onFallback: ({ from, to, reason }) => told.push(`${from} -> ${to}: ${reason}`),
  });
  engines.push(engine);
  return { engine, told };
}

const load = (engine: Engine, { checkpoint, spec }: Made) => engine.model(writeSafetensors(checkpoint), spec);

/** Runs x on GPUs of which the first `times` are lost once the first segment is committed: so many tokens. */
async function runLosing(
  context: Context,
  made: Made,
  times: number,
  x: Float32Array,
  given: ForwardOptions<never> = {},
  find = standInGpu,
) {
  let [committed, isLost] = [0, false];
  const change: Change = (handle, device) =>
    onSubmit(handle, () => {
      if (device >= times || committed === 0) return;
      isLost = true;
      handle.destroy();
    });
  const { engine, told } = await open(context, change, find);
  const onProgress = ({ done }: { done: number }) => {
    if (!isLost) committed = done;
  };
  const model = await load(engine, made);
  const result = await model.forward(x, { ...given, onProgress });
  return { model, told, ...result, committed };
}

let steady: ReturnType<typeof open> | undefined;
async function onSteadyGpu(context: Context, made: Made) {
  steady ??= open(context, () => {});
  const { engine } = await steady;
  return load(engine, made);
}

const again = expect.stringMatching(/^webgpu -> webgpu: The GPU was lost .*opened anew/);

test("lost in its second segment, the GPU is opened anew and gives what it would have given", async (context) => {
  const unet = unets[0] as Made;
  const model = await onSteadyGpu(context, unet);
  const { x, batch, seqLen, lengths } = unet;
  // What follows a reset is a segment of its own.
  const reset = new Uint8Array(batch * seqLen);
  for (let row = 0; row < batch; row++) for (const t of [20, 21, 50]) reset[row * seqLen + t] = 1;
  const given = { batch, lengths, reset };
  const { y } = await model.forward(x, { ...given, backend: "webgpu" });
  const lost = await runLosing(context, unet, 1, x, given);
  expect(lost.committed).toBeGreaterThan(0);
  expect(lost.told).toEqual([again]);
  expectSameBits(lost.y, y, "y");
});

test("lost again, the CPU finishes from the last committed segment", async (context) => {
  const classifier = classifiers[1] as Made;
  const steady = await onSteadyGpu(context, classifier);
  const cpu = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
  engines.push(cpu);
  const model = await load(cpu, classifier);
  const x = floats(900 * features, 4);
  const lost = await runLosing(context, classifier, 2, x, {}, changedGpu);
  expect(lost.told).toEqual([again, expect.stringMatching(/^webgpu -> wasm: .*lost/)]);
  expect(lost.committed).toBeGreaterThan(0);
  const at = lost.committed * features;
  const before = await steady.forward(x.subarray(0, at), { backend: "webgpu" });
  const state = model.deserializeState(steady.serializeState(before.state));
  const after = await model.forward(x.subarray(at), { state });
  expectSameBits(lost.y, after.y, "y");
  expectSameState([lost.model, lost.state], [model, after.state], "state");
});

test("stopped between two segments: nothing of it is left, and the next forward works", async () => {
  const classifier = classifiers[0] as Made;
  const cpu = await createEngine({ backend: "wasm", threads: 0 });
  engines.push(cpu);
  const model = await load(cpu, classifier);
  const x = floats(900 * features, 4);
  const { y, state } = await model.forward(x);
  const before = model.serializeState(state);
  const abort = new AbortController();
  const seen: number[] = [];
  const onProgress = ({ done }: { done: number }) => {
    seen.push(done);
    abort.abort();
  };
  const error = await errorOf(() => model.forward(x, { state, signal: abort.signal, onProgress }));
  expect(error).toMatchObject({ code: "aborted" });
  expect(seen.length).toBe(1);
  expect(seen[0]).toBeLessThan(900);
  expectSameBits(model.serializeState(state), before, "the state that was passed in");
  expectSameBits((await model.forward(x)).y, y, "the next y");
});
