/** A network whose rate changes on the GPU: a segment is one submit and one readback, whatever is between. */
import { afterAll, expect, test, vi } from "vitest";
import { createEngine, type Engine, writeSafetensors } from "../src/index.js";
import { buildProgram } from "../src/models/build.js";
import { Chain } from "../src/networks/chain.js";
import { inputWidth, outputWidth, poolOf } from "../src/program.js";
import { type Rates, ratesOf } from "../src/rates.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu } from "../src/webgpu/backend.js";
import { segmentOf } from "../src/webgpu/pipelines.js";
import { makePlan } from "../src/webgpu/plan.js";
import { trafficOf } from "../src/webgpu/traffic.js";
import { expectSameBits } from "./support/bits.js";
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
import { floats } from "./support/problems.js";

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

/** Windows that no segment, of a power of two, ends with. */
function ofThrees(seed: number, mode: "mean" | "max"): Made {
  const { spec, ...made } = randomClassifier(seed);
  return { ...made, spec: { ...spec, intermediatePooling: mode, poolingFactor: 3 } };
}

test.for([
  { name: "classifier", made: ofThrees(2, "mean"), timed: false },
  { name: "classifier of tokens with timesteps", made: ofThrees(3, "max"), timed: true },
  { name: "U-Net", made: randomUnet(3), timed: false },
  { name: "U-Net of tokens with timesteps", made: randomUnet(1), timed: true },
])(
  "$name: what stays on the GPU from segment to segment is to the bit what goes through the host",
  async ({ made, timed }, context) => {
    const changed = await standInGpu((handle) => poison(handle));
    if ("reason" in changed) return context.skip(changed.reason);
    const opened = await openWebgpu(changed.gpu);
    if ("reason" in opened) return context.skip(opened.reason);
    const network = buildProgram(made.checkpoint, {}, made.spec);
    const linked = await opened.backend.prepareLinked(network, 2 ** 16);
    const chain = new Chain(network, [], false, linked);
    const [batch, width, outWidth] = [3, inputWidth(network), outputWidth(network)];
    const pools = poolOf(network) !== undefined;
    const size = linked.segmentTokens(batch, timed);
    const seqLen = 5 * size + 7;
    // One ends in the second segment, one at the end of the third.
    const lengths = Int32Array.of(size + 5, seqLen, 3 * size);
    const x = floats(batch * seqLen * width, 1);
    const timesteps = timed ? floats(batch * seqLen, 2).map(Math.abs) : undefined;
    const run = async (from: number, tokens: number, state: State) => {
      const rows = (values: Float32Array, width: number) =>
        Float32Array.from({ length: batch * tokens * width }, (_, i) => {
          const [row, at] = [Math.floor(i / (tokens * width)), i % (tokens * width)];
          return values[(row * seqLen + from) * width + at] as number;
        });
      const y = new Float32Array(batch * (pools ? 1 : tokens) * outWidth);
      await chain.forward({
        ...{ batch, seqLen: tokens, x: rows(x, width), timesteps: timesteps && rows(timesteps, 1), y, state },
        lengths: lengths.map((length) => Math.max(0, Math.min(length - from, tokens))),
        ...{ threads: 0, signal: undefined, onProgress: undefined },
      });
      return y;
    };
    const [whole, cut] = [0, 1].map(() => new State(stateLayout(network), batch)) as [State, State];
    const y = await run(0, seqLen, whole);
    for (let from = 0; from < seqLen; from += size) {
      const tokens = Math.min(size, seqLen - from);
      const own = await run(from, tokens, cut);
      for (const row of pools ? [] : lengths.keys()) {
        const at = (row * seqLen + from) * outWidth;
        const mine = own.subarray(row * tokens * outWidth, (row + 1) * tokens * outWidth);
        expectSameBits(y.subarray(at, at + tokens * outWidth), mine, `y of row ${row} from ${from}`);
      }
      // Of those that end before the longest, windows are counted from where the forward begins.
      const last = (values: Float32Array) => values.subarray(outWidth, 2 * outWidth);
      if (pools && from + tokens === seqLen) expectSameBits(last(y), last(own), "y");
    }
    for (const [i, part] of whole.parts.entries()) {
      const other = cut.parts[i] as State;
      expectSameBits(part.bytes, other.bytes, `what link ${i} holds`);
      expect([part.count, part.k]).toEqual([other.count, other.k]);
    }
    opened.backend.dispose();
  },
);
