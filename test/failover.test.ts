/**
 * A GPU that is lost on the way is opened anew once; then the CPU finishes, from the last carry that the GPU committed.
 * What has been computed stays, and no number is made up.
 */
import fc from "fast-check";
import { afterEach, expect, test, vi } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import { openWasm } from "../src/cpu/backend.js";
import { widen } from "../src/cpu/widen.js";
import { restsOf } from "../src/engine/rest.js";
import { createEngine, type Engine, type EngineOptions } from "../src/index.js";
import type { Program, Stage } from "../src/program.js";
import { State, stateLayout } from "../src/state.js";
import { outputsOf } from "../src/timeline.js";
import { expectSameBits } from "./support/bits.js";
import { relativeError } from "./support/golden.js";
import { type Change, changedGpu, failScopes, onSubmit, shrink, standInGpu } from "./support/gpus.js";
import { errorOf } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const [dModel, dState] = [6, 9];
const params = hardParams(dModel, dState, 1);
/** Of one binding: pieces of some 340 tokens. */
const SMALL = 2 ** 13;

// Each device compiles its kernels, which takes a software adapter seconds.
vi.setConfig({ testTimeout: 180_000 });

const engines: Engine[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(engines.splice(0).map((engine) => engine.dispose()));
});

type Context = { skip(reason: string): never };

