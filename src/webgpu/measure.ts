/** What the scheduler's cost model wants to know of a GPU, from the kernels that forwards run. */
import type { GpuRates, Runner } from "../backend.js";
import { initLru } from "../init.js";
import { programOf } from "../models/lru.js";
import type { Program } from "../program.js";
import { State, stateLayout } from "../state.js";
import { Timeline } from "../timeline.js";
import type { Device } from "./device.js";
import { loadsOf } from "./loads.js";
import { tablesOf } from "./pieces.js";
import { type Pipelines, segmentOf } from "./pipelines.js";
import { makePlan } from "./plan.js";
import { T, type Tiles } from "./tiles.js";
import { loadKernels, MAP_READ, SUBMIT_DEADLINE_MS, Workspace } from "./workspace.js";

const WIDE = 256;
const NARROW = 16;
/** Tokens grow by this factor until they take this long, and nearly as many times as long as before: the whole GPU is at work, */
const GROWTH = 8;
const NEARLY = 6;
const ENOUGH_MS = 0.5;
/** or take so long that more would not say more, */
const LONG_MS = 10;
/** or until there are this many, which even the fastest GPU notices. */
const MOST_TOKENS = 2 ** 14;
/** Runs one after the other in a submit: their copies and the way there and back cancel out. */
const REPEATS = 4;
const COPIED_BYTES = 2 ** 21;
/** The best of so many, or of fewer that take so long. */
const TURNS = 3;
const TURNS_MS = 100;

/** To be run when nothing else runs on the device: a few milliseconds on a GPU, seconds on a CPU that plays one. */
export async function measureDevice(
  device: Device,
  pipelines: Pipelines,
  prepare: (program: Program) => Promise<Runner>,
): Promise<GpuRates> {
  const wide = await measureLayer(device, pipelines, WIDE);
  const narrow = await measureLayer(device, pipelines, NARROW);
  const [many, least] = [wide.at(-1) as Run, narrow[0] as Run];
  const counts = [...wide, ...narrow].map(({ ms, dispatches, flops, loads, waits }) =>
    [dispatches, flops, loads, waits].map((count) => count / ms),
  );
  const [dispatchMs, flopMs, loadMs, waitMs] = costsOf(counts) as [number, number, number, number];
  // A power of two, so that the next engine on this machine cuts its forwards at the same places, most likely.
  device.flopsPerMs = 2 ** Math.floor(Math.log2(many.flops / many.ms));
  const { uploadMs, readbackMs } = await measureCopies(device);
  const forwardMs = await measureForward(prepare);
  return {
    roundTripMs: Math.max(forwardMs / 2, forwardMs - least.ms),
    ...{ dispatchMs, flopMs, loadMs, waitMs },
    uploadBytesPerMs: COPIED_BYTES / uploadMs,
    readbackBytesPerMs: COPIED_BYTES / readbackMs,
  };
}

/**
 * What each of some things costs, none of them less than nothing, that makes of each row of counts a sum of 1, as nearly as can be:
 * least squares, one unknown after the other.
 */
export function costsOf(rows: readonly (readonly number[])[]): number[] {
  const costs = new Array<number>(rows[0]?.length ?? 0).fill(0);
  for (let round = 0; round < 10_000; round++)
    for (const i of costs.keys()) {
      let [along, square] = [0, 0];
      for (const row of rows) {
        const own = row[i] as number;
        along += own * (1 - row.reduce((sum, count, j) => sum + count * (costs[j] as number), 0));
        square += own ** 2;
      }
      if (square > 0) costs[i] = Math.max(0, (costs[i] as number) + along / square);
    }
  return costs;
}

interface Run {
  readonly ms: number;
  readonly flops: number;
  readonly dispatches: number;
  readonly loads: number;
  readonly waits: number;
}

