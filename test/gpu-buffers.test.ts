/** GPUBuffers as x and `out` of a forward: the same bits as with arrays, and neither crosses. */
import { beforeAll, describe, expect, test } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import {
  createEngine,
  type GpuBuffer,
  initLru,
  type Lru,
  type Model,
  writeSafetensors,
} from "../src/index.js";
import { programOf } from "../src/lruParams.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu } from "../src/webgpu/backend.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { loadGolden } from "./support/golden.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats } from "./support/problems.js";
import { download, upload, useWatchedEngine, watchedEngine } from "./support/watched-gpu.js";

/** GPUBufferUsage by value: Node has no such global. */
const [COPY_SRC, COPY_DST, STORAGE] = [4, 8, 128];

const gpu = useWatchedEngine();
const { gpuTest } = gpu;

function room(device: GPUDevice, floats: number): GPUBuffer {
  return upload(device, new Float32Array(floats).fill(Number.NaN)); // whatever is not written shows
}

/** Counts copies from and to some buffers. */
function copiesOf(device: GPUDevice, buffers: readonly GPUBuffer[]): () => number {
  let copies = 0;
  const create = device.createCommandEncoder.bind(device);
  device.createCommandEncoder = (...args) => {
    const encoder = create(...args);
    const copy = encoder.copyBufferToBuffer.bind(encoder) as (...args: unknown[]) => void;
    encoder.copyBufferToBuffer = (...args: unknown[]) => {
      if (args.some((arg) => buffers.includes(arg as GPUBuffer))) copies++;
      copy(...args);
    };
    return encoder;
  };
  return () => copies;
}

