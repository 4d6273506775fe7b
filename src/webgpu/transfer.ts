/** What goes to the GPU before a piece of a job, and what comes back after it. */
import type { ForwardJob } from "../backend.js";
import type { LruStage } from "../program.js";
import { countOf } from "../runtime/gpuBuffer.js";
import type { State, StateSlot } from "../state.js";
import type { Timeline } from "../timeline.js";
import type { Device } from "./device.js";
import { type Part, type Piece, tablesOf } from "./pieces.js";
import type { Layout, StateArea } from "./plan.js";
import { uploadTimesteps } from "./timesteps.js";
import { upload, type Workspace } from "./workspace.js";

/** A forward on its way through the GPU. */
export interface Passage {
  readonly job: ForwardJob;
  readonly timeline: Timeline;
  readonly layout: Layout;
  /** x, y and the states are on the GPU before and after it: a part of a network. */
  readonly inPlace?: boolean;
}

/** Uploads x, timesteps and the tables, and before a row's first piece its states; in place only timesteps and tables. Within `Device.scoped`. */
export function uploadPiece(device: Device, passage: Passage, workspace: Workspace, piece: Piece): void {
  const { layout, job, timeline, inPlace } = passage;
  if (piece.parts[0]?.start === 0) {
    const rows = piece.parts.map(({ row }) => row);
    const states = inPlace ? [] : statesOf(job.state, rows);
    for (const [i, values] of states.entries())
      upload(device, workspace.area((layout.states[i] as StateArea).area), 0, values);
    const isMean = layout.pool?.mode === "mean";
    const counts = Float32Array.from(rows, (row) =>
      isMean ? timeline.count(row, job.lengths[row] as number) : 1,
    );
    upload(device, workspace.area(layout.counts), 0, counts);
  }
  const tables = tablesOf(piece, timeline, layout.lift);
  for (const name of ["chunks", "rows", "wanted"] as const)
    workspace.hold(workspace.area(layout.tables[name]), tables[name]);
  const pieceOf = (values: Float32Array, width: number) =>
    tokensOf(piece.parts, piece.segment.tokens, job.seqLen, values, width);
  if (!job.ports?.x && !inPlace) {
    upload(device, workspace.area(layout.input), 0, pieceOf(job.x, layout.inputWidth));
  }
  if (job.timesteps) {
    const tables = layout.states.flatMap(({ table }, index) => {
      const { params } = slotOf(job.state, index).stage as LruStage;
      return table === undefined ? [] : [{ buffer: workspace.area(table), params }];
    });
    const times = workspace.area(layout.times);
    uploadTimesteps(device, workspace.timesteps, pieceOf(job.timesteps, 1), times, tables);
  }
}

/** Some tokens of values [batch, seqLen, width]: a part of them, or a copy if there is something between their rows. */
export function tokensOf(
  parts: readonly Part[],
  tokens: number,
  seqLen: number,
  values: Float32Array,
  width: number,
): Float32Array {
  const rangeOf = ({ row, start, end }: Part) =>
    values.subarray((row * seqLen + start) * width, (row * seqLen + end) * width);
  const [first, last] = [parts[0], parts.at(-1)] as [Part, Part];
  const all = rangeOf({ ...first, end: (last.row - first.row) * seqLen + last.end });
  if (all.length === tokens * width) return all;
  const packed = values.slice(0, tokens * width);
  let at = 0;
  for (const part of parts) {
    packed.set(rangeOf(part), at);
    at += (part.end - part.start) * width;
  }
  return packed;
}

/** The maximum of no token: a shader need not know infinities. */
const LOWEST = -3.4028234663852886e38;

/** The states of rows as the GPU holds them: [rows, floats] of each. In steps a pool's value is the sum of a pair. */
export function statesOf(state: State, rows: readonly number[], inSteps = false): Float32Array[] {
  return state.layout.slots.map((slot) => {
    const isComplex = slot.stage.kind === "lru";
    const isPair = isComplex || inSteps;
    const values = new Float32Array(rows.length * slot.size * (isPair ? 2 : 1));
    let at = 0;
    for (const row of rows) {
      const { re, im } = state.read(slot, row);
      for (let n = 0; n < slot.size; n++) {
        values[at++] = isComplex ? (re[n] as number) : Math.max(re[n] as number, LOWEST);
        if (isPair) values[at++] = im[n] as number;
      }
    }
    return values;
  });
}

/** The way back: all of them, one after the other. */
export function takeStates(
  state: State,
  rows: readonly number[],
  values: Float32Array,
  inSteps = false,
): void {
  let at = 0;
  for (const slot of state.layout.slots) {
    const isComplex = slot.stage.kind === "lru";
    const [re, im] = [new Float32Array(slot.size), new Float32Array(slot.size)];
    for (const row of rows) {
      for (let n = 0; n < slot.size; n++) {
        re[n] = values[at++] as number;
        if (isComplex) im[n] = values[at++] as number;
        else if (inSteps) (re[n] as number) += values[at++] as number;
      }
      state.write(slot, row, re, im);
    }
  }
}

/** What comes back from a piece, in this order: its outputs or, after the last piece, its rows; then the states. */
export function resultsOf(
  { layout, job, inPlace }: Passage,
  { segment, isLast }: Piece,
): { area: number; floats: number }[] {
  const { rows } = segment;
  const outputs = layout.pool ? (isLast ? rows : 0) : segment.outputs;
  const y = { area: layout.output, floats: layout.outputWidth * outputs };
  const states = layout.states.map(({ area, floats }) => ({ area, floats: floats * rows }));
  return (job.ports?.y || inPlace ? states : [y, ...states]).filter(({ floats }) => floats > 0);
}

/**
 * Where a piece's outputs belong: `floats` of its area of y, from `from`, to `to` of y [batch, rowFloats]. So many `zeros`
 * follow.
 */
export function* outputsOf(
  { layout, job, timeline }: Passage,
  { parts, isLast }: Piece,
): Generator<{ from: number; to: number; floats: number; zeros: number }, void> {
  if (layout.pool && !isLast) return;
  const width = layout.outputWidth;
  const rowFloats = countOf(job.ports?.y ?? job.y) / job.batch;
  let from = 0;
  for (const { row, start, end } of parts) {
    const given = layout.pool ? 0 : timeline.outputs(row, start);
    const floats = width * (layout.pool ? 1 : timeline.outputs(row, end) - given);
    const to = row * rowFloats + given * width;
    yield { from, to, floats, zeros: isLast ? (row + 1) * rowFloats - to - floats : 0 };
    from += floats;
  }
}

/** Puts what came back (the arrays of {@link resultsOf}, one after the other) where the job wants it, and commits it. */
export function collectPiece(passage: Passage, piece: Piece, values: Float32Array): void {
  const { job, timeline, inPlace } = passage;
  const { y, state, done } = job;
  const { parts } = piece;
  let at = 0;
  for (const { from, to, floats, zeros } of job.ports?.y || inPlace ? [] : outputsOf(passage, piece)) {
    at = from + floats;
    y.set(values.subarray(from, at), to);
    // What is past the last output becomes zero only now: y may be the memory of x.
    y.fill(0, to + floats, to + floats + zeros);
  }
  const rows = parts.map(({ row }) => row);
  takeStates(state, rows, values.subarray(at));
  for (const { row, end } of parts) {
    state.restartRow(row, timeline.count(row, end));
    if (done) done[row] = end;
  }
}

function slotOf(state: State, index: number): StateSlot {
  return state.layout.slots[index] as StateSlot;
}
