/** Several timesteps as one on the GPU: the same numbers, fewer bytes. */
import { afterAll, beforeAll, describe, expect, type TestContext, test } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import { restsOf } from "../src/engine/rest.js";
import { linearLimit } from "../src/engine/selfTest.js";
import { buildProgram } from "../src/models/build.js";
import { toLruParams } from "../src/models/lru.js";
import { halve } from "../src/networks/halves.js";
import type { Halves } from "../src/networks/hidden.js";
import type { LruParams, Program, Stage } from "../src/program.js";
import { ratesOf } from "../src/rates.js";
import { runReference } from "../src/reference.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu, WebgpuBackend } from "../src/webgpu/backend.js";
import { countOf, liftingOf } from "../src/webgpu/chooseLift.js";
import { openDevice } from "../src/webgpu/device.js";
import { noWeights } from "../src/webgpu/dispatches.js";
import { isLifted, runLifted } from "../src/webgpu/lifting.js";
import { segmentOf } from "../src/webgpu/pipelines.js";
import { makePlan } from "../src/webgpu/plan.js";
import { softwareTiles, T } from "../src/webgpu/tiles.js";
import { trafficOf } from "../src/webgpu/traffic.js";
import cases from "./fixtures/lrnnx/cases.json" with { type: "json" };
import { expectSameBits } from "./support/bits.js";
import { real } from "./support/conjugates.js";
import { goldenNames, initialState, loadGolden, relativeError } from "./support/golden.js";
import { loadLrnnx } from "./support/lrnnx.js";
import { floats, hardParams } from "./support/problems.js";

let backend: WebgpuBackend | undefined;
let reason = "";
beforeAll(async () => {
  const opened = await openWebgpu();
  if ("reason" in opened) reason = opened.reason;
  else backend = opened.backend;
});
afterAll(() => backend?.dispose());

function needGpu(context: TestContext): WebgpuBackend {
  if (!backend) context.skip(reason);
  return backend as WebgpuBackend;
}

function lruProgram(params: LruParams): Program {
  const [dModel, dState] = [params.D.length, params.nuLog.length];
  const stages: Stage[] = [{ kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState, params }];
  return { architecture: "lru", slots: [dModel, dModel], stages, output: 1 };
}

/** Two LRUs with something between and behind them: a batch norm, which happens where the first one stores its outputs. */
function stack(mode?: "mean" | "last" | "max"): Program {
  const lru = (src: number, dst: number, seed: number): Stage => ({
    ...{ kind: "lru", name: "lru", src, dst, dModel: 5, dState: 9 },
    params: hardParams(5, 9, seed),
  });
  const stages: Stage[] = [
    lru(0, 1, 1),
    {
      ...{ kind: "batchNorm", name: "norm", src: 1, dst: 1, width: 5, epsilon: 1e-5 },
      ...{ mean: floats(5, 11), variance: Float32Array.of(0.5, 1, 2, 0.1, 3) },
      ...{ scale: floats(5, 12), bias: floats(5, 13) },
    },
    { kind: "gelu", name: "gelu", src: 1, dst: 1, width: 5 },
    { kind: "add", name: "add", src: 1, other: 0, dst: 1, width: 5 },
    lru(1, 2, 2),
    ...(mode ? [{ kind: "pool", name: "pool", src: 2, dst: 2, width: 5, mode } as const] : []),
  ];
  return { architecture: "", slots: [5, 5, 5], stages, output: 2 };
}

function makeJob(program: Program, lengths: number[]): ForwardJob {
  const [batch, seqLen] = [lengths.length, Math.max(...lengths)];
  const state = new State(stateLayout(program), batch);
  for (let row = 0; row < batch; row++) {
    for (const slot of state.layout.slots) state.write(slot, row, floats(slot.size, 6), floats(slot.size, 7));
    state.restartRow(row, 3);
  }
  const isPooled = program.stages.some(({ kind }) => kind === "pool");
  const width = program.slots[0] as number;
  return {
    ...{ batch, seqLen, state, threads: 0, signal: undefined, onProgress: undefined },
    lengths: Int32Array.from(lengths),
    x: floats(batch * seqLen * width, 8),
    y: new Float32Array(batch * (isPooled ? 1 : seqLen) * width).fill(Number.NaN),
  };
}

