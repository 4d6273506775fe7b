/** What goes to the GPU before a piece of a job, and what comes back after it. */
import type { ForwardJob } from "../backend.js";
import type { LruStage } from "../program.js";
import type { StateSlot } from "../state.js";
import type { Device } from "./device.js";
import type { Segment } from "./pipelines.js";
import type { Layout } from "./plan.js";
import { type Timesteps, timedTable } from "./timesteps.js";
import { upload, type Workspace } from "./workspace.js";

/** Some rows of a job, for some timesteps. */
export interface Piece {
  readonly job: ForwardJob;
  readonly timesteps: Timesteps | undefined;
  /** The first of segment.rows rows. */
  readonly first: number;
  /** The first of segment.seqLen timesteps. */
  readonly start: number;
  readonly segment: Segment;
  /** Nothing of these rows comes after it. */
  readonly isLast: boolean;
}

/** Uploads x and the lengths, and before a row's first piece its states. Within `Device.scoped`. */
export function uploadPiece(device: Device, layout: Layout, workspace: Workspace, piece: Piece): void {
  const { job, first, start, segment, timesteps } = piece;
  const { rows, seqLen } = segment;
  if (start === 0) uploadStates(device, layout, workspace, piece);
  const left = Uint32Array.from({ length: rows }, (_, i) => tokensLeft(job, first + i, start, seqLen));
  upload(device, workspace.area(layout.lengths), 0, left);

  uploadTokens(layout.input, job.x, layout.inputWidth);
  if (timesteps) uploadTokens(layout.times, timesteps.indices, 1);

  function uploadTokens(area: number, values: Float32Array | Uint32Array, width: number): void {
    const buffer = workspace.area(area);
    const tokens = (row: number): number => (row * job.seqLen + start) * width;
    if (seqLen === job.seqLen) upload(device, buffer, 0, values, tokens(first), rows * seqLen * width);
    else {
      for (let i = 0; i < rows; i++)
        upload(device, buffer, 4 * i * seqLen * width, values, tokens(first + i), seqLen * width);
    }
  }
}

/** The maximum of no token: a shader need not know infinities. */
const LOWEST = -3.4028234663852886e38;

function uploadStates(
  device: Device,
  layout: Layout,
  workspace: Workspace,
  { job, first, segment, timesteps }: Piece,
): void {
  const { rows } = segment;
  layout.states.forEach(({ area, size, isComplex, floats, table }, index) => {
    if (timesteps && table !== undefined) {
      const { params } = slotOf(job, index).stage as LruStage;
      upload(device, workspace.area(table), 0, timedTable(params, timesteps.values));
    }
    const values = new Float32Array(rows * floats);
    for (let i = 0, at = 0; i < rows; i++) {
      const { re, im } = job.state.read(slotOf(job, index), first + i);
      for (let n = 0; n < size; n++) {
        values[at++] = isComplex ? (re[n] as number) : Math.max(re[n] as number, LOWEST);
        if (isComplex) values[at++] = im[n] as number;
      }
    }
    upload(device, workspace.area(area), 0, values);
  });
  const isMean = layout.pool?.mode === "mean";
  const counts = Float32Array.from({ length: rows }, (_, i) => (isMean ? countAfter(job, first + i) : 1));
  upload(device, workspace.area(layout.counts), 0, counts);
}

/** What comes back from a piece, in this order: y of its tokens or, after the last piece, its rows; then the states. */
export function resultsOf(layout: Layout, { segment, isLast }: Piece): { area: number; floats: number }[] {
  const rows = isLast ? segment.rows : 0;
  const y = { area: layout.output, floats: layout.outputWidth * (layout.pool ? rows : segment.tokens) };
  const states = layout.states.map(({ area, floats }) => ({ area, floats: floats * rows }));
  return [y, ...states].filter(({ floats }) => floats > 0);
}

/** Puts what came back (the arrays of {@link resultsOf}, one after the other) where the job wants it. */
export function collectPiece(layout: Layout, piece: Piece, values: Float32Array): void {
  const { job, first, start, segment, isLast } = piece;
  const { rows, seqLen } = segment;
  const width = layout.outputWidth;
  let at = 0;
  if (!layout.pool) {
    for (let row = first; row < first + rows; row++, at += seqLen * width) {
      const real = tokensLeft(job, row, start, seqLen);
      job.y.set(values.subarray(at, at + real * width), (row * job.seqLen + start) * width);
    }
  } else if (isLast) {
    job.y.set(values.subarray(0, rows * width), first * width);
    at = rows * width;
  }
  if (!isLast) return;
  layout.states.forEach(({ size, isComplex, floats }, index) => {
    for (let row = first; row < first + rows; row++, at += floats) {
      // A row that read nothing keeps its state to the last bit.
      if (job.lengths[row] === 0) continue;
      const re = new Float32Array(size);
      const im = new Float32Array(size);
      for (let n = 0; n < size; n++) {
        re[n] = values[at + (isComplex ? 2 * n : n)] as number;
        if (isComplex) im[n] = values[at + 2 * n + 1] as number;
      }
      job.state.write(slotOf(job, index), row, re, im);
    }
  });
  for (let row = first; row < first + rows; row++) {
    if (job.lengths[row] !== 0) job.state.restartRow(row, countAfter(job, row));
  }
}

/** Real tokens of a row from timestep `start`, of at most `seqLen`. */
function tokensLeft(job: ForwardJob, row: number, start: number, seqLen: number): number {
  return Math.min(Math.max((job.lengths[row] as number) - start, 0), seqLen);
}

/** Tokens read since the state's origin, with those of this job. */
function countAfter(job: ForwardJob, row: number): number {
  return (job.state.count[row] as number) + (job.lengths[row] as number);
}

function slotOf(job: ForwardJob, index: number): StateSlot {
  return job.state.layout.slots[index] as StateSlot;
}
