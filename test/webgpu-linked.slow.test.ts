/** A network whose rate changes on the GPU: a segment is one submit and one readback, whatever is between. */
import { afterAll, expect, test, vi } from "vitest";
import { createEngine, type Engine, writeSafetensors } from "../src/index.js";
import { buildProgram } from "../src/models/build.js";
import { type Rates, ratesOf } from "../src/rates.js";
import { segmentOf } from "../src/webgpu/pipelines.js";
import { makePlan } from "../src/webgpu/plan.js";
import { trafficOf } from "../src/webgpu/traffic.js";
import { relativeError } from "./support/golden.js";
import {
  type Change,
  type Counts,
  count,
  onSubmit,
  poison,
  seen,
  shrink,
  standInGpu,
} from "./support/gpus.js";
import { randomClassifier, randomUnet } from "./support/lrnnx.js";

vi.setConfig({ testTimeout: 120_000 });

const engines: Engine[] = [];
afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

type Made = ReturnType<typeof randomUnet>;

async function load(context: { skip(reason: string): never }, made: Made, change: Change) {
  const changed = await standInGpu((handle, nth) => {
    shrink(handle, 2 ** 27);
    change(handle, nth);
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const engine = await createEngine({ backend: ["webgpu", "wasm"], threads: 0, gpu: changed.gpu });
  engines.push(engine);
  return engine.model(writeSafetensors(made.checkpoint), made.spec);
}

test.for([
  { name: "classifier", made: randomClassifier(2) },
  { name: "U-Net", made: randomUnet(3) },
])("$name: one submit and one readback, as many dispatches as its parts have", async ({ made }, context) => {
  const network = buildProgram(made.checkpoint, {}, made.spec);
  const rates = ratesOf(network) as Rates;
  const { batch } = made;
  // Whole windows of windows: nothing is left over at the end.
  const whole = made.spec.architecture === "lrnnx/lru-unet" ? rates.padding : 4 ** 3 * 3 ** 3;
  const tokens = Math.ceil(200 / whole) * whole;
  const width = made.x.length / (batch * made.seqLen);
  const x = Float32Array.from({ length: batch * tokens * width }, (_, i) => Math.sin(i));
  const counts: Counts = { submits: 0, maps: 0, dispatches: 0 };
  const model = await load(context, made, (handle) => count(handle, counts));
  const ys: Float32Array[] = [];
  const taken = await seen(counts, async () =>
    ys.push((await model.forward(x, { batch, backend: "webgpu" })).y),
  );
  expect(ys[1]).toEqual(ys[0]);

  let [rate, dispatches] = [1, 0];
  for (const link of rates.links) {
    if (link.kind === "part") {
      const segment = segmentOf(batch, tokens * rate);
      dispatches += trafficOf(makePlan(link.program), segment).dispatches;
    }
    if (link.kind === "window" || link.kind === "add") dispatches++;
    if (link.kind === "reshape") rate *= link.inWidth / link.outWidth;
    if (link.kind === "window") rate /= link.factor;
  }
  expect(rates.links.filter(({ kind }) => kind === "part").length).toBeGreaterThan(2);
  expect(taken).toEqual({ submits: 1, maps: 1, dispatches });
});

test.for([
  { name: "classifier", made: randomClassifier(3) },
  { name: "U-Net", made: randomUnet(1) },
])("$name: rows that do not fit together run one group after the other", async ({ made }, context) => {
  let submits = 0;
  const model = await load(context, made, (handle) => {
    shrink(handle, 2 ** 14); // its weights fit, and few rows of what is between them
    poison(handle);
    onSubmit(handle, () => submits++);
  });
  const cpu = await createEngine({ backend: "wasm", threads: 0 });
  engines.push(cpu);
  const twin = await cpu.model(writeSafetensors(made.checkpoint), made.spec);
  const batch = 200;
  const width = made.x.length / (made.batch * made.seqLen);
  const seqLen = 70;
  const x = Float32Array.from({ length: batch * seqLen * width }, (_, i) => Math.sin(i * i));
  const lengths = Int32Array.from({ length: batch }, (_, row) => 1 + ((row * 31) % seqLen));
  const { y } = await model.forward(x, { batch, lengths, backend: "webgpu" });
  const expected = await twin.forward(x, { batch, lengths });
  expect(y.map((v) => Number(Number.isNaN(v)))).toEqual(expected.y.map((v) => Number(Number.isNaN(v))));
  const values = (all: Float32Array) => all.map((v) => (Number.isNaN(v) ? 0 : v));
  expect(relativeError(values(y), values(expected.y))).toBeLessThanOrEqual(5e-5);
  expect(submits).toBeGreaterThan(10);
});
