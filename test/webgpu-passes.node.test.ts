/** What a plan's price is of: dispatches and round trips are those that the GPU is asked for, loads about those of the shaders. */
import { afterAll, expect, test, vi } from "vitest";
import { valuesOf } from "../src/engine/gpuPrice.js";
import { createEngine, type Engine, initLru, type Plan, writeSafetensors } from "../src/index.js";
import { programOf } from "../src/lruParams.js";
import type { Program, Stage } from "../src/program.js";
import { liftingOf } from "../src/webgpu/chooseLift.js";
import { type Dispatch, noWeights, scheduled } from "../src/webgpu/dispatches.js";
import { loadsOf } from "../src/webgpu/loads.js";
import { costsOf } from "../src/webgpu/measure.js";
import { passesOf } from "../src/webgpu/passes.js";
import { type Segment, segmentOf, shaderOf, tileOf } from "../src/webgpu/pipelines.js";
import { makePlan } from "../src/webgpu/plan.js";
import { plainTiles, softwareTiles, T, type Tiles } from "../src/webgpu/tiles.js";
import { trafficOf } from "../src/webgpu/traffic.js";
import { loadGolden } from "./support/golden.js";
import { type Counts, count, seen, shrink, standInGpu } from "./support/gpus.js";
import { randomClassifier, randomUnet } from "./support/lrnnx.js";

vi.setConfig({ testTimeout: 120_000 });

const engines: Engine[] = [];
afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