function statesOf({ state, batch }: Pick<ForwardJob, "state" | "batch">): number[] {
  const rows = [...Array(batch).keys()];
  return state.layout.slots.flatMap((slot) =>
    rows.flatMap((row) => {
      const { re, im } = state.read(slot, row);
      return [...re, ...im];
    }),
  );
}

describe("other people's implementations", () => {
  const layers = goldenNames.filter((name) => name.startsWith("lru_"));
  for (const lift of [2, 5]) {
    test.for(layers)(`${lift} timesteps as one: %s`, async (name, context) => {
      const gpu = needGpu(context);
      const golden = await loadGolden(name);
      const { program, batch, seqLen, x } = golden;
      const params = toLruParams(golden.checkpoint);
      const runner = await gpu.prepare(program, undefined, { lift, leastChunks: 0 });
      const job = { ...makeJob(program, Array(batch).fill(seqLen)), x, state: initialState(golden) };
      await runner.forward(job);
      runner.dispose();
      const limit = linearLimit(params, x, batch, seqLen, initialState(golden));
      expect(relativeError(job.y, golden.y)).toBeLessThanOrEqual(limit);
    });
  }
});

describe("the reference", () => {
  for (const [what, program, limit] of [
    ["a layer", lruProgram(hardParams(6, 10, 1)), 1e-6],
    ["a layer wider than a workgroup", lruProgram(hardParams(40, 70, 2)), 1e-6],
    ["real states", (halve(lruProgram(real(hardParams(6, 21, 1)))) as Halves).lean, 1e-6],
    ["real states and others", (halve(lruProgram(real(hardParams(6, 21, 1), 3))) as Halves).full, 1e-6],
    ["a stack", stack(), 5e-5],
    ["a stack that pools", stack("mean"), 5e-5],
    ["a stack that takes the last", stack("last"), 5e-5],
  ] as const) {
    test(`${what}: ragged rows, pieces of rows, and what is left of them`, async (context) => {
      const gpu = needGpu(context);
      for (const [lift, scratchBytes, lengths] of [
        [4, undefined, [333, 0, 1, 4, 130, 128]],
        [3, 40_000, [333, 200]],
        [8, undefined, [64, 8]],
      ] as const) {
        const job = makeJob(program, [...lengths]);
        const expected = runReference(program, job);
        const runner = await gpu.prepare(program, scratchBytes, { lift, leastChunks: 0 });
        await runner.forward(job);
        expect(relativeError(job.y, expected.y)).toBeLessThan(limit);
        const states = statesOf({ state: expected.state, batch: job.batch });
        expect(relativeError(statesOf(job), states)).toBeLessThan(limit);
        lengths.forEach((length, row) => {
          expect(job.state.count[row]).toBe(3 + length);
        });
        runner.dispose();
      }
    });
  }

  test("y in the memory of x", async (context) => {
    const gpu = needGpu(context);
    const program = lruProgram(hardParams(4, 6, 1));
    const job = makeJob(program, [50, 23]);
    const expected = runReference(program, job);
    const runner = await gpu.prepare(program, undefined, { lift: 4, leastChunks: 0 });
    await runner.forward({ ...job, y: job.x });
    expect(relativeError(job.x, expected.y)).toBeLessThan(1e-6);
    runner.dispose();
  });
});

