/** The bytes that the GPU's kernels touch: the count by plan and segment against the count of the running shaders. */
import { expect, test } from "vitest";
import { joined } from "../src/models/directions.js";
import type { LruParams, Program, Stage } from "../src/program.js";
import { State, stateLayout } from "../src/state.js";
import { Timeline } from "../src/timeline.js";
import { openDevice } from "../src/webgpu/device.js";
import { windowDispatch } from "../src/webgpu/dispatches.js";
import { piecesOf, tablesOf } from "../src/webgpu/pieces.js";
import { type Segment, segmentOf } from "../src/webgpu/pipelines.js";
import { makePlan, noBytes, type Plan } from "../src/webgpu/plan.js";
import { makeStepPlan } from "../src/webgpu/stepPlan.js";
import { plainTiles, softwareTiles, T, type Tile, tilesFor } from "../src/webgpu/tiles.js";
import { trafficOf } from "../src/webgpu/traffic.js";
import { BINDINGS, countAccesses, countingKernels } from "./support/countingGpu.js";
import { hardParams } from "./support/problems.js";

const ones = (length: number) => new Float32Array(length).fill(1);

function lruProgram(dModel: number, dState: number): Program {
  const stage: Stage = {
    ...{ kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState },
    params: hardParams(dModel, dState, 1),
  };
  return { architecture: "lru", slots: [dModel, dModel], stages: [stage], output: 1 };
}

/** Every kind of stage once. */
function everything(
  width: number,
  params: LruParams,
  dState: number,
  mode: "mean" | "last" | "max",
): Program {
  const to = { name: "", src: 1, dst: 1, width };
  const norm = { epsilon: 1e-5, scale: ones(width), bias: ones(width) };
  const stages: Stage[] = [
    { ...to, kind: "embedding", src: 0, vocabulary: 3, table: ones(3 * width) },
    { ...to, kind: "lru", dst: 2, dModel: width, dState, params },
    { ...to, kind: "dense", dst: 3, inWidth: width, outWidth: width, kernel: ones(width ** 2), bias: null },
    { ...to, kind: "glu", gate: 3 },
    { ...to, kind: "add", other: 2 },
    { ...to, kind: "gelu" },
    { ...to, ...norm, kind: "layerNorm" },
    { ...to, ...norm, kind: "rmsNorm" },
    { ...to, ...norm, kind: "batchNorm", mean: ones(width), variance: ones(width) },
    { ...to, kind: "pool", mode },
    { ...to, kind: "logSoftmax", group: width },
  ];
  return { architecture: "", slots: [1, width, width, width], stages, output: 1 };
}

/** Norms behind matrix products: with what they normalise needed too, or not. */
function normed(width: number, dState: number): Program {
  const norm = { name: "", width, epsilon: 1e-5, scale: ones(width), bias: ones(width) };
  const batchNorm = { ...norm, kind: "batchNorm", mean: ones(width), variance: ones(width) } as const;
  const dense = { kind: "dense", name: "", inWidth: width, outWidth: width, bias: null } as const;
  const add = { kind: "add", name: "", width } as const;
  const params = hardParams(width, dState, 1);
  const stages: Stage[] = [
    { kind: "lru", name: "", src: 0, dst: 1, dModel: width, dState, params },
    { ...add, src: 1, other: 0, dst: 1 },
    { ...norm, kind: "layerNorm", src: 1, dst: 1 },
    { kind: "gelu", name: "", src: 1, dst: 1, width },
    { ...dense, src: 1, dst: 2, kernel: ones(width ** 2) },
    { ...batchNorm, src: 2, dst: 2 },
    { ...add, src: 2, other: 1, dst: 2 },
    { ...norm, kind: "rmsNorm", src: 2, dst: 3 },
    { ...batchNorm, src: 3, dst: 3 },
    { ...dense, src: 3, dst: 1, kernel: ones(width ** 2) },
    { ...add, src: 1, other: 2, dst: 1 },
    { ...norm, kind: "layerNorm", src: 1, dst: 1 },
  ];
  return { architecture: "", slots: [width, width, width, width], stages, output: 1 };
}

