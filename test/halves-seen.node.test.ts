/** What can be seen of layers whose states come in conjugate pairs, or are real: what they cost, and else nothing. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ForwardJob, Runner } from "../src/backend.js";
import {
  createEngine,
  type Engine,
  LinrecError,
  type Lru,
  mergeConjugates,
  type Tensor,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { fingerprint } from "../src/io/fingerprint.js";
import { lruProgram } from "../src/lruParams.js";
import { buildProgram } from "../src/models/build.js";
import { fromLruParams } from "../src/models/lru.js";
import { Halved } from "../src/networks/halves.js";
import { findHalves, type Halves, halvesOf } from "../src/networks/hidden.js";
import type { Program } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { State, type StateSlot, stateLayout } from "../src/state.js";
import { expectSameBits } from "./support/bits.js";
import { disturb, dState, kinds, layers, paired, real, starts } from "./support/conjugates.js";
import { loadGolden, relativeError } from "./support/golden.js";
import { floats, hardParams } from "./support/problems.js";
import { cut, join } from "./support/sequences.js";

const layerOf = kinds.pairs;

test("a whole layer that could not be made once, for want of memory, is tried again", async () => {
  const program = lruProgram(paired(hardParams(8, 4, 1), "the same"));
  await findHalves(program);
  const halves = halvesOf(program) as Halves;
  const runner = { forward: async () => {}, dispose() {} };
  let made = 0;
  const halved = new Halved<Runner>(halves, runner, async () => {
    if (++made === 1) throw new LinrecError("out-of-memory", "None left.");
    return runner;
  });
  const state = new State(stateLayout(halves.full), 1);
  for (const slot of state.layout.slots) state.carry(slot, 0).fill(1); // no conjugates
  const forward = () => halved.forward({ state, batch: 1 } as ForwardJob);
  await expect(forward()).rejects.toMatchObject({ code: "out-of-memory" });
  await forward();
  await forward();
  expect(made).toBe(2);
});

describe("what is seen of it", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ backend: "wasm", threads: 0 });
  });
  afterAll(() => engine.dispose());

  test("from zeros it is the merged layer to the bit: the others are not computed", async () => {
    const [dModel, batch] = [5, 4];
    const params = layerOf(dModel);
    const x = floats(batch * 150 * dModel, 3);
    const lru = await engine.lru(params);
    const merged = await engine.lru(mergeConjugates(params));
    expect(merged.dState).toBe(9);
    const [there, here] = [await merged.forward(x, { batch }), await lru.forward(x, { batch })];
    expectSameBits(here.y, there.y, "y");
    const costs = [lru, merged].map((layer) => layer.explain("forward", { seqLen: 1e5 }).candidates[0]?.ms);
    expect(costs[0]).toBe(costs[1]);
    lru.dispose();
    merged.dispose();
  });

  test("real states cost half of what others do, and stay real", async () => {
    const params = hardParams(5, 48, 1);
    for (const n of [0, 1]) (params.theta as Float32Array)[n] = 1; // neither a pair nor real
    const msOf = (lru: Lru) => lru.explain("forward", { seqLen: 1e5 }).candidates[0]?.ms as number;
    const [all, half] = [await engine.lru(real(params)), await engine.lru(hardParams(5, 24, 1))];
    expect(msOf(all)).toBe(msOf(half));
    const { state } = await all.forward(floats(500, 5));
    const { re, im } = state.get();
    expect(im.every((value) => value === 0)).toBe(true);
    expect(re.every((value) => value !== 0)).toBe(true);
    // Five in a layer of complex ones are not worth a part of their own.
    const few = await engine.lru(real(params, 43));
    expect(msOf(few)).toBe(msOf(await engine.lru(params)));
    for (const lru of [all, half, few]) lru.dispose();
  });

  test("dState, description, fingerprint and file are the whole layer's", async () => {
    const params = layerOf(5);
    const lru = await engine.lru(params);
    expect(lru.dState).toBe(dState);
    expect(lru.describe()).toMatch(/dState 16/);
    expect(lru.inspect().radius.length).toBe(dState);
    expect(lru.discretize().lambda.re.length).toBe(dState);
    expect(fingerprint(lru.program)).toBe(fingerprint(lruProgram(params)));
    expectSameBits(
      writeModel(lru),
      writeSafetensors(fromLruParams(params), { linrec: '{"architecture":"lrnnx/lru"}' }),
      "file",
    );
    lru.dispose();
  });

  test("a cache gives back what it was set to, and conjugates after a forward from zeros", async () => {
    const lru = await engine.lru(layerOf(5));
    const cache = lru.allocateInferenceCache(3);
    const [re, im] = [floats(3 * dState, 1), floats(3 * dState, 2)];
    cache.set(re, im);
    expect(cache.get()).toEqual({ re, im });
    const { state } = await lru.forward(floats(500, 5));
    const h = state.get();
    // Pairs stand apart: 0, 2, ... from the left, their conjugates from the right.
    for (let i = 0; i < 7; i++) {
      expect(h.re[13 - i]).toBe(h.re[i]);
      expect(h.im[13 - i]).toBe(-(h.im[i] as number));
      expect(h.im[i]).not.toBe(0);
    }
    // Set to these it goes on with them.
    const other = lru.allocateInferenceCache();
    other.set(h.re, h.im);
    const xt = floats(5, 8);
    expect(relativeError(lru.stepSync(xt, other), lru.stepSync(xt, state))).toBeLessThan(1e-6);
    lru.dispose();
  });

  test("the error bound holds, from any state", async () => {
    const params = layerOf(4);
    const lru = await engine.lru(params);
    const cache = lru.allocateInferenceCache(3);
    disturb(cache);
    const x = floats(3 * 60 * 4, 2);
    const bound = lru.errorBound(x, { state: cache });
    const { y } = await lru.forward(x, { state: cache });
    const program = lruProgram(params);
    const state = new State(stateLayout(program), 3);
    const { re, im } = cache.get();
    for (let row = 0; row < 3; row++) {
      const [from, to] = [row * dState, (row + 1) * dState];
      state.write(state.layout.slots[0] as StateSlot, row, re.subarray(from, to), im.subarray(from, to));
    }
    const exact = runReference(program, { x, batch: 3, seqLen: 60, state }).y;
    for (const [i, value] of y.entries())
      expect(Math.abs(value - (exact[i] as number))).toBeLessThanOrEqual(bound[i] as number);
    lru.dispose();
  });

  test("C whose sum is no float32 stay apart", async () => {
    const params = layerOf(2);
    for (const C of [params.CRe, params.CIm]) C.fill(3e38);
    const x = new Float32Array(2 * 20);
    x[0] = 1e-38;
    const lru = await engine.lru(params);
    const { y } = await lru.forward(x);
    const expected = runReference(lruProgram(params), { x, batch: 1, seqLen: 20 }).y;
    expect(relativeError(y, expected)).toBeLessThan(1e-4);
    lru.dispose();
  });

  test("a model: what follows the layer sees what it saw, from any state", async () => {
    const golden = await loadGolden("tf_res_01_default");
    const checkpoint = new Map(golden.checkpoint);
    // Every second state becomes the conjugate of the one before it.
    for (const [name, { dtype, shape, data }] of golden.checkpoint) {
      const own = name.slice(name.search(/[^./]*(:0)?$/)).replace(/:0$/, "");
      const axis = { lambda_nu: 0, lambda_theta: 0, gamma_log: 0, B_re: 1, B_im: 1 }[own];
      if (axis === undefined) continue;
      const negated = own === "lambda_theta" || own === "B_im";
      const size = shape[axis] as number;
      const values = (data as Float32Array).map((value, i) => {
        if ((i % size) % 2 === 0) return value;
        return (data[i - 1] as number) * (negated ? -1 : 1);
      });
      checkpoint.set(name, { dtype, shape, data: values } as Tensor);
    }
    const program = buildProgram(checkpoint, {}, golden.spec) as Program;
    const model = await engine.model(writeSafetensors(checkpoint), golden.spec);
    const { batch, seqLen, x } = golden;
    const cache = model.allocateInferenceCache(batch);
    const state = new State(stateLayout(program), batch);
    const slot = state.layout.slots[0] as StateSlot;
    for (const seed of [0, 1]) {
      const [re, im] = [1, 2].map((other) => floats(batch * slot.size, seed * other, seed));
      cache.set([{ re: re as Float32Array, im: im as Float32Array }]);
      for (let row = 0; row < batch; row++) {
        const [from, to] = [row * slot.size, (row + 1) * slot.size];
        state.write(slot, row, re?.subarray(from, to) ?? [], im?.subarray(from, to) ?? []);
      }
      const { y } = await model.forward(x, { state: cache });
      expect(relativeError(y, runReference(program, { x, batch, seqLen, state }).y)).toBeLessThan(1e-5);
    }
    model.dispose();
  });

  test.for(layers)(
    "%s: a state goes from the CPU to the GPU and back, and stays there for steps",
    async (layer, context) => {
      const both = await createEngine({ backend: ["wasm", "webgpu"] });
      const { available, reason } = both.backends.webgpu;
      if (!available) {
        await both.dispose();
        context.skip(reason);
      }
      const lru = await both.lru(kinds[layer](5));
      const x = floats(3 * 100 * 5, 2);
      for (const start of ["zeros", "any states"] as const) {
        const cache = lru.allocateInferenceCache(3);
        starts[start](cache);
        const whole = await lru.forward(x, { state: cache, backend: "wasm" });
        let state = cache;
        const parts: Float32Array[] = [];
        for (const [i, backend] of (["wasm", "webgpu", "wasm", "webgpu"] as const).entries()) {
          const part = await lru.forward(cut(x, 3, 5, 25 * i, 25 * (i + 1)), { state, backend });
          parts.push(part.y);
          state = part.state;
        }
        expect(relativeError(join(parts, 3), whole.y)).toBeLessThan(1e-5);
        const onGpu = await lru.allocateGpuCache(3);
        await onGpu.write(cache);
        const stepped: Float32Array[] = [];
        for (let t = 0; t < 5; t++) stepped.push(await lru.step(cut(x, 3, 5, t, t + 1), onGpu));
        expect(relativeError(join(stepped, 3), cut(whole.y, 3, 5, 0, 5))).toBeLessThan(1e-5);
        onGpu.dispose();
      }
      await both.dispose();
    },
  );
});