describe("a layer", () => {
  const [dModel, batch, seqLen] = [5, 3, 70];
  const params = initLru({ dModel, dState: 7, rMin: 0.9, rMax: 0.999, seed: 3 });
  const x = floats(batch * seqLen * dModel, 8);
  let lru: Lru;

  beforeAll(async () => {
    if (gpu.watched) lru = await gpu.watched.engine.lru(params);
  });

  const times = floats(batch * seqLen, 2).map((t) => Math.round(2 + t) / 2);
  const reset = Array.from({ length: batch * seqLen }, (_, i) => i % 23 === 5);
  const lengths = [70, 0, 33];
  describe.each<[string, object]>([
    ["nothing else", {}],
    ["lengths", { lengths }],
    ["lengths of none", { lengths: [0, 0, 0] }],
    ["reset", { reset, lengths }],
    ["every", { every: 3, lengths }],
    ["every and reset", { every: 4, reset }],
    ["integrationTimesteps", { integrationTimesteps: times, lengths }],
  ])("with %s", (_, options) => {
    gpuTest("from and to buffers, from a state: the bits of arrays", async ({ device }) => {
      const { state } = await lru.forward(x.subarray(0, batch * 40 * dModel), { batch });
      const expected = await lru.forward(x, { batch, state, ...options });
      const xs = upload(device, x);
      const out = room(device, expected.y.length);
      const actual = await lru.forward(xs, { batch, state, ...options, out: out as GpuBuffer });
      expect(actual.y).toBe(out);
      expectSameBits(await download(device, out), expected.y, "y");
      expectSameState([lru, actual.state], [lru, expected.state], "state");
      const mixed = await lru.forward(xs, { batch, state, ...options });
      expectSameBits(mixed.y, expected.y, "y as an array");
      const toBuffer = room(device, expected.y.length);
      await lru.forward(x, { batch, state, ...options, out: toBuffer });
      expectSameBits(await download(device, toBuffer), expected.y, "y of an array");
    });
  });

  gpuTest("no tokens, no rows", async ({ device }) => {
    const none = device.createBuffer({ size: 0, usage: COPY_SRC | COPY_DST });
    const { y, state } = await lru.forward(none, { batch: 2 });
    expect([y.length, state.batch]).toEqual([0, 2]);
  });

  gpuTest("what is wrong is refused before anything runs", async ({ device, traffic, engine }) => {
    const xs = upload(device, x);
    const buffer = (size: number, usage: number) => device.createBuffer({ size, usage });
    const picky = await createEngine({ backend: "wasm", nonFinite: "reject" });
    const [strict, bidirectional] = [
      await picky.lru(params),
      await engine.bidirectional({ forward: params, backward: params }),
    ];
    const before = { ...traffic };
    // biome-ignore format: one line for each
    const misuses: [RegExp, string, () => unknown][] = [
      [/backend is "wasm".*only "webgpu"/, "invalid-argument", () => lru.forward(xs, { batch, backend: "wasm" })],
      [/backend is \["reference","wasm"\]/, "invalid-argument", () => lru.forward(xs, { batch, backend: ["reference", "wasm"] })],
      [/x has 1050 values.*multiple of 20/, "shape-mismatch", () => lru.forward(xs, { batch: 4 })],
      [/out has 3 values; y has 1050/, "shape-mismatch", () => lru.forward(xs, { batch, out: buffer(12, COPY_DST) })],
      [/x is a GPUBuffer of usage 8, without GPUBufferUsage.COPY_SRC/, "invalid-argument", () => lru.forward(buffer(20, COPY_DST))],
      [/out is a GPUBuffer of usage 4, without GPUBufferUsage.COPY_DST/, "invalid-argument", () => lru.forward(xs, { batch, out: buffer(4200, COPY_SRC) })],
      [/one GPUBuffer/, "invalid-argument", () => lru.forward(xs, { batch, out: xs })],
      [/nonFinite "reject"/, "unsupported", () => strict.forward(xs, { batch })],
      [/reverse a GPUBuffer/, "unsupported", () => bidirectional.forward(xs as never, { batch })],
      [/must be a Float32Array/, "wrong-dtype", () => lru.errorBound(xs as never)],
    ];
    for (const [says, code, call] of misuses)
      expectLinrecError(await errorOf(async () => call()), code as never, says);
    expect(traffic.submits).toBe(before.submits);
    const cpu = await createEngine({ backend: "wasm" });
    const onCpu = await cpu.lru(params);
    expectLinrecError(await errorOf(() => onCpu.forward(xs, { batch })), "backend-unavailable", /webgpu/);
    await Promise.all([picky.dispose(), cpu.dispose()]);
  });

  gpuTest(
    "a buffer of another device, or one that was destroyed: an error that says so, and the GPU goes on",
    async (own) => {
      const stranger = await watchedEngine();
      if ("reason" in stranger) throw new Error(stranger.reason);
      const usages = [COPY_SRC, COPY_SRC | STORAGE].map((usage) => usage | COPY_DST);
      const destroyed = usages.map((usage) => upload(own.device, x, usage));
      for (const buffer of destroyed) buffer.destroy();
      for (const buffer of [...destroyed, ...usages.map((usage) => upload(stranger.device, x, usage))]) {
        const says = /must be of engine.gpuDevice, and not destroyed/;
        expectLinrecError(await errorOf(() => lru.forward(buffer, { batch })), "invalid-argument", says);
      }
      expect(own.engine.gpuDevice).toBe(own.device);
      expect((await lru.forward(x, { batch })).y).toHaveLength(x.length);
      await stranger.engine.dispose();
    },
  );

  test("a GPU that is lost takes the buffers with it: the forward rejects, the next has a new device", async (context) => {
    const own = await watchedEngine();
    if ("reason" in own) return context.skip(own.reason);
    const layer = await own.engine.lru(params);
    const pending = layer.forward(upload(own.device, x), { batch });
    own.device.destroy();
    await expect(pending).rejects.toMatchObject({ code: "gpu-failed" });
    expect(own.told).toEqual([expect.stringMatching(/opened anew, and its GPUBuffers are gone/)]);
    const { device } = { device: own.engine.gpuDevice as GPUDevice };
    expect(device).not.toBe(own.device);
    const { y } = await layer.forward(upload(device, x), { batch });
    expectSameBits(y, (await lru.forward(x, { batch })).y, "y on the new device");
    await own.engine.dispose();
  });

  test.for([
    { what: "in pieces: rows together", scratchBytes: 60_000 },
    { what: "in pieces: rows cut", scratchBytes: 12_000 },
    { what: "four timesteps as one", lift: 4, lengths: [68, 12, 48] },
    { what: "not so where something is left of rows", lift: 4, usual: 1 },
    { what: "in place: all rows", lengths: [70, 70, 50], copies: 0 },
    { what: "in place: four timesteps as one", lift: 4, lengths: [68, 0, 0], copies: 0 },
    // Of three pieces of a row, the second begins 640 bytes into it: no multiple of 256.
    {
      what: "in place: pieces that begin where a binding may",
      scratchBytes: 6_000,
      lengths: [70, 0, 0],
      copies: 2,
    },
    { what: "copied: rows with something between them", copies: 4 },
  ])("$what", async ({ scratchBytes, lift = 1, usual = lift, lengths = [70, 12, 50], copies }, context) => {
    const opened = await openWebgpu();
    if ("reason" in opened) return context.skip(opened.reason);
    const { backend } = opened;
    const program = programOf(params, "lru");
    const run = async (lift: number, ports?: ForwardJob["ports"]) => {
      const runner = await backend.prepare(program, scratchBytes, { lift, leastChunks: 0 });
      const y = new Float32Array(ports ? 0 : x.length);
      const job = { batch, seqLen, lengths: Int32Array.from(lengths), threads: 0, ports, y };
      const state = new State(stateLayout(program), batch);
      const rest = { signal: undefined, onProgress: undefined };
      await runner.forward({ ...job, ...rest, x: ports ? new Float32Array(0) : x, state });
      runner.dispose();
      return { y, state };
    };
    const expected = await run(usual);
    const usage = COPY_SRC | COPY_DST | (copies === undefined ? 0 : STORAGE);
    const out = upload(backend.handle, new Float32Array(x.length).fill(Number.NaN), usage);
    const given = upload(backend.handle, x, usage);
    const copied = copiesOf(backend.handle, [given, out]);
    const actual = await run(lift, { x: given, y: out });
    if (copies !== undefined) expect(copied()).toBe(copies);
    expectSameBits(await download(backend.handle, out), expected.y, "y");
    expectSameBits(actual.state.bytes, expected.state.bytes, "state");
    backend.dispose();
  });
});