/** One segment of rows of these lengths, and what the kernels read of its shape. */
function segmentFor(plan: Plan, program: Program, lengths: number[], every = 1) {
  const timeline = new Timeline({ state: new State(stateLayout(program), lengths.length), every });
  const bounds = { areaBytes: 1e9, totalBytes: 1e9, flops: 1e15 };
  const job = { batch: lengths.length, lengths: Int32Array.from(lengths) };
  const [piece] = [...piecesOf(plan, job, timeline, bounds)];
  const tables = tablesOf(piece as NonNullable<typeof piece>, timeline, plan.lift);
  const given = new Map<number, Uint32Array>([
    [plan.input, new Uint32Array((piece?.segment.tokens ?? 0) * plan.inputWidth).map((_, i) => i % 3)],
    ...(plan.states[0]?.table ? [[plan.times, new Uint32Array(piece?.segment.tokens ?? 0)] as const] : []),
    ...(["chunks", "rows", "wanted"] as const).map((name) => [plan.tables[name], tables[name]] as const),
  ]);
  return { segment: piece?.segment as Segment, given };
}

/** Steps of as many streams as there are lengths, in slots from the last to the first. */
function stepsFor(program: Program, rows: number, steps: number) {
  const plan = makeStepPlan(program);
  const segment = segmentOf(rows, steps);
  const places = new Uint32Array(2 * segment.tokens).map((_, i) => (i % 2 ? 0 : rows - 1 - ((i / 2) % rows)));
  const ids = new Uint32Array(segment.tokens * plan.inputWidth).map((_, i) => i % 3);
  const given = new Map([[plan.input, ids] as const, [plan.places, places] as const]);
  return { plan, segment, given, table: plan.states[0]?.table };
}

/** A window of every so many of as many tokens. */
function windowsFor(tokens: number, factor: number, mode: "mean" | "max" | "stride") {
  const width = 7;
  const names = { name: "", src: 0, dst: 1 };
  const perToken = (bytes: number) => ({ ...noBytes, perToken: bytes });
  const areas = [4 * width, 4 * factor * width, 4 * width, 16].map(perToken);
  const plan = { areas, dispatches: [windowDispatch({ ...names, kind: "window", mode, width, factor })] };
  const [count, parts] = [mode === "stride" ? 1 : factor, mode === "mean" ? factor : 1];
  const places = Array.from({ length: tokens }, (_, i) => [i * factor, count, 0, parts]).flat();
  return { plan, segment: segmentOf(1, tokens), given: new Map([[3, Uint32Array.from(places)]]) };
}

function forwardFor(program: Program, lengths: number[], every: number, timed: boolean, lift: number) {
  const plan = makePlan(program, timed, lift);
  return { plan, ...segmentFor(plan, program, lengths, every), table: plan.states[0]?.table };
}

