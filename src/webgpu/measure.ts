/** What the scheduler's cost model wants to know of a GPU. */
import type { Program } from "../program.js";
import type { Device } from "./device.js";
import { type Pipelines, segmentOf } from "./pipelines.js";
import { makePlan } from "./plan.js";
import { loadKernels, MAP_READ, SUBMIT_DEADLINE_MS, Workspace } from "./workspace.js";

export interface Measurement {
  /** Submitting next to nothing and reading four bytes back: what the smallest forward costs. */
  readonly roundTripMs: number;
  /** Multiplications and additions a second in the `dense` kernel, at a middling width. */
  readonly flopsPerSecond: number;
}

const WIDTH = 256;
/** Tokens are quadrupled until their product takes this much longer than a round trip, */
const ENOUGH_MS = 2;
/** or until there are this many, which even the fastest GPU notices. */
const MOST_TOKENS = 2 ** 14;
const ROUND_TRIPS = 3;

/** To be run when nothing else runs on the device. */
export async function measureDevice(device: Device, pipelines: Pipelines): Promise<Measurement> {
  const plan = makePlan(product);
  const { kernels, destroy } = await loadKernels(device, pipelines, plan.dispatches);
  let workspace: Workspace | undefined;

  /** Milliseconds for the product over some tokens and the way there and back. */
  async function time(tokens: number): Promise<number> {
    const segment = segmentOf(1, tokens);
    const start = performance.now();
    const { value: read, clean } = device.scoped("measuring the GPU", () => {
      workspace ??= new Workspace(device, plan, kernels, segmentOf(1, MOST_TOKENS));
      const encoder = device.handle.createCommandEncoder();
      if (tokens > 0) workspace.encode(encoder, segment, true);
      encoder.copyBufferToBuffer(workspace.area(plan.output), 0, workspace.area(plan.readback), 0, 4);
      device.handle.queue.submit([encoder.finish()]);
      return workspace.area(plan.readback).mapAsync(MAP_READ, 0, 4);
    });
    await device.wait(Promise.all([read, clean]), SUBMIT_DEADLINE_MS);
    workspace?.area(plan.readback).unmap();
    return performance.now() - start;
  }

  try {
    await time(1); // the driver's first time is not like the others
    let roundTripMs = Number.POSITIVE_INFINITY;
    for (let i = 0; i < ROUND_TRIPS; i++) roundTripMs = Math.min(roundTripMs, await time(0));
    let tokens = 64;
    let workMs = (await time(tokens)) - roundTripMs;
    while (workMs < ENOUGH_MS && tokens < MOST_TOKENS) {
      tokens *= 4;
      workMs = (await time(tokens)) - roundTripMs;
    }
    // A product that is lost in the noise of the round trip took a tenth of it at most.
    const seconds = Math.max(workMs, roundTripMs / 10) / 1000;
    return { roundTripMs, flopsPerSecond: (tokens * plan.flopsPerToken) / seconds };
  } finally {
    workspace?.destroy();
    destroy();
  }
}

const product: Program = {
  architecture: "dense",
  slots: [WIDTH, WIDTH],
  stages: [
    {
      kind: "dense",
      name: "measure",
      src: 0,
      dst: 1,
      inWidth: WIDTH,
      outWidth: WIDTH,
      kernel: new Float32Array(WIDTH * WIDTH),
      bias: null,
    },
  ],
  output: 1,
};
