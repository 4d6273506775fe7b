/** The dispatches and round trips that a plan's price is of are those that the GPU is asked for. */
import { afterAll, expect, test, vi } from "vitest";
import { createEngine, type Engine, initLru, type Plan, writeSafetensors } from "../src/index.js";
import { loadGolden } from "./support/golden.js";
import { type Counts, count, seen, shrink, standInGpu } from "./support/gpus.js";
import { randomClassifier, randomUnet } from "./support/lrnnx.js";

vi.setConfig({ testTimeout: 120_000 });

const engines: Engine[] = [];
afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

async function open(context: { skip(reason: string): never }, bytes: number) {
  const counts: Counts = { submits: 0, maps: 0, dispatches: 0 };
  const changed = await standInGpu((handle) => {
    shrink(handle, bytes);
    count(handle, counts);
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
  { name: "a classifier", made: randomClassifier(2), bytes: 2 ** 27, batch: 2, seqLen: 4 ** 3 * 3 ** 3 },
  { name: "a U-Net", made: randomUnet(3), bytes: 2 ** 27, batch: 2, seqLen: 192 },
  { name: "a U-Net in groups of rows", made: randomUnet(1), bytes: 2 ** 14, batch: 50, seqLen: 48 },
])("$name, whose rate changes", async ({ made, bytes, batch, seqLen }, context) => {
  const { engine, counts } = await open(context, bytes);
  const model = await engine.model(writeSafetensors(made.checkpoint), made.spec);
  const width = made.x.length / (made.batch * made.seqLen);
  const x = Float32Array.from({ length: batch * seqLen * width }, (_, i) => Math.sin(i));
  const taken = await seen(counts, () => model.forward(x, { batch, backend: "webgpu" }));
  const price = priced(engine, model.explain("forward", { batch, seqLen }));
  expect(price).toEqual(taken);
  if (bytes < 2 ** 20) expect(taken.submits).toBeGreaterThan(1);
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
