/** What the scheduler's cost model wants to know of a GPU, from the kernels that forwards run. */
import type { GpuRates, Runner } from "../backend.js";
import { initLru } from "../init.js";
import { programOf } from "../lruParams.js";
import type { Program } from "../program.js";
import { State, stateLayout } from "../state.js";
import { Timeline } from "../timeline.js";
import type { Device } from "./device.js";
import { loadsOf } from "./loads.js";
import { tablesOf } from "./pieces.js";
import { type Pipelines, segmentOf } from "./pipelines.js";
import { makePlan } from "./plan.js";
import { T, type Tiles } from "./tiles.js";
import { COPY_DST, COPY_SRC, loadKernels, MAP_READ, SUBMIT_DEADLINE_MS, Workspace } from "./workspace.js";

/** Layers of so many features and states are run, of one token and */
const NARROW = 16;
const WIDTHS = [256, 64, NARROW];
/** of two chunks, and of so many that even the fastest GPU notices; fewer where they */
const MOST_TOKENS = 2 ** 14;
const LENGTHS = [1, 2 * T, 2 ** 10, MOST_TOKENS];
/** take this long, and nearly as many times as long as before: the whole GPU is at work, */
const ENOUGH_MS = 0.5;
const NEARLY = 0.75;
/** or so long that more would not say more. */
const LONG_MS = 20;
/** Runs one after the other in a submit: their copies and the way there and back cancel out. */
const REPEATS = 4;
const COPIED_BYTES = 2 ** 21;
/** A clock may stand still, as a test's does. */
const MOST_RUNS = 32;
/** What is lost in the clock's noise is taken to be as long as its tick. */
const TICK_MS = 1e-3;

/** To be run when nothing else runs on the device: a few milliseconds on a GPU, seconds on a CPU that plays one. */
export async function measureDevice(
  device: Device,
  pipelines: Pipelines,
  prepare: (program: Program) => Promise<Runner>,
): Promise<GpuRates> {
  const layers: Run[][] = [];
  for (const width of WIDTHS) layers.push(await measureLayer(device, pipelines, width));
  const many = layers[0]?.at(-1) as Run;
  const least = layers.at(-1)?.[0] as Run;
  const counted = ["dispatches", "flops", "threads", "loads", "waits"] as const;
  const counts = layers.flat().map((run) => counted.map((name) => run[name] / run.ms));
  const costs = costsOf(counts);
  const [dispatchMs, flopMs, threadMs, loadMs, waitMs] = costs as [number, number, number, number, number];
  // A power of two, so that the next engine on this machine cuts its forwards at the same places, most likely.
  device.flopsPerMs = 2 ** Math.floor(Math.log2(many.flops / many.ms));
  const copies = await measureCopies(device);
  const forwardMs = await measureForward(prepare);
  const computeMs = counted.reduce((sum, name, i) => sum + least[name] * (costs[i] as number), 0);
  return {
    roundTripMs: Math.max(forwardMs / 2, forwardMs - computeMs),
    ...{ dispatchMs, flopMs, threadMs, loadMs, waitMs },
    ...copies,
  };
}

/**
 * What each of some things costs, none of them less than nothing, that makes of each row of counts a sum s of 1, as nearly as can be:
 * least (1 - s)^2 / s, one unknown after the other, so that half is as wrong as twice.
 */
export function costsOf(rows: readonly (readonly number[])[]): number[] {
  const costs = new Array<number>(rows[0]?.length ?? 0).fill(0);
  for (let round = 0; round < 1000; round++)
    for (const i of costs.keys()) {
      let [along, square] = [0, 0];
      for (const row of rows) {
        const own = row[i] as number;
        const sum = row.reduce((sum, count, j) => sum + count * (costs[j] as number), 0);
        const weight = 1 / Math.max(sum, 0.2);
        along += own * weight * (1 - sum);
        square += own ** 2 * weight;
      }
      if (square > 0) costs[i] = Math.max(0, (costs[i] as number) + along / square);
    }
  return costs;
}

