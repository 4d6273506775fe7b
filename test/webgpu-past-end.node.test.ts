/** Nothing is written on the GPU past the values that a segment has: WebGPU itself guards a buffer's end, and little else. */
import { expect, test } from "vitest";
import type { Program, Stage } from "../src/program.js";
import { WebgpuBackend } from "../src/webgpu/backend.js";
import { openDevice } from "../src/webgpu/device.js";
import { segmentOf } from "../src/webgpu/pipelines.js";
import { areaBytes, makePlan } from "../src/webgpu/plan.js";
import { softwareTiles, T, type Tiles } from "../src/webgpu/tiles.js";
import { COPY_DST, COPY_SRC, STORAGE } from "../src/webgpu/workspace.js";
import { lruProgram, makeJob } from "./support/gpuJobs.js";
import { changedGpu, poison } from "./support/gpus.js";
import { floats } from "./support/problems.js";
import { download } from "./support/watched-gpu.js";

const width = 5;
const norm = { width, epsilon: 1e-5, scale: floats(width, 1), bias: floats(width, 2) };
const mean = floats(width, 5);
const lru = lruProgram(width, 7).stages[0] as Stage;
const dense: Stage = {
  ...{ kind: "dense", name: "dense", src: 0, dst: 1, inWidth: width, outWidth: width },
  ...{ kernel: floats(width * width, 3), bias: floats(width, 4) },
};
const layerNorm: Stage = { kind: "layerNorm", name: "norm", src: 0, dst: 1, ...norm };
const programs: Stage[][] = [
  [lru],
  [lru, { ...layerNorm, src: 1 }],
  [dense],
  [dense, { ...layerNorm, src: 1 }],
  [layerNorm],
  [{ kind: "gelu", name: "gelu", src: 0, dst: 1, width }],
  [{ kind: "glu", name: "glu", src: 0, gate: 0, dst: 1, width }],
  [{ kind: "add", name: "add", src: 0, other: 0, dst: 1, width }],
  [{ kind: "batchNorm", name: "norm", src: 0, dst: 1, ...norm, mean, variance: mean.map((v) => v * v + 1) }],
  [{ kind: "logSoftmax", name: "softmax", src: 0, dst: 1, width, group: width }],
];
/** No value of a forward here; and no NaN, of which more NaN comes. */
const FILLING = 12345;
/** Two chunks to a workgroup: the second of them may be none. */
const pairs: Tiles = { ...softwareTiles, liftedOutput: { rows: 8, cols: 2, lanes: 4, chunks: 2, slab: 8 } };

interface Case {
  readonly seqLen: number;
  /** Tokens to an output. */
  readonly every?: number;
  /** Tokens that are taken as one. */
  readonly lift?: number;
}

// Of outputs few enough that a chunk of them has no room, and of chunks an odd number.
const cases: Case[] = [{ seqLen: 9 }, { seqLen: T + 1 }, { seqLen: 9, every: 2 }, { seqLen: 5 * T, lift: 2 }];

test.for(cases)("nothing is written past the end of %o", async ({ seqLen, every = 1, lift = 1 }, context) => {
  let areas: GPUBuffer[] = [];
  const watched = await changedGpu((handle) => {
    poison(handle, FILLING);
    const create = handle.createBuffer.bind(handle);
    handle.createBuffer = (descriptor) => {
      const buffer = create(descriptor);
      if (descriptor.usage === (STORAGE | COPY_SRC | COPY_DST)) areas.push(buffer);
      return buffer;
    };
  });
  const opened = "gpu" in watched ? await openDevice(watched.gpu) : watched;
  if ("reason" in opened) return context.skip(opened.reason);
  const { device } = opened;
  const backend = new WebgpuBackend(device, pairs);
  for (const stages of lift > 1 ? [[lru]] : programs) {
    const program: Program = { architecture: "", slots: [width, width], stages, output: 1 };
    const runner = await backend.prepare(program, undefined, { lift, leastChunks: 0 });
    areas = [];
    const job = makeJob(program, { batch: 1, seqLen, every });
    const outputs = job.y.length / width;
    await runner.forward(job);
    const plan = makePlan(program, false, lift);
    const segment = {
      ...segmentOf(1, seqLen),
      ...{ chunks: Math.ceil(seqLen / T / lift), outputs, thinned: every > 1 ? outputs : 0 },
    };
    const sizes = plan.areas.flatMap((area, i) => (i === plan.readback ? [] : [areaBytes(area, segment)]));
    expect(areas.length).toBe(sizes.length);
    let room = 0;
    for (const [i, area] of areas.entries()) {
      const past = (await download(device.handle, area)).subarray((sizes[i] as number) / 4);
      room += past.length;
      const what = `${stages.map(({ kind }) => kind).join(", ")}: area ${i}`;
      expect(
        past.every((word) => word === FILLING),
        what,
      ).toBe(true);
    }
    expect(room).toBeGreaterThan(width); // a row, for whoever goes on by one
    runner.dispose();
  }
  backend.dispose();
});