const SEQ_LEN = 30;

describe("a model of six layers", () => {
  let model: Model;
  const batch = 1;
  let x = new Float32Array();
  let stateBytes = 0;

  beforeAll(async () => {
    const golden = await loadGolden("ml_cls_07_6layers");
    x = golden.x.slice(0, SEQ_LEN * (golden.program.slots[0] as number)); // little enough for one submit on any GPU
    if (gpu.watched) model = await gpu.watched.engine.model(writeSafetensors(golden.checkpoint), golden.spec);
    if (gpu.watched) stateBytes = 4 * batch * modelFloats();
  });

  /** Of one row's state on the GPU: h of each layer, and the sum of the mean. */
  function modelFloats(): number {
    const of = (kind: string) => model.stages.filter((stage) => stage.kind === kind);
    const h = model.inspect().reduce((sum, { radius }) => sum + 2 * radius.length, 0);
    return h + of("pool").reduce((sum, { inWidth }) => sum + inWidth, 0);
  }

  gpuTest(
    "one submit; x goes up once, y comes back once, and of what is between nothing",
    async ({ traffic }) => {
      await model.forward(x, { batch }); // the first makes room
      const before = { ...traffic };
      const { y } = await model.forward(x, { batch });
      expect(traffic.submits - before.submits).toBe(1);
      expect(traffic.maps - before.maps).toBe(1);
      expect(traffic.down - before.down).toBe(y.byteLength + stateBytes);
      const tables = traffic.up - before.up - x.byteLength - stateBytes;
      expect(tables).toBeLessThanOrEqual(batch * (8 * Math.ceil(SEQ_LEN / 32) * 2 + 16 + 4));
    },
  );

  gpuTest("with buffers neither x nor y crosses: states and tables do", async ({ device, traffic }) => {
    const expected = await model.forward(x, { batch });
    const out = room(device, expected.y.length);
    const xs = upload(device, x);
    const before = { ...traffic };
    const actual = await model.forward(xs, { batch, out: out as GpuBuffer });
    expect(traffic.submits - before.submits).toBe(1);
    expect(traffic.down - before.down).toBe(stateBytes);
    const tables = traffic.up - before.up - stateBytes;
    expect(tables).toBeLessThanOrEqual(batch * (8 * Math.ceil(SEQ_LEN / 32) * 2 + 16 + 4));
    expectSameBits(await download(device, out), expected.y, "y");
    expectSameState([model, actual.state], [model, expected.state], "state");
  });
});

for (const name of ["ml_seq_04_batchnorm_eval", "lm_03_tied_rms_mlp_2layer"])
  gpuTest(`${name}, in place: the bits of arrays`, async ({ device, engine }) => {
    const { checkpoint, spec, batch, input } = await loadGolden(name);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const expected = await model.forward(input, { batch });
    const words = new Float32Array(input.buffer, input.byteOffset, input.length);
    const usage = COPY_SRC | COPY_DST | STORAGE;
    const x = upload(device, words, usage);
    const out = upload(device, new Float32Array(expected.y.length).fill(Number.NaN), usage);
    const actual = await model.forward(x, { batch, out: out as GpuBuffer });
    expectSameBits(await download(device, out), expected.y, "y");
    expectSameState([model, actual.state], [model, expected.state], "state");
    expectSameBits(await download(device, x), words, "x");
  });