/** An engine whose GPUs are changed, a layer of it, and what its listener heard. */
async function open(context: Context, change: Change, options: EngineOptions = {}, find = standInGpu) {
  let devices = 0;
  const changed = await find((handle, nth) => {
    devices++;
    shrink(handle, SMALL);
    change(handle, nth);
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const told: string[] = [];
  const engine = await createEngine({
    backend: ["webgpu", "wasm"],
    simd: "baseline",
    threads: 0,
    gpu: changed.gpu,
    onFallback: ({ from, to, reason }) => told.push(`${from} -> ${to}: ${reason}`),
    ...options,
  });
  engines.push(engine);
  return { engine, told, lru: await engine.lru(params), devices: () => devices };
}

/** Destroys the first `times` devices ahead of their submit number `nth`. */
function losing(times: number, nth: number): Change {
  return (handle, device) =>
    onSubmit(handle, (submit) => {
      if (device < times && submit === nth) handle.destroy();
    });
}

const lost = /^webgpu -> webgpu: The GPU was lost .*opened anew/;

const batch = 3;
const seqLen = 1300;
const x = floats(batch * seqLen * dModel, 2);
const reset = new Uint8Array(batch * seqLen);
for (const at of [5, 352, 1000, 2 * seqLen + 704]) reset[at] = 1;
const ragged = { batch, lengths: [1300, 700, 1100], reset, every: 2 };

test("lost on the way, the GPU is opened anew and gives what it would have given", async (context) => {
  const steady = await open(context, () => {});
  const expected = await steady.lru.forward(x, ragged);
  expect(steady.told).toEqual([]);
  const { engine, lru, told, devices } = await open(context, losing(1, 14), {}, changedGpu);
  const { y, state } = await lru.forward(x, ragged);
  expectSameBits(y, expected.y, "y");
  expectSameBits(state.get().re, expected.state.get().re, "state");
  expect(told).toEqual([expect.stringMatching(lost)]);
  expect(devices()).toBe(2);
  expect(engine.backends.webgpu.available).toBe(true);
  expectSameBits((await lru.forward(x, ragged)).y, expected.y, "y of the next forward");
});

test("lost again, the CPU finishes from the last committed carry", async (context) => {
  const steady = await open(context, () => {});
  const cpu = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
  engines.push(cpu);
  const layer = await cpu.lru(params);
  for (const [nth, find] of [
    [0, standInGpu],
    [3, changedGpu],
  ] as const) {
    const { engine, lru, told } = await open(context, losing(2, nth), {}, find);
    let [committed, isLeft] = [0, false];
    const onProgress = ({ done }: { done: number }) => {
      isLeft ||= told.length > 1;
      if (!isLeft) committed = done;
    };
    const row = x.subarray(0, seqLen * dModel);
    const { y, state } = await lru.forward(row, { onProgress });
    expect(committed).toBeLessThan(seqLen);
    expect(committed > 0).toBe(nth > 0);
    const before = await steady.lru.forward(row.subarray(0, committed * dModel));
    const carry = layer.allocateInferenceCache();
    if (committed > 0) carry.set(before.state.get().re, before.state.get().im);
    const after = await layer.forward(row.subarray(committed * dModel), { state: carry });
    expectSameBits(y.subarray(0, committed * dModel), before.y, "what was committed");
    expectSameBits(y.subarray(committed * dModel), after.y, "what the CPU finished");
    expectSameBits(state.get().re, after.state.get().re, "state");
    expect(told).toEqual([expect.stringMatching(lost), expect.stringMatching(/^webgpu -> wasm: .*lost/)]);
    const reason = expect.stringMatching(/twice.*lost.*new engine/);
    expect(engine.backends.webgpu).toEqual({ available: false, reason });
  }
});

test("lost in the backward half of a bidirectional layer, both halves are run again", async (context) => {
  const layers = { forward: params, backward: hardParams(dModel, 4, 3) };
  const given = { batch, lengths: [1300, 700, 1100] };
  const steady = await open(context, () => {});
  const expected = (await (await steady.engine.bidirectional(layers)).forward(x, given)).y;
  // A direction takes some ten pieces.
  for (const [second, told] of [
    [-1, [lost]],
    [3, [lost, /^webgpu -> wasm: .*lost/]],
  ] as const) {
    const changed = await open(context, (handle, device) =>
      onSubmit(handle, (submit) => {
        if (submit === [14, second][device]) handle.destroy();
      }),
    );
    const layer = await changed.engine.bidirectional(layers);
    const out = new Float32Array(x.length).fill(7);
    const { y } = await layer.forward(x, { ...given, out });
    expect(changed.told).toEqual(told.map((pattern) => expect.stringMatching(pattern)));
    if (second < 0) expectSameBits(y, expected, "on the GPU");
    else expect(relativeError(y, expected)).toBeLessThan(1e-5);
  }
});

test("a demanded GPU is opened anew once, then rejects", async (context) => {
  const { engine, lru, told } = await open(context, losing(2, 2), { backend: "webgpu" });
  const error = await errorOf(() => lru.forward(x, { batch }));
  expect(error).toMatchObject({ code: "gpu-failed", message: expect.stringMatching(/lost/) });
  expect(told).toEqual([expect.stringMatching(lost)]);
  expect(engine.backends.webgpu.available).toBe(false);
  const next = await errorOf(() => lru.forward(x, { batch }));
  expect(next).toMatchObject({ code: "backend-unavailable", message: expect.stringMatching(/twice/) });
});

test("forwards that are lost together are one loss", async (context) => {
  const { lru, told, devices, engine } = await open(context, losing(1, 3));
  const results = await Promise.all(Array.from({ length: 5 }, () => lru.forward(x, ragged)));
  const other = await engine.lru(params);
  const { y } = await other.forward(x, ragged);
  for (const result of results) expectSameBits(result.y, y, "y");
  expect(devices()).toBe(2);
  expect(told.length).toBeGreaterThan(1);
  expect(engine.backends.webgpu.available).toBe(true);
});

test("ten minutes later a loss is a first one again", async (context) => {
  const { lru, devices, engine } = await open(context, (handle, device) =>
    onSubmit(handle, (submit) => {
      if (submit === Math.min(device, 1)) handle.destroy(); // in its first forward, in those of the others the second
    }),
  );
  const x = floats(50 * dModel, 2);
  const clock = vi.spyOn(performance, "now");
  clock.mockReturnValue(1000);
  await lru.forward(x);
  clock.mockReturnValue(1000 + 11 * 60_000);
  await lru.forward(x);
  expect(devices()).toBe(3);
  expect(engine.backends.webgpu.available).toBe(true);
  await lru.forward(x);
  expect(engine.backends.webgpu.available).toBe(false);
});

test("a GPU that does not come back: the CPU finishes, and an abort does not wait for it", async (context) => {
  let comes: (() => void) | undefined;
  const changed = await standInGpu(losing(1, 1));
  if ("reason" in changed) return context.skip(changed.reason);
  let asked = 0;
  const gpu = {
    requestAdapter: async () => {
      if (asked++ === 0) return (changed.gpu as GPU).requestAdapter();
      await new Promise<void>((resolve) => {
        comes = resolve;
      });
      return null;
    },
  };
  const { lru, told, engine } = await open(context, () => {}, { gpu });
  const x = floats(20 * dModel, 2);
  const abort = new AbortController();
  await lru.forward(x);
  const [stopped, goesOn] = [lru.forward(x, { signal: abort.signal }), lru.forward(x)];
  await vi.waitFor(() => expect(comes).toBeDefined());
  abort.abort();
  expect(await errorOf(() => stopped)).toMatchObject({ code: "aborted" });
  comes?.();
  const { y } = await goesOn;
  expect(y.some(Number.isNaN)).toBe(false);
  for (const text of told) expect(text).toMatch(/^webgpu -> wasm: .*lost/);
  expect(engine.backends.webgpu).toMatchObject({
    available: false,
    reason: expect.stringMatching(/no adapter/),
  });
});

/** What the CPU gives by itself. */
async function onCpu() {
  const engine = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
  engines.push(engine);
  return (await engine.lru(params)).forward(x, ragged);
}

test("kernels that do not compile: the CPU works, and says what the compiler said", async (context) => {
  const { lru, told, devices, engine } = await open(context, (handle) => {
    handle.createComputePipelineAsync = () => Promise.reject(new Error("register spill in projectScan"));
  });
  expectSameBits((await lru.forward(x, ragged)).y, (await onCpu()).y, "y");
  expect(told).toEqual([
    expect.stringMatching(/anew/),
    expect.stringMatching(/^webgpu -> wasm: .*refused.*spill/),
  ]);
  expect(devices()).toBe(2);
  expect(engine.backends.webgpu.reason).toMatch(/register spill/);
});

test("a forward that is too large for the GPU's memory is the CPU's, the others stay the GPU's", async (context) => {
  let full = false;
  const { lru, told, devices, engine } = await open(context, (handle) =>
    failScopes(handle, (nth) => full && nth % 3 === 1, "no room"),
  );
  const small = x.subarray(0, 8 * dModel);
  const { y } = await lru.forward(small);
  full = true;
  expectSameBits((await lru.forward(x, ragged)).y, (await onCpu()).y, "y");
  full = false;
  expectSameBits((await lru.forward(small)).y, y, "y of the next forward");
  expect(told).toEqual([expect.stringMatching(/^webgpu -> wasm: .*out of memory.*no room/)]);
  expect(devices()).toBe(1);
  expect(engine.backends.webgpu.available).toBe(true);
});

test("a GPU that fails while it is measured, and again when opened anew, is not used", async (context) => {
  let devices = 0;
  const changed = await changedGpu((handle) => {
    devices++;
    handle.createComputePipelineAsync = () => Promise.reject(new Error("register spill"));
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const { requestAdapter } = changed.gpu as GPU;
  const hardware = async () => ({ ...(await requestAdapter()), info: { vendor: "hard" } });
  const engine = await createEngine({ threads: 0, gpu: { requestAdapter: hardware } });
  engines.push(engine);
  const reason = expect.stringMatching(/failed twice.*register spill/);
  expect(engine.backends.webgpu).toEqual({ available: false, reason });
  expect(devices).toBe(2);
});

test("whatever is asked of the GPU is asked between error scopes, and nothing else comes up", async (context) => {
  const outside: string[] = [];
  const uncaptured: string[] = [];
  const watchAll: Change = (handle) => {
    let depth = 0;
    const watch = <Target extends object>(target: Target, names: (keyof Target)[]) => {
      for (const name of names) {
        const call = (target[name] as (...args: unknown[]) => unknown).bind(target);
        const watched = (...args: unknown[]) => {
          if (depth !== 3) outside.push(String(name));
          return call(...args);
        };
        Object.assign(target, { [name]: watched });
      }
    };
    watch(handle, ["createBuffer", "createBindGroup", "createShaderModule", "createCommandEncoder"]);
    watch(handle.queue, ["writeBuffer", "submit"]);
    const [push, pop] = [handle.pushErrorScope.bind(handle), handle.popErrorScope.bind(handle)];
    handle.pushErrorScope = (filter) => {
      depth++;
      push(filter);
    };
    handle.popErrorScope = () => {
      depth--;
      return pop();
    };
    handle.addEventListener("uncapturederror", ({ error }) => uncaptured.push(error.message));
  };
  const { lru } = await open(context, watchAll, {}, changedGpu);
  await lru.forward(x, ragged);
  lru.dispose();
  expect(outside).toEqual([]);
  expect(uncaptured).toEqual([]);
});

test("what is left of a forward gives what the whole gives", async () => {
  const options = { threads: 0, sharedMemory: false, workerUrl: undefined, wasm: undefined };
  const backend = await openWasm({ simd: "baseline", ...options, onTrouble: () => {} });
  await widen(backend);
  const [inWidth, outWidth] = [2, 3];
  const layers = ["none", "mean", "max", "last"].map((mode) => {
    const stages: Stage[] = [
      { kind: "lru", name: "lru", src: 0, dst: 1, dModel: 2, dState: 3, params: hardParams(2, 3, 4) },
    ];
    if (mode !== "none")
      stages.push({ kind: "pool", name: "pool", src: 1, dst: 1, width: 2, mode: mode as "mean" });
    const kernel = floats(6, 3);
    stages.push({
      ...{ kind: "dense", name: "head", src: 1, dst: 2 },
      inWidth,
      outWidth,
      kernel,
      bias: null,
    });
    const program: Program = { architecture: "test", slots: [2, 2, 3], stages, output: 2 };
    return { mode, program, runner: backend.prepare(program) };
  });
  const row = fc.record({
    length: fc.integer({ min: 0, max: 120 }),
    share: fc.constantFrom(0, 0.3, 0.5, 1),
    read: fc.integer({ min: 0, max: 60 }),
    resets: fc.uniqueArray(fc.integer({ min: 1, max: 119 }), { maxLength: 4 }),
  });
  const settings = fc.record({
    layer: fc.constantFrom(...layers),
    rows: fc.array(row, { minLength: 1, maxLength: 5 }),
    every: fc.constantFrom(1, 3, 50),
    timed: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(settings, async ({ layer, rows, every: wanted, timed }) => {
      const { program, runner, mode } = layer;
      const every = mode === "none" ? wanted : 1;
      const [batch, seqLen] = [rows.length, 120];
      const initial = new State(stateLayout(program), batch);
      rows.forEach(({ read }, i) => {
        for (const slot of initial.layout.slots)
          initial.write(slot, i, floats(slot.size, i), floats(slot.size, 9));
        initial.restartRow(i, read);
      });
      const outputs = Math.max(...rows.map(({ read }) => outputsOf(read, seqLen, every)));
      const make = (): ForwardJob => ({
        ...{ batch, seqLen, every, threads: 0, signal: undefined, onProgress: undefined },
        lengths: Int32Array.from(rows, ({ length }) => length),
        timesteps: timed ? floats(batch * seqLen, 5).map(Math.abs) : undefined,
        resets: rows.map(({ resets, length }) => Int32Array.from(resets.filter((t) => t < length)).sort()),
        x: floats(batch * seqLen * inWidth, 7),
        y: new Float32Array(batch * outWidth * (mode === "none" ? outputs : 1)).fill(Number.NaN),
        state: initial.clone(),
      });
      const whole = make();
      await runner.forward(whole);

      // What a backend that fails leaves: tokens of some rows, with their outputs and their states.
      const job = make();
      const done = Int32Array.from(rows, ({ length, share }) => Math.floor(length * share));
      const reached = job.state.clone();
      const begun = make();
      await runner.forward({
        ...begun,
        lengths: done,
        resets: begun.resets?.map((row, i) => row.filter((t) => t < (done[i] as number))),
        y: job.y,
        state: reached,
      });
      job.y.forEach((value, i) => {
        if (value === 0) job.y[i] = Number.NaN; // nothing may rely on the zeros past what was done
      });
      const told: number[] = [];
      const rests = restsOf(program, { ...job, onProgress: (tokens) => told.push(tokens) }, done, reached);
      for (const rest of rests) {
        await runner.forward(rest.job);
        for (let i = 0; i < rest.job.batch; i++) reached.copyRow(rest.row + i, rest.job.state, i);
      }
      rows.forEach(({ length, share }, i) => {
        const rowFloats = job.y.length / batch;
        if (length === 0 || share < 1) return;
        // A row that is done is done: nothing touches what is past its outputs any more.
        const [mine, theirs] = [job, whole].map(({ y }) => y.subarray(i * rowFloats, (i + 1) * rowFloats));
        mine?.forEach((value, j) => {
          if (Number.isNaN(value)) mine[j] = theirs?.[j] === 0 ? 0 : value;
        });
      });
      expectSameBits(job.y, whole.y, "y");
      expectSameBits(reached.bytes, whole.state.bytes, "state");
      expect(reached.count).toEqual(whole.state.count);
      expect(told.every((tokens, i) => tokens >= (told[i - 1] ?? 0) && tokens <= batch * seqLen)).toBe(true);
    }),
    { numRuns: 300 },
  );
  for (const { runner } of layers) runner.dispose();
  backend.dispose();
});
