/** What is left of a forward that a backend has done in part: forwards of their own, which any backend can run. */
import type { ForwardJob } from "../backend.js";
import { inputWidth, type Network, outputWidth, poolOf } from "../program.js";
import { State } from "../state.js";
import { Timeline } from "../timeline.js";

/** Some rows of a forward, from a token on, the first of them `row`. It has a state of its own. */
export interface Rest {
  readonly row: number;
  readonly job: ForwardJob;
}

/**
 * The rows that are not done: one that was begun by itself, those that were not together. Nothing is copied but states.
 * @param job as it was at first, with `done` as it is now
 * @param reached whose rows are advanced past the tokens of `done`
 */
export function restsOf(network: Network, job: ForwardJob, done: Int32Array, reached: State): Rest[] {
  const { batch, lengths } = job;
  const timeline = new Timeline(job);
  const rests: Rest[] = [];
  for (let row = 0, end = 1; row < batch; row = end++) {
    const start = done[row] as number;
    if (start > 0 && start === lengths[row]) continue;
    while (start === 0 && end < batch && done[end] === 0) end++;
    rests.push({ row, job: restOf(network, job, timeline, reached, { row, end, start }) });
  }
  return rests;
}

function restOf(
  network: Network,
  job: ForwardJob,
  timeline: Timeline,
  reached: State,
  { row, end, start }: { row: number; end: number; start: number },
): ForwardJob {
  const { seqLen, resets, onProgress } = job;
  const state = new State(job.state.layout, end - row);
  for (let i = row; i < end; i++) state.copyRow(i - row, start > 0 ? reached : job.state, i);
  if (start > 0 && resets?.[row]?.includes(start)) state.resetRow(0);
  const tokens = (values: Float32Array, width: number) =>
    values.subarray((row * seqLen + start) * width, end * seqLen * width);
  const rowFloats = job.y.length / job.batch;
  const given = poolOf(network) ? 0 : timeline.outputs(row, start) * outputWidth(network);
  return {
    ...job,
    whole: job.whole ?? job,
    batch: end - row,
    seqLen: seqLen - start,
    lengths: job.lengths.slice(row, end).map((length) => length - start),
    timesteps: job.timesteps && tokens(job.timesteps, 1),
    x: tokens(job.x, inputWidth(network)),
    y: job.y.subarray(row * rowFloats + given, end * rowFloats),
    resets: resets
      ?.slice(row, end)
      .map((positions) => positions.filter((at) => at > start).map((at) => at - start)),
    state,
    onProgress: onProgress && ((tokens) => onProgress(row * seqLen + start + tokens)),
  };
}