interface Run extends ReturnType<typeof loadsOf> {
  readonly ms: number;
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
    await submitted(device, (encoder) => {
      for (const name of ["chunks", "rows"] as const)
        workspace.hold(workspace.area(plan.tables[name]), tables[name]);
      for (let i = 0; i < repeats; i++) workspace.encode(encoder, segment, true);
      encoder.copyBufferToBuffer(workspace.area(plan.output), 0, workspace.area(plan.readback), 0, 4);
      return workspace.area(plan.readback);
    });
  };
  let idle = 0; // the way there and back
  const time = async (tokens: number) => {
    const once = await middle(() => submit(tokens, 1));
    const segment = segmentOf(1, tokens);
    const more = async () => (await middle(() => submit(tokens, 1 + REPEATS))) - once;
    return {
      ms: Math.max(TICK_MS, once > LONG_MS ? once - idle : (await more()) / REPEATS),
      ...loadsOf(plan.dispatches, segment, pipelines.tiles as Tiles),
    };
  };
  try {
    await room.clean;
    await submit(1, 1); // the driver's first time is not like the others
    idle = await middle(() => submit(1, 0));
    const runs: Run[] = [];
    let before = Number.POSITIVE_INFINITY;
    for (const tokens of LENGTHS) {
      const run = await time(tokens);
      runs.push(run);
      const each = run.ms / tokens;
      if (run.ms > LONG_MS || (run.ms * REPEATS > ENOUGH_MS && each > NEARLY * before)) break;
      before = each;
    }
    return runs;
  } finally {
    workspace.destroy();
    destroy();
  }
}

async function measureCopies(device: Device) {
  const { handle } = device;
  const { value: buffers, clean } = device.scoped("measuring the GPU", () => ({
    there: handle.createBuffer({ size: COPIED_BYTES, usage: COPY_SRC | COPY_DST }),
    back: handle.createBuffer({ size: COPIED_BYTES, usage: MAP_READ | COPY_DST }),
  }));
  const { there, back } = buffers;
  const values = new Float32Array(COPIED_BYTES / 4);
  const time = (uploaded: number, read: number) =>
    middle(() =>
      submitted(
        device,
        (encoder) => {
          handle.queue.writeBuffer(there, 0, values, 0, uploaded / 4);
          encoder.copyBufferToBuffer(there, 0, back, 0, read);
          return back;
        },
        (mapped) => values.set(mapped.subarray(0, read / 4)),
      ),
    );
  try {
    await clean;
    await time(COPIED_BYTES, COPIED_BYTES);
    const least = await time(4, 4);
    const rate = (ms: number) => COPIED_BYTES / Math.max(TICK_MS, ms - least);
    return {
      uploadBytesPerMs: rate(await time(COPIED_BYTES, 4)),
      readbackBytesPerMs: rate(await time(4, COPIED_BYTES)),
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
  const x = new Float32Array(NARROW);
  const size = { batch: 1, seqLen: 1, lengths: Int32Array.of(1) };
  const job = { ...size, x, y: x, state, threads: 0, signal: undefined, onProgress: undefined };
  const forward = () => runner.forward(job);
  await forward();
  const times = [await middle(forward), await middle(forward), await middle(forward)];
  const ms = middleOf(times);
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

/**
 * What a run takes, in ms: the middle of three times, for what short runs take by luck, long ones never do. Each is of as many runs as
 * it takes until the clock has moved: some tick once in a millisecond.
 */
async function middle(run: () => Promise<void>): Promise<number> {
  const times: number[] = [];
  for (let start = performance.now(), end = start; times.length < 3; start = end) {
    let runs = 0;
    for (; end === start && runs < MOST_RUNS; runs++) {
      await run();
      end = performance.now();
    }
    times.push((end - start) / runs);
  }
  return middleOf(times);
}

const middleOf = (times: number[]): number => times.sort((a, b) => a - b)[1] as number;

function layerOf(width: number): Program {
  return programOf(initLru({ dModel: width, dState: width }), "lru");
}