async function open(context: { skip(reason: string): never }, bytes: number) {
  const counts = { submits: 0, maps: 0, dispatches: 0, uploaded: 0 };
  const changed = await standInGpu((handle) => {
    shrink(handle, bytes);
    count(handle, counts);
    const write = handle.queue.writeBuffer.bind(handle.queue);
    handle.queue.writeBuffer = (...given: Parameters<typeof write>) => {
      counts.uploaded += given[2].byteLength;
      return write(...given);
    };
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const engine = await createEngine({ backend: ["webgpu", "wasm"], threads: 0, gpu: changed.gpu });
  engines.push(engine);
  return { engine, counts };
}

/** What an engine's rates are multiplied by: a narrow chunk is one dispatch and one round trip. */
function priced(engine: Engine, plan: Plan): Counts {
  const [own, one] = [plan, engine.explain("forward", { dModel: 8, dState: 8, seqLen: 32 })].map(
    ({ candidates }) => candidates.find(({ backend }) => backend === "webgpu")?.parts ?? {},
  ) as [Record<string, number>, Record<string, number>];
  const times = (part: string) => (own[part] as number) / (one[part] as number);
  const roundTrips = Math.round(times("roundTrip"));
  return { submits: roundTrips, maps: roundTrips, dispatches: Math.round(times("dispatches")) };
}

test.for([
  { name: "a narrow layer's single chunks", dModel: 16, seqLen: 32, dispatches: 1 },
  { name: "a wider layer's", dModel: 80, seqLen: 20, dispatches: 2 },
  { name: "more than a chunk", dModel: 16, seqLen: 33, dispatches: 3 },
  { name: "tokens with timesteps", dModel: 16, seqLen: 20, timed: true, dispatches: 3 },
])("$name: $dispatches", async ({ dModel, seqLen, timed = false, dispatches }, context) => {
  const { engine, counts } = await open(context, 2 ** 27);
  const layer = await engine.lru(initLru({ dModel, dState: 24 }));
  const size = { batch: 2, seqLen, integrationTimesteps: timed };
  const options = { batch: 2, backend: "webgpu" as const };
  const integrationTimesteps = new Float32Array(2 * seqLen).fill(0.5);
  const x = new Float32Array(2 * seqLen * dModel).fill(1);
  const taken = await seen(counts, () =>
    layer.forward(x, timed ? { ...options, integrationTimesteps } : options),
  );
  expect(taken).toEqual({ submits: 1, maps: 1, dispatches });
  expect(priced(engine, layer.explain("forward", size))).toEqual(taken);
  expect(priced(engine, engine.explain("forward", { ...size, dModel, dState: 24 }))).toEqual(taken);
  const stack = engine.explain("forward", { ...size, dModel, dState: 24, layers: 5 });
  expect(priced(engine, stack).dispatches).toBe(5 * dispatches);
});

test.for([
  { name: "cut", batch: 1, seqLen: 1000 },
  { name: "in groups", batch: 300, seqLen: 5 },
])(
  "rows that are $name: one round trip, and the dispatches of each piece",
  async ({ batch, seqLen }, context) => {
    const { engine, counts } = await open(context, 2 ** 14);
    const layer = await engine.lru(initLru({ dModel: 8, dState: 8 }));
    const x = new Float32Array(batch * seqLen * 8).fill(1);
    const { submits, dispatches } = await seen(counts, () => layer.forward(x, { batch, backend: "webgpu" }));
    expect(submits).toBeGreaterThan(2);
    expect(priced(engine, layer.explain("forward", { batch, seqLen }))).toMatchObject({
      submits: 1,
      dispatches,
    });
  },
);

test.for<{
  name: string;
  made: ReturnType<typeof randomUnet>;
  bytes: number;
  batch: number;
  seqLen: number;
  timed?: boolean;
}>([
  { name: "a classifier", made: randomClassifier(2), bytes: 2 ** 27, batch: 2, seqLen: 4 ** 3 * 3 ** 3 },
  { name: "a U-Net", made: randomUnet(3), bytes: 2 ** 27, batch: 2, seqLen: 192 },
  { name: "a U-Net in groups of rows", made: randomUnet(1), bytes: 2 ** 14, batch: 50, seqLen: 48 },
  {
    ...{ name: "a U-Net of tokens with timesteps", made: randomUnet(1), bytes: 2 ** 14 },
    ...{ batch: 50, seqLen: 48, timed: true },
  },
])("$name, whose rate changes", async ({ made, bytes, batch, seqLen, timed = false }, context) => {
  const { engine, counts } = await open(context, bytes);
  const model = await engine.model(writeSafetensors(made.checkpoint), made.spec);
  const width = made.x.length / (made.batch * made.seqLen);
  const x = Float32Array.from({ length: batch * seqLen * width }, (_, i) => Math.sin(i));
  const integrationTimesteps = timed
    ? Float32Array.from({ length: batch * seqLen }, (_, i) => i / 1000)
    : undefined;
  const options = { batch, backend: "webgpu", integrationTimesteps } as const;
  const taken = await seen(counts, () => model.forward(x, options));
  const price = priced(engine, model.explain("forward", { batch, seqLen, integrationTimesteps: timed }));
  expect(price).toEqual({ ...taken, submits: 1, maps: 1 });
  if (bytes < 2 ** 20) expect(taken.submits).toBeGreaterThan(1);
});

test("rows of a length are lifted where they have chunks enough together, and billions of them are priced at once", () => {
  const narrow = programOf(initLru({ dModel: 4, dState: 64 }), "lru");
  const { lift, leastChunks } = liftingOf(narrow);
  const bounds = { maxBinding: 2 ** 27, flopsPerMs: 1e9 };
  const flopsOf = (batch: number, seqLen: number) =>
    passesOf(narrow, batch, seqLen, 0, bounds, 2 ** 26, plainTiles).flops;
  const whole = lift * T;
  const own = flopsOf(1, whole) / lift; // of a chunk
  const isLifted = (batch: number, seqLen: number) =>
    Math.abs(flopsOf(batch, seqLen) / (batch * Math.ceil(seqLen / T) * own) - 1) > 0.01;
  for (const batch of [1, 3, 7, 2 ** 40]) {
    const chunks = Math.ceil(leastChunks / batch);
    expect(isLifted(batch, chunks * whole), `${batch} rows`).toBe(true);
    expect(isLifted(batch, (chunks - 1) * whole + T), `${batch} rows`).toBe(false);
  }
});

test("what is uploaded for timesteps is what their price is of; values that are there are not uploaded again", async (context) => {
  const { engine, counts } = await open(context, 2 ** 27);
  const params = initLru({ dModel: 3, dState: 24 });
  const layer = await engine.lru(params);
  const x = new Float32Array(120).fill(1);
  const uploaded = async (values: (i: number) => number) => {
    const before = counts.uploaded;
    const integrationTimesteps = Float32Array.from({ length: 40 }, (_, i) => values(i));
    await layer.forward(x, { backend: "webgpu", integrationTimesteps });
    return counts.uploaded - before;
  };
  await uploaded((i) => i % 8);
  const again = await uploaded((i) => 7 - (i % 8));
  const [few, many] = [await uploaded((i) => 10 + (i % 8)), await uploaded((i) => 20 + i)];
  const own = (timed: number) =>
    passesOf(
      programOf(params, "lru"),
      1,
      40,
      timed,
      { maxBinding: 2 ** 27, flopsPerMs: 1 },
      2 ** 26,
      plainTiles,
    ).tables;
  const indices = 4 * 40;
  expect(few - again).toBe(own(8) - indices);
  expect(many - again).toBe(own(Number.POSITIVE_INFINITY) - indices);
  expect(own(0)).toBe(0);
});

test("few values, or one for each token", () => {
  const of = (length: number, values: (i: number) => number) =>
    valuesOf(Float32Array.from({ length }, (_, i) => values(i)));
  expect(of(50_000, (i) => i % 7)).toBe(7);
  expect(of(50_000, () => 0.5)).toBe(1);
  for (const length of [1, 3, 1000, 50_001]) expect(of(length, (i) => i)).toBe(Number.POSITIVE_INFINITY);
  expect(of(50_000, (i) => Math.floor(i / 1000))).toBe(50);
});

test.for([
  { name: "ml_cls_01_mean_prenorm", seqLen: 50 },
  { name: "ml_seq_04_batchnorm_eval", seqLen: 21 },
  { name: "lm_03_tied_rms_mlp_2layer", seqLen: 15 },
])("$name: stages that are fused, and others", async ({ name, seqLen }, context) => {
  const { checkpoint, spec, batch, input } = await loadGolden(name);
  const { engine, counts } = await open(context, 2 ** 27);
  const model = await engine.model(writeSafetensors(checkpoint), spec);
  const taken = await seen(counts, () => model.forward(input, { batch, backend: "webgpu" }));
  expect(taken.dispatches).toBeGreaterThan(2);
  expect(priced(engine, model.explain("forward", { batch, seqLen }))).toEqual(taken);
});

const tile = { rows: 8, cols: 4, lanes: 32, chunks: 4, slab: 32 };
const large = { ...plainTiles, projectScan: tile, output: tile, liftedOutput: tile, dense: tile };

test.for([
  ["softwareTiles", softwareTiles],
  ["plainTiles", plainTiles],
  ["large tiles", large],
] as const)("what threads load is about what the shaders do: %s", ([, tiles]) => {
  for (const [H, N] of [
    [16, 16],
    [64, 64],
    [256, 256],
    [64, 256],
    [256, 64],
  ] as const)
    for (const lift of [1, 4])
      for (const [batch, seqLen] of [
        [1, 1],
        [8, 1],
        [1, 64],
        [3, 5000],
      ] as const) {
        const program = programOf(initLru({ dModel: H, dState: N }), "lru");
        const { dispatches } = makePlan(program, false, lift, noWeights);
        const tokens = Math.ceil(seqLen / lift) * lift;
        const chunks = batch * Math.ceil(tokens / lift / T);
        const segment = { ...segmentOf(batch, tokens), chunks };
        const counted = trafficOf({ dispatches, lift }, segment, true, tiles);
        const loads = counted.kernels
          .flatMap(({ touches }) => touches)
          .reduce((sum, { loads }) => sum + loads, 0);
        const own = loadsOf(dispatches, segment, tiles);
        expect(own.dispatches).toBe(counted.dispatches);
        expect(own.loads / loads, `H=${H} N=${N} lift ${lift}, ${batch} x ${tokens}`).toBeGreaterThan(0.8);
        expect(own.loads / loads, `H=${H} N=${N} lift ${lift}, ${batch} x ${tokens}`).toBeLessThan(1.25);
        expect(own.waits).toBeLessThanOrEqual(own.loads);
        expect(own.threads).toBe(threadsIn(dispatches, segment, tiles));
        const whole = chunks * T * 8 * H * N;
        if (lift > 1) continue;
        expect(own.flops).toBeGreaterThanOrEqual(whole);
        // Of layers that fill their tiles, no more.
        if (tiles !== large && Math.min(H, N) >= 64) expect(own.flops).toBe(whole);
      }
});

/** As the shaders have them. */
function threadsIn(dispatches: readonly Dispatch[], segment: Segment, tiles: Tiles): number {
  let threads = 0;
  for (const { dispatch, on } of scheduled(dispatches, segment, true, false)) {
    const tile = tileOf(tiles, dispatch.kernel);
    const code = shaderOf(dispatch.kernel, tile);
    const size = code.match(/@workgroup_size\((\w+)\)/)?.[1] as string;
    const each = Number(size === "THREADS" ? code.match(/const THREADS = (\d+)u/)?.[1] : size);
    threads += dispatch.workgroups(on, tile) * each;
  }
  return threads;
}

test("what a network's stages load is about what their shaders do, and its flops are those of whole chunks", async () => {
  const { checkpoint, spec } = await loadGolden("ml_seq_04_batchnorm_eval");
  const engine = await createEngine({ backend: "reference" });
  engines.push(engine);
  const { program } = (await engine.model(writeSafetensors(checkpoint), spec)) as unknown as {
    program: Program;
  };
  const segment = segmentOf(3, 50);
  const plan = makePlan(program);
  const { kernels } = trafficOf(plan, segment, true, plainTiles);
  const loads = kernels.flatMap(({ touches }) => touches).reduce((sum, { loads }) => sum + loads, 0);
  const bounds = { maxBinding: 2 ** 27, flopsPerMs: 1e9 };
  const of = (batch: number, seqLen: number) =>
    passesOf(program, batch, seqLen, 0, bounds, 2 ** 26, plainTiles);
  const passes = of(3, 50);
  expect(passes.loads / loads).toBeGreaterThan(0.8);
  expect(passes.loads / loads).toBeLessThan(1.25);
  expect(of(1, 33).flops).toBe(of(1, 64).flops);
  expect(passes.flops).toBeGreaterThan(3 * 64 * 0.8 * plan.flopsPerToken);
  expect(passes.threads).toBe(threadsIn(plan.dispatches, segment, plainTiles));
});

test("what follows a product in its registers is counted: a GELU, a norm, a residual and what it loads", () => {
  const width = 64;
  const kernel = new Float32Array(width ** 2);
  const size = { inWidth: width, outWidth: width };
  const [dense, gelu, norm, add]: Stage[] = [
    { kind: "dense", name: "dense", src: 0, dst: 1, ...size, kernel, bias: null },
    { kind: "gelu", name: "gelu", src: 1, dst: 1, width },
    { kind: "rmsNorm", name: "norm", src: 1, dst: 1, width, epsilon: 1, scale: new Float32Array(width) },
    { kind: "add", name: "add", src: 1, other: 0, dst: 1, width },
  ] as const satisfies Stage[];
  const of = (...stages: (Stage | undefined)[]) => {
    const program = { architecture: "", slots: [width, width], stages: stages as Stage[], output: 1 };
    const loads = loadsOf(makePlan(program).dispatches, segmentOf(1, T), plainTiles);
    expect(loads.dispatches).toBe(1);
    return loads;
  };
  const values = T * width;
  const plain = of(dense);
  expect(plain.flops).toBe(2 * width * values);
  expect(of(dense, gelu)).toEqual({ ...plain, flops: plain.flops + 24 * values });
  // Its sums, and the scale.
  expect(of(dense, norm)).toEqual({ ...plain, flops: plain.flops + (48 + 6) * values });
  const residual = of(dense, add);
  expect(residual.flops - plain.flops).toBe(6 * values);
  expect(residual.loads - plain.loads).toBe(4 * values);
  expect(residual.waits - plain.waits).toBe(4 * values);
});

test("what things cost is found from what sums of them took; nothing costs less than nothing", () => {
  const expectCosts = (rows: number[][], costs: number[]) => {
    for (const [i, cost] of costsOf(rows).entries()) expect(cost).toBeCloseTo(costs[i] as number, 6);
  };
  const [both, first, second] = [
    [1, 2],
    [3, 1],
    [3, 2],
  ] as [number[], number[], number[]];
  expectCosts([both, first], [0.2, 0.4]);
  // Exactly, the first would cost -1 and the second 2: without the first, sums of 2 / 3 and 4 / 3, one as wrong as the other.
  expectCosts([[1, 1], second], [0, 2 / 3]);
  expectCosts([[0, 4]], [0, 0.25]);
});