test("the count is what the shaders touch", async (context) => {
  const opened = await openDevice();
  if ("reason" in opened) return context.skip(opened.reason);
  const adapter = await opened.device.gpu.requestAdapter();
  opened.device.dispose();
  const { maxStorageBuffersPerShaderStage } = (adapter as GPUAdapter).limits;
  if (maxStorageBuffersPerShaderStage < BINDINGS)
    return context.skip(`this adapter binds ${maxStorageBuffersPerShaderStage} storage buffers`);
  const device = await (adapter as GPUAdapter).requestDevice({
    requiredLimits: { maxStorageBuffersPerShaderStage },
  });
  const compiled = countingKernels(device, softwareTiles);
  const stack = (mode: "mean" | "last" | "max") => everything(7, hardParams(7, 5, 1), 5, mode);
  /** With a norm before everything that could be a part of what is before it. */
  const apart = (program: Program) => {
    const ofPrevious = ["glu", "add", "gelu"];
    const norm = program.stages.find(({ kind }) => kind === "rmsNorm") as Stage;
    return {
      ...program,
      stages: program.stages.flatMap((stage) => (ofPrevious.includes(stage.kind) ? [norm, stage] : [stage])),
    };
  };
  const batchNormed = (width: number, dState: number) => {
    const { stages, ...program } = normed(width, dState);
    const norm = { ...stages[5], src: 1, dst: 1 } as Stage;
    return { ...program, stages: [stages[0] as Stage, norm, norm] };
  };
  const unpooled = (program: Program) => {
    const stages = program.stages.filter(({ kind }) => kind !== "pool");
    return { ...program, stages };
  };
  const tall = tilesFor("dense", opened.device).find(({ chunks, cols }) => chunks * cols > 8) as Tile;
  const wide = tilesFor("projectScan", opened.device).find(({ cols }) => cols === 4) as Tile;
  const staged = { slab: 8 }; // whatever is staged at a time is staged as often
  const tiled = {
    projectScan: { ...wide, ...staged },
    output: { ...tall, ...staged },
    liftedOutput: { ...tall, ...staged },
    oneChunk: { ...plainTiles.oneChunk, ...staged },
    dense: { ...tall, ...staged },
  };
  const compiledTiled = countingKernels(device, tiled);
  for (const { program, lengths, timed = false, every = 1, lift = 1, steps = 0, tiles } of [
    { program: lruProgram(67, 65), lengths: [70, 32] },
    { program: lruProgram(67, 65), lengths: [70, 32, 60], tiles: tiled },
    { program: stack("mean"), lengths: [33, 7], tiles: tiled },
    { program: lruProgram(3, 9), lengths: [1, 32] },
    { program: lruProgram(3, 9), lengths: [1] },
    { program: lruProgram(64, 70), lengths: [5, T, 9], tiles: tiled },
    { program: lruProgram(67, 65), lengths: [5, T] },
    { program: stack("last"), lengths: [T, 8] },
    { program: lruProgram(2, 9), lengths: [T * 67, 1, 65] },
    { program: lruProgram(3, 9), lengths: [40, 70], timed: true },
    { program: lruProgram(3, 9), lengths: [4 * 40, 4 * 2], lift: 4 },
    { program: lruProgram(33, 9), lengths: [6 * T], lift: 3, tiles: tiled },
    { program: normed(7, 5), lengths: [33, 7] },
    { program: normed(64, 5), lengths: [33, 7], tiles: tiled },
    { program: normed(65, 5), lengths: [T] },
    { program: normed(7, 5), lengths: [T, 7], tiles: tiled },
    { program: normed(7, 5), lengths: [50, 80], every: 3 },
    { program: batchNormed(7, 5), lengths: [4 * 40, 4 * 2], lift: 4 },
    { program: normed(8, 5), lengths: [4 * 40, 4 * 2], lift: 4, tiles: tiled },
    { program: stack("mean"), lengths: [33, 7] },
    { program: stack("last"), lengths: [33, 7] },
    { program: apart(stack("mean")), lengths: [33, 7] },
    { program: stack("max"), lengths: [64] },
    { program: unpooled(stack("mean")), lengths: [50, 80], every: 3 },
    { program: lruProgram(67, 65), lengths: [1, 1, 1], steps: 5 },
    { program: lruProgram(67, 65), lengths: Array(70).fill(1), steps: 2, tiles: tiled },
    ...(["mean", "last", "max"] as const).map((mode) => ({
      ...{ program: stack(mode), lengths: [1, 1], steps: 3 },
    })),
  ]) {
    const { plan, segment, given, table } = steps
      ? stepsFor(program, lengths.length, steps)
      : forwardFor(program, lengths, every, timed, lift);
    const counted = await countAccesses(device, tiles ? compiledTiled : compiled, plan, segment, given);
    const { dispatches, kernels } = trafficOf(plan, segment, true, tiles ?? softwareTiles);
    expect(dispatches).toBe(counted.length);
    counted.forEach(({ dispatch, arrays }, i) => {
      const { kernel, touches } = kernels[i] as (typeof kernels)[number];
      expect(kernel).toBe(dispatch.kernel);
      arrays.forEach((mine, n) => {
        const { read, written, loads } = touches[n] as (typeof touches)[number];
        const array = dispatch.arrays[n];
        const what = `${kernel}, array ${n}, lengths ${lengths}, every ${every}, steps ${steps}`;
        expect(written, what).toBe(mine.written);
        expect(mine.stores, what).toBe(mine.written);
        // Of weights and of tables by state, and of carries of thinned tokens, the count says what they have at most.
        const isBound = typeof array !== "number" || array === table || every > 1;
        if (isBound) expect(read, what).toBeGreaterThanOrEqual(mine.read);
        else expect(read, what).toBe(mine.read);
        expect(loads, what).toBe(mine.loads);
      });
    });
  }
  for (const mode of ["mean", "max", "stride"] as const) {
    const { plan, segment, given } = windowsFor(50, 3, mode);
    const [counted] = await countAccesses(device, compiled, plan, segment, given);
    const [kernel] = trafficOf(plan, segment).kernels;
    counted?.arrays.forEach(({ read, loads, written, stores }, n) => {
      expect(kernel?.touches[n], `window, array ${n}`).toEqual({ read, loads, written });
      expect(stores).toBe(written);
    });
    expect(counted?.arrays.length).toBe(4);
  }
  device.destroy();
});