/** Norms of rows and residuals, in either order, behind layers of so many features. */
function normed(width: number): Program {
  const lru = (src: number, dst: number, seed: number): Stage => ({
    ...{ kind: "lru", name: "lru", src, dst, dModel: width, dState: 9 },
    params: hardParams(width, 9, seed),
  });
  const of = { name: "", src: 1, dst: 1, width };
  const norm = { ...of, epsilon: 1e-5, scale: floats(width, 11), bias: floats(width, 12) };
  const stages: Stage[] = [
    lru(0, 1, 1),
    { ...norm, kind: "layerNorm" },
    { ...of, kind: "add", other: 0 },
    lru(1, 2, 2),
    { ...of, src: 2, dst: 2, kind: "add", other: 1 },
    { ...norm, src: 2, dst: 2, kind: "rmsNorm" },
  ];
  return { architecture: "", slots: [width, width, width], stages, output: 2 };
}

describe("norms and residuals behind several timesteps, or one", () => {
  const wide = { ...softwareTiles, liftedOutput: { rows: 8, cols: 8, lanes: 16, chunks: 4, slab: 8 } };
  for (const [width, lift, tiles] of [
    [1, 4],
    [8, 4],
    [8, 8, wide],
    [32, 3, wide],
    [64, 2],
    [7, 4],
    [8, 1],
  ] as const) {
    test(`${width} features, ${lift} as one${tiles ? ", a wide tile" : ""}`, async (context) => {
      const usual = needGpu(context);
      const opened = tiles && (await openDevice());
      const device = opened && "device" in opened ? opened.device : undefined;
      const gpu = device ? new WebgpuBackend(device, tiles) : usual;
      const program = normed(width);
      const runner = await gpu.prepare(program, undefined, { lift, leastChunks: 0 });
      // Of several chunks, and of one.
      for (const lengths of [[lift * 70, 0, lift * 32, lift], [lift * 5]]) {
        const job = makeJob(program, lengths);
        const expected = runReference(program, job);
        await runner.forward(job);
        expect(relativeError(job.y, expected.y)).toBeLessThan(5e-5);
      }
      runner.dispose();
      device?.dispose();
    });
  }
});

test("bytes fall as computed: 12H + 16N / P a timestep", () => {
  for (const [H, N, P] of [
    [64, 256, 4],
    [3, 5, 8],
  ] as const) {
    const plan = makePlan(lruProgram(hardParams(H, N, 1)), false, P);
    const bytes = (chunks: number) => {
      const { read, written, dispatches } = trafficOf(plan, {
        ...segmentOf(2, P * T * chunks),
        chunks: 2 * chunks,
      });
      expect(dispatches).toBe(3);
      return read + written;
    };
    const tokens = 2 * P * T * 2000;
    const perChunk = 24 * N + 24;
    expect(bytes(3000) - bytes(1000)).toBe(tokens * (12 * H + (16 * N) / P) + 4000 * perChunk);
  }
});

test("norms of rows that divide a tile's columns are a part of the layer behind timesteps as one, others a dispatch", () => {
  const dispatches = (width: number, lift: number) => {
    const plan = makePlan(counted(width, 6, ["rmsNorm", "add"], 1), false, lift, noWeights);
    const { kernels } = trafficOf(plan, { ...segmentOf(2, lift * T * 100), chunks: 200 });
    return kernels.map(({ kernel }) => kernel).slice(2, -1);
  };
  expect(dispatches(4, 4)).toEqual(["liftedOutput"]);
  expect(dispatches(64, 4)).toEqual(["liftedOutput"]);
  expect(dispatches(5, 4)).toEqual(["liftedOutput", "layerNorm", "add"]);
  expect(dispatches(128, 4)).toEqual(["liftedOutput", "layerNorm", "add"]);
  // One timestep at a time: behind a norm u is not there any more.
  expect(dispatches(5, 1)).toEqual(["output", "add"]);
});

const liftOf = (program: Program) => liftingOf(program).lift;

