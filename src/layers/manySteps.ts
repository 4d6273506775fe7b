/** Steps as forwards: many at once, or on the GPU. */
import type { ForwardJob } from "../backend.js";
import { breathing } from "../runtime/macrotask.js";
import type { State } from "../state.js";
import { readResets } from "./forwardOptions.js";
import type { Steps } from "./steps.js";

/** Their marks as bytes, 0 or 1. */
type Marked = Steps & { readonly reset: Uint8Array | undefined };

/** What a layer or model gives for it. */
export interface Stepping {
  /** A promise where it is not done at once. */
  forward(job: Omit<ForwardJob, "threads">): Promise<void> | undefined;
  /** Whether it is the GPU that steps. */
  onGpu(streams: number): boolean;
  /** A step on the calling thread. */
  here(step: Steps, state: State): void;
  /** Throws where the work has become pointless while others were heard. */
  check(): void;
}

/**
 * Advances a state by steps of all its streams.
 * @param atOnce as one forward; else one by one
 */
export async function stepThrough(
  all: Marked,
  state: State,
  stepping: Stepping,
  atOnce: boolean,
): Promise<void> {
  const run = async (part: Marked) => {
    const job = asForward(part, state);
    await stepping.forward(job);
    stepping.check();
    if (job.y !== part.y) part.y.set(turned(job.y, part.streams, part.steps));
  };
  if (atOnce) return run(all);
  const breathe = breathing();
  for (let t = 0; t < all.steps; t++) {
    const step = { ...stepOf(all, t), rows: undefined };
    if (stepping.onGpu(all.streams)) await run(step);
    else stepping.here(step, state);
    await breathe();
    stepping.check();
  }
}

/** All the steps as a forward of [streams, steps]: the same bits. `state` is the streams' own, and is advanced. */
function asForward(all: Marked, state: State): Omit<ForwardJob, "threads"> {
  const { steps, streams } = all;
  const { reset, timesteps, x, y } = all;
  const turn = <V extends Float32Array | Uint8Array>(values: V) => turned(values, steps, streams);
  const lengths = new Int32Array(streams).fill(steps);
  return {
    batch: streams,
    seqLen: steps,
    lengths,
    x: turn(x),
    y: steps === 1 || streams === 1 ? y : new Float32Array(y.length),
    state,
    timesteps: timesteps && turn(timesteps),
    resets: readResets(reset && turn(reset), lengths, steps, state),
    signal: undefined,
    onProgress: undefined,
  };
}

/** One of the steps, as steps. */
function stepOf({ x, y, ports, steps, streams, rows, timesteps, reset }: Marked, t: number): Marked {
  const part = <V extends Float32Array | Uint8Array>(values: V) =>
    values.subarray((t * values.length) / steps, ((t + 1) * values.length) / steps) as V;
  return {
    x: part(x),
    y: part(y),
    ports,
    steps: 1,
    streams,
    rows,
    timesteps: timesteps && part(timesteps),
    reset: reset && part(reset),
  };
}

/** [outer, inner, width] -> [inner, outer, width]; the same array where that is the same. */
function turned<V extends Float32Array | Uint8Array>(values: V, outer: number, inner: number): V {
  if (outer === 1 || inner === 1) return values;
  const result = values.slice() as V;
  const width = values.length / (outer * inner);
  const [a, b] = [wordsOf(values), wordsOf(result)];
  for (let i = 0, from = 0; i < outer; i++) {
    for (let j = 0; j < inner; j++) {
      let to = (j * outer + i) * width;
      for (const end = from + width; from < end; from++) b[to++] = a[from] as number;
    }
  }
  return result;
}

/** Copied as integers, the bits of a NaN and of a token id stay what they are. */
function wordsOf(values: Float32Array | Uint8Array): Uint32Array | Uint8Array {
  if (values.BYTES_PER_ELEMENT === 1) return values as Uint8Array;
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}