test("an LRU takes three dispatches a segment and 12H + 16N bytes a token", () => {
  for (const [H, N] of [
    [256, 256],
    [1, 3],
    [100, 17],
  ] as const) {
    const plan = makePlan(lruProgram(H, N));
    const bytes = (segment: Segment) => {
      const { read, written, dispatches, copies } = trafficOf(plan, segment);
      expect([dispatches, copies]).toEqual([3, 0]);
      return read + written;
    };
    const [small, large] = [segmentOf(2, T * 1000), segmentOf(2, T * 3000)];
    const chunks = large.chunks - small.chunks;
    const tokens = large.tokens - small.tokens;
    expect(bytes(large) - bytes(small)).toBe(tokens * (12 * H + 16 * N) + chunks * (32 * N + 24));
    expect(bytes({ ...small, rows: 3 }) - bytes(small)).toBe(24 * N + 16);
  }
});

test("both directions take three dispatches, and 12H bytes a token less than two layers", () => {
  const [H, N] = [100, 17];
  const plan = makePlan(joined(lruProgram(H, N), lruProgram(H, 2 * N)));
  const traffic = (segment: Segment) => {
    const { read, written, dispatches } = trafficOf(plan, segment);
    expect(dispatches).toBe(3);
    return read + written;
  };
  const added = traffic(segmentOf(2, T * 3000)) - traffic(segmentOf(2, T * 1000));
  expect(added).toBe(4000 * (T * (12 * H + 16 * 3 * N) + 32 * 3 * N + 24));
});

test("a stack of layers takes three dispatches for each LRU, and one for each stage that is no part of another's", () => {
  const { stages, slots } = everything(7, hardParams(7, 5, 1), 5, "mean");
  const plan = makePlan({ architecture: "", slots, stages, output: 1 });
  // glu, add, gelu and a norm happen where the dense stage before them stores its values.
  const expected = stages.length + 2 - 4;
  expect(trafficOf(plan, segmentOf(2, 100)).dispatches).toBe(expected);
  expect(trafficOf(plan, segmentOf(2, T)).dispatches).toBe(expected - 2);
});

test("norms that are as wide as a tile take no dispatch behind a matrix product", () => {
  const dispatches = (width: number) => trafficOf(makePlan(normed(width, 5)), segmentOf(2, 100)).dispatches;
  expect(dispatches(64)).toBe(3 + 2);
  // Wider rows: two layer norms and an RMSNorm of their own, with what comes after two of them.
  expect(dispatches(65)).toBe(3 + 2 + 3 + 2);
});

test("single chunks take one dispatch and 8H bytes a token; of a layer too wide for that two, and 12H + 16N", () => {
  for (const [H, N, dispatches] of [
    [64, 64, 1],
    [1, 300, 1],
    [65, 3, 2],
  ] as const) {
    const plan = makePlan(lruProgram(H, N));
    const traffic = (segment: Segment) => {
      const { read, written, ...counted } = trafficOf(plan, segment);
      expect(counted.dispatches).toBe(dispatches);
      return read + written;
    };
    const [short, long] = [traffic(segmentOf(5, 1)), traffic(segmentOf(5, T))];
    expect(long - short).toBe(5 * (T - 1) * (dispatches === 1 ? 8 * H : 12 * H + 16 * N));
    // A row's state is read and written, and its place is read.
    const row = traffic(segmentOf(6, 1)) - short;
    expect(row).toBe(dispatches === 1 ? 8 * H + 16 * N + 8 : 12 * H + 48 * N + 16);
    // Where not every token gives an output, what is thinned is of several chunks.
    expect(trafficOf(plan, { ...segmentOf(5, T), outputs: 5, thinned: 5 }).dispatches).toBe(2);
  }
});