/** Bytes that traffic.ts counts for a token of a long forward: without the weights, and what a row and a forward take once. */
function bytesOf(program: Program, P: number): number {
  const plan = makePlan(program, false, P, noWeights);
  const bytes = (chunks: number) => {
    const { read, written } = trafficOf(plan, { ...segmentOf(2, P * T * chunks), chunks: 2 * chunks });
    return read + written;
  };
  return (bytes(3000) - bytes(1000)) / (2 * P * T * 2000);
}

/** What only counts needs no parameters. */
function counted(dModel: number, dState: number, behind: readonly string[], layers: number): Program {
  const params = { D: new Float32Array() } as LruParams;
  const width = dModel;
  const ones = new Float32Array(width);
  const norm = { scale: ones, bias: ones, mean: ones, variance: ones, epsilon: 1e-6 };
  const stages: Stage[] = [];
  for (let i = 0; i < layers; i++) {
    stages.push({ kind: "lru", name: "", src: 2 * i, dst: 2 * i + 1, dModel, dState, params });
    const to = { name: "", src: 2 * i + 1, dst: 2 * i + 1, width };
    for (const kind of behind) stages.push({ ...to, ...norm, kind, other: 2 * i, gate: 2 * i } as Stage);
    stages.push({
      ...{ ...to, kind: "dense", dst: 2 * i + 2 },
      ...{ inWidth: width, outWidth: width, kernel: new Float32Array(), bias: null },
    });
  }
  return { architecture: "", slots: Array(2 * layers + 1).fill(width), stages, output: 2 * layers };
}

async function everyProgram(): Promise<[string, Program][]> {
  const programs: [string, Program][] = [];
  for (const name of goldenNames) programs.push([name, (await loadGolden(name)).program]);
  for (const { name } of cases) {
    const { checkpoint, spec } = await loadLrnnx(name);
    const network = buildProgram(checkpoint, {}, spec);
    const parts = ratesOf(network)?.links ?? [{ kind: "part", program: network as Program } as const];
    for (const part of parts) if (part.kind === "part") programs.push([name, part.program]);
  }
  const behind = [
    [],
    ["gelu"],
    ["add"],
    ["add", "layerNorm"],
    ["rmsNorm", "glu"],
    ["batchNorm", "gelu", "add"],
  ];
  for (const H of [1, 6, 8, 16, 48, 64, 100, 256])
    for (const N of [1, 9, 64, 256])
      for (const [i, kinds] of behind.entries())
        programs.push([`H=${H} N=${N} ${kinds}`, counted(H, N, kinds, 1 + (i % 2))]);
  return programs;
}

test("timesteps are taken as one only where that moves fewer bytes, as traffic.ts counts them", async () => {
  let lifted = 0;
  for (const [what, program] of await everyProgram()) {
    const lift = liftOf(program);
    for (const P of [1, 2, 16, lift])
      expect(countOf(program, P).bytes, `${what}, ${P} as one`).toBeCloseTo(bytesOf(program, P), 6);
    if (lift === 1) continue;
    lifted++;
    expect(bytesOf(program, lift), `${what}, ${lift} as one`).toBeLessThan(bytesOf(program, 1));
  }
  expect(lifted).toBeGreaterThan(20);
});

test("wide layers of few states are not lifted, layers of many states and small ones are", () => {
  const lift = (H: number, N: number) => liftOf(counted(H, N, [], 1));
  for (const [H, N] of [
    [256, 256],
    [256, 64],
    [1024, 1024],
  ] as const)
    expect(lift(H, N)).toBe(1);
  expect(lift(64, 256)).toBe(4);
  expect(lift(32, 32)).toBeGreaterThan(1);
  expect(lift(1, 1)).toBeGreaterThan(1);
  expect(liftOf({ architecture: "", slots: [1], stages: [], output: 0 })).toBe(1);
});

test("language models and classifiers of narrow layers are lifted", async () => {
  for (const name of goldenNames.filter((name) => /^(lm|ml_cls)_/.test(name)))
    expect(liftOf((await loadGolden(name)).program), name).toBeGreaterThan(1);
});