/** An LRU of `width` features and states: of one token, and of more and more. */
async function measureLayer(device: Device, pipelines: Pipelines, width: number): Promise<Run[]> {
  const program = layerOf(width);
  const plan = makePlan(program);
  const timeline = new Timeline({ state: new State(stateLayout(program), 1) });
  const { kernels, destroy } = await loadKernels(device, pipelines, plan.dispatches);
  const room = device.scoped(
    "measuring the GPU",
    () => new Workspace(device, plan, kernels, segmentOf(1, MOST_TOKENS)),
  );
  const workspace = room.value;
  const submit = async (tokens: number, repeats: number) => {
    const segment = segmentOf(1, tokens);
    const tables = tablesOf({ parts: [{ row: 0, start: 0, end: tokens }], segment }, timeline);
    const start = performance.now();
    await submitted(device, (encoder) => {
      for (const name of ["chunks", "rows"] as const)
        workspace.hold(workspace.area(plan.tables[name]), tables[name]);
      for (let i = 0; i < repeats; i++) workspace.encode(encoder, segment, true);
      encoder.copyBufferToBuffer(workspace.area(plan.output), 0, workspace.area(plan.readback), 0, 4);
      return workspace.area(plan.readback);
    });
    return performance.now() - start;
  };
  const time = async (tokens: number) => {
    const once = await best(() => submit(tokens, 1));
    const segment = segmentOf(1, tokens);
    return {
      // What is lost in the clock's noise is taken to be as long as its tick.
      ms: Math.max(1e-3, (await best(() => submit(tokens, 1 + REPEATS))) - once) / REPEATS,
      flops: segment.chunks * T * plan.flopsPerToken,
      ...loadsOf(plan.dispatches, segment, pipelines.tiles as Tiles),
    };
  };
  try {
    await room.clean;
    await submit(1, 1); // the driver's first time is not like the others
    const runs = [await time(1)];
    let before = Number.POSITIVE_INFINITY;
    for (let tokens = MOST_TOKENS / GROWTH ** 3; tokens <= MOST_TOKENS; tokens *= GROWTH) {
      const run = await time(tokens);
      runs.push(run);
      if (run.ms > LONG_MS || (run.ms * REPEATS > ENOUGH_MS && run.ms > NEARLY * before)) break;
      before = run.ms;
    }
    return runs;
  } finally {
    workspace.destroy();
    destroy();
  }
}

async function measureCopies(device: Device) {
  const { handle } = device;
  const usage = { COPY_SRC: 4, COPY_DST: 8 };
  const { value: buffers, clean } = device.scoped("measuring the GPU", () => ({
    there: handle.createBuffer({ size: COPIED_BYTES, usage: usage.COPY_SRC | usage.COPY_DST }),
    back: handle.createBuffer({ size: COPIED_BYTES, usage: MAP_READ | usage.COPY_DST }),
  }));
  const { there, back } = buffers;
  const values = new Float32Array(COPIED_BYTES / 4);
  const time = (uploaded: number, read: number) =>
    best(async () => {
      const start = performance.now();
      await submitted(
        device,
        (encoder) => {
          handle.queue.writeBuffer(there, 0, values, 0, uploaded / 4);
          encoder.copyBufferToBuffer(there, 0, back, 0, read);
          return back;
        },
        (mapped) => values.set(mapped.subarray(0, read / 4)),
      );
      return performance.now() - start;
    });
  try {
    await clean;
    await time(COPIED_BYTES, COPIED_BYTES);
    const least = await time(4, 4);
    const tick = 1e-3;
    return {
      uploadMs: Math.max(tick, (await time(COPIED_BYTES, 4)) - least),
      readbackMs: Math.max(tick, (await time(4, COPIED_BYTES)) - least),
    };
  } finally {
    there.destroy();
    back.destroy();
  }
}

/** A forward of one token, as users call it. */
async function measureForward(prepare: (program: Program) => Promise<Runner>): Promise<number> {
  const program = layerOf(NARROW);
  const runner = await prepare(program);
  const state = new State(stateLayout(program), 1);
  const [x, y] = [new Float32Array(NARROW), new Float32Array(NARROW)];
  const job = { batch: 1, seqLen: 1, lengths: Int32Array.of(1), x, y, state, threads: 0 };
  const forward = async () => {
    const start = performance.now();
    await runner.forward({ ...job, signal: undefined, onProgress: undefined });
    return performance.now() - start;
  };
  await forward();
  const ms = await best(forward);
  runner.dispose();
  return ms;
}

/** Submits what `encode` encodes, and reads the buffer that it gives. */
async function submitted(
  device: Device,
  encode: (encoder: GPUCommandEncoder) => GPUBuffer,
  read?: (values: Float32Array) => void,
): Promise<void> {
  const { value: mapped, clean } = device.scoped("measuring the GPU", () => {
    const encoder = device.handle.createCommandEncoder();
    const buffer = encode(encoder);
    device.handle.queue.submit([encoder.finish()]);
    return buffer.mapAsync(MAP_READ).then(() => {
      read?.(new Float32Array(buffer.getMappedRange()));
      buffer.unmap();
    });
  });
  await device.wait(Promise.all([mapped, clean]), SUBMIT_DEADLINE_MS);
}

async function best(run: () => Promise<number>): Promise<number> {
  let ms = Number.POSITIVE_INFINITY;
  for (let turn = 0, sum = 0; turn < TURNS && sum < TURNS_MS; turn++) {
    const once = await run();
    sum += once;
    ms = Math.min(ms, once);
  }
  return ms;
}

function layerOf(width: number): Program {
  return programOf(initLru({ dModel: width, dState: width }), "lru");
}