test("resets, timesteps, every and little work are left to the other plan", () => {
  const program = lruProgram(hardParams(2, 2, 1));
  const job = makeJob(program, [T * 4 * 16]);
  const lifting = { lift: 4, leastChunks: 16 };
  expect(isLifted(job, lifting)).toBe(true);
  expect(isLifted(job, { lift: 1, leastChunks: 0 })).toBe(false);
  expect(isLifted(job, { lift: 4, leastChunks: 17 })).toBe(false);
  expect(isLifted(makeJob(program, [T * 4 * 16 + 1]), lifting)).toBe(false);
  expect(isLifted({ ...job, every: 2 }, lifting)).toBe(false);
  expect(isLifted({ ...job, resets: [Int32Array.of(5)] }, lifting)).toBe(false);
  expect(isLifted({ ...job, resets: [new Int32Array()] }, lifting)).toBe(true);
  expect(isLifted({ ...job, timesteps: floats(job.seqLen, 1) }, lifting)).toBe(false);
});

test("what is left of a forward goes on as it began, with the same bits", async (context) => {
  const gpu = needGpu(context);
  const program = lruProgram(hardParams(6, 10, 1));
  const lifting = { lift: 4, leastChunks: 20 };
  const runner = await gpu.prepare(program, 30_000, lifting);
  const lengths = [4 * T * 12, 4 * T * 12];
  const resets = [Int32Array.of(5), new Int32Array()];
  for (const given of [{}, { resets }] as { resets?: Int32Array[] }[]) {
    const expected = { ...makeJob(program, lengths), ...given };
    await runner.forward(expected);
    const job = { ...makeJob(program, lengths), ...given };
    const [done, reached] = [new Int32Array(2), job.state.clone()];
    const onProgress = () => {
      throw new Error("lost");
    };
    await expect(runner.forward({ ...job, done, state: reached, onProgress })).rejects.toThrow("lost");
    expect(done[0]).toBeGreaterThan(5);
    expect(done[0]).toBeLessThan(4 * T * 12);
    const rests = restsOf(program, job, done, reached);
    expect(rests).toHaveLength(2);
    for (const { job: rest } of rests) {
      // By itself it would be too little, or be without the reset.
      expect(isLifted({ ...rest, whole: undefined }, lifting)).toBe(false);
      expect(isLifted({ ...rest, whole: undefined }, { ...lifting, leastChunks: 1 })).toBe(true);
      expect(isLifted(rest, lifting)).toBe(!given.resets);
      await runner.forward(rest);
    }
    expectSameBits(job.y, expected.y, "y");
  }
  runner.dispose();
});

test("what has been done when the rest fails is said and kept, and x is whole where it is not", async () => {
  const program = lruProgram(hardParams(1, 1, 1));
  const memory = Float32Array.from({ length: 14 }, (_, i) => i + 1);
  const done = new Int32Array(2);
  const job = { ...makeJob(program, [7, 6]), x: memory, y: memory, done };
  const lifted = async ({ y, lengths, done }: ForwardJob) => {
    expect([...lengths]).toEqual([4, 4]);
    for (const row of [0, 1]) {
      y.fill(-1, 7 * row, 7 * row + 4);
      y.fill(0, 7 * row + 4, 7 * row + 7);
      (done as Int32Array)[row] = 4;
    }
  };
  const plain = async ({ x, y, lengths, done, seqLen }: ForwardJob) => {
    expect([seqLen, ...lengths, ...x]).toEqual([3, 3, 2, 5, 6, 7, 12, 13, 0]);
    y.fill(-2, 0, 3);
    (done as Int32Array)[0] = 3;
    throw new Error("lost");
  };
  await expect(runLifted(program, job, 4, lifted, plain)).rejects.toThrow("lost");
  expect([...done]).toEqual([7, 4]);
  expect([...memory]).toEqual([-1, -1, -1, -1, -2, -2, -2, -1, -1, -1, -1, 12, 13, 0]);
});
