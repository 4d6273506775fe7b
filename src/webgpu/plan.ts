/**
 * A program as a list of dispatches over areas of GPU memory. Plain data, made without a GPU.
 *
 * A stage may read and write one slot, but WebGPU lets no buffer be both in one dispatch. So a slot is a name, not a
 * buffer: each write gets an area that nobody needs any more, as registers are given to variables.
 */
import { LinrecError } from "../errors.js";
import {
  flopsPerToken,
  inputWidth,
  outputWidth,
  type PoolStage,
  type Program,
  readsOf,
  type Stage,
  slotWidth,
} from "../program.js";
import { stateLayout } from "../state.js";
import { type Dispatch, localDispatch, lruDispatches, poolDispatch } from "./dispatches.js";
import { type Segment, segmentOf, T } from "./pipelines.js";
import { MOST_VALUES } from "./timesteps.js";

/** A piece of GPU memory that grows with what is run, in bytes. */
export interface Area {
  fixed: number;
  perToken: number;
  perChunk: number;
  perRow: number;
}

export interface Plan extends Layout {
  /** In the order of the stages. */
  readonly dispatches: readonly Dispatch[];
}

/** What is left of a plan once its weights have been uploaded. */
export interface Layout {
  readonly areas: readonly Readonly<Area>[];
  readonly pool: PoolStage | undefined;
  /** The area of x, and the floats of a token of x. */
  readonly input: number;
  readonly inputWidth: number;
  /** The area of y, and the floats of a token, or a row, of y. */
  readonly output: number;
  readonly outputWidth: number;
  /**
   * Where the state's slots are, in their order: h [rows, size] of an LRU as (re, im), the sum [rows, size] of a mean.
   */
  readonly states: readonly StateArea[];
  /** The area of [rows] uint32: real tokens in the segment. */
  readonly lengths: number;
  /** The area of [rows] float32: what the pool stage divides by. */
  readonly counts: number;
  /** The area of [tokens] uint32: each token's timestep, as a row of the tables. */
  readonly times: number;
  /** The area that y and, at the end, the states are copied to, to be read by the CPU. */
  readonly readback: number;
  readonly flopsPerToken: number;
}

export interface StateArea {
  readonly area: number;
  readonly size: number;
  readonly isComplex: boolean;
  /** Float32 values of a row. */
  readonly floats: number;
  /** In a plan with timesteps the area of lambda^Delta [values, size], for an LRU. */
  readonly table: number | undefined;
}

const noBytes: Readonly<Area> = { fixed: 0, perToken: 0, perChunk: 0, perRow: 0 };

/**
 * Nothing is copied that is not repacked: the arrays must be uploaded before the caller can change them.
 * @param timed for tokens with integration timesteps
 */
export function makePlan(program: Program, timed = false): Plan {
  const areas: Area[] = [];
  const addArea = (area: Partial<Area>): number => areas.push({ ...noBytes, ...area }) - 1;
  const dState = Math.max(0, ...program.stages.map((stage) => (stage.kind === "lru" ? stage.dState : 0)));
  const scratch = { loc: addArea({ perToken: 8 * dState }), carry: addArea({ perChunk: 8 * dState }) };
  const lengths = addArea({ perRow: 4 });
  const counts = addArea({ perRow: 4 });
  const times = addArea({ perToken: timed ? 4 : 0 });
  const carriers = stateLayout(program).slots;
  const states = carriers.map(({ stage, size }): StateArea => {
    const isComplex = stage.kind === "lru";
    const floats = isComplex ? 2 * size : size;
    const table = timed && isComplex ? addArea({ fixed: 4 * floats * MOST_VALUES }) : undefined;
    return { area: addArea({ perRow: 4 * floats }), size, isComplex, floats, table };
  });

  const slots = new SlotAreas(program, areas);
  const input = slots.take(0, "perToken");
  const dispatches: Dispatch[] = [];
  let pool: PoolStage | undefined;
  program.stages.forEach((stage, index) => {
    const [x, other] = readsOf(stage).map((slot) => slots.areaOf(slot)) as [number, number?];
    const carriesOver = stage.kind === "lru" || stage.kind === "pool";
    if (pool && carriesOver) {
      throw new LinrecError(
        "unsupported",
        `${stage.name}: no ${stage.kind} stage can follow the pool stage ${pool.name}.`,
      );
    }
    if (stage.kind === "pool") pool = stage;
    const y = slots.write(index, pool ? "perRow" : "perToken");
    const { area: state, table } = states[carriers.findIndex((slot) => slot.stage === stage)] ?? {};
    if (stage.kind === "lru") {
      const area = { y, u: x, state: state as number, lengths, ...scratch };
      dispatches.push(...lruDispatches(stage, area, table === undefined ? table : { table, times }));
    } else if (stage.kind === "pool") {
      const sum = state ?? addArea({ perRow: 4 * stage.width });
      dispatches.push(poolDispatch(stage, { y, sum, x, lengths, counts }));
    } else {
      dispatches.push({ ...localDispatch(stage, y, x, other), perRow: pool !== undefined });
    }
  });
  const output = slots.areaOf(program.output);
  const yBytes = 4 * outputWidth(program);
  const stateBytes = states.reduce((sum, { floats }) => sum + 4 * floats, 0);
  return {
    areas,
    dispatches,
    pool,
    input,
    inputWidth: inputWidth(program),
    output,
    outputWidth: outputWidth(program),
    states,
    lengths,
    counts,
    times,
    readback: addArea(pool ? { perRow: stateBytes + yBytes } : { perRow: stateBytes, perToken: yBytes }),
    flopsPerToken: flopsPerToken(program),
  };
}

/** Which area holds which slot, from stage to stage. */
class SlotAreas {
  readonly #program: Program;
  readonly #areas: Area[];
  /** Areas for slots, apart from those for anything else. */
  readonly #own = { perToken: [] as number[], perRow: [] as number[] };
  readonly #areaOf = new Map<number, number>();

  constructor(program: Program, areas: Area[]) {
    this.#program = program;
    this.#areas = areas;
  }

  areaOf(slot: number): number {
    const area = this.#areaOf.get(slot);
    if (area === undefined) throw new RangeError(`slot ${slot} is read before it is written`);
    return area;
  }

  /** An area for what stage `index` writes: none that it reads, and none that is read later. */
  write(index: number, per: "perToken" | "perRow"): number {
    const needed = new Set<number>();
    for (const [slot, area] of this.#areaOf) if (isRead(this.#program, slot, index)) needed.add(area);
    const { dst } = this.#program.stages[index] as Stage;
    return this.take(dst, per, (area) => !needed.has(area));
  }

  take(slot: number, per: "perToken" | "perRow", isFree: (area: number) => boolean = () => false): number {
    let index = this.#own[per].find(isFree);
    if (index === undefined) {
      index = this.#areas.push({ ...noBytes }) - 1;
      this.#own[per].push(index);
    }
    const area = this.#areas[index] as Area;
    area[per] = Math.max(area[per], 4 * slotWidth(this.#program, slot));
    this.#areaOf.set(slot, index);
    return index;
  }
}

/** Whether what a slot holds before stage `index` is read by it, by a later stage, or as y. */
function isRead(program: Program, slot: number, index: number): boolean {
  for (const stage of program.stages.slice(index)) {
    if (readsOf(stage).includes(slot)) return true;
    if (stage.dst === slot) return false;
  }
  return slot === program.output;
}

/** Bytes of an area for a segment. */
export function areaBytes(area: Readonly<Area>, segment: Segment): number {
  const { rows, chunks, tokens } = segment;
  return area.fixed + area.perToken * tokens + area.perChunk * rows * chunks + area.perRow * rows;
}

/** What a segment may not exceed: bytes of one area, bytes of all of them, and multiplications and additions. */
export interface Bounds {
  readonly areaBytes: number;
  readonly totalBytes: number;
  readonly flops: number;
}

/**
 * How many rows and timesteps go into one segment: the whole sequence if it fits, and as many rows as fit then; else
 * one row in equal parts of whole chunks. `totalBytes` and `flops` yield where even one timestep exceeds them.
 */
export function cut(
  layout: Layout,
  batch: number,
  seqLen: number,
  bounds: Bounds,
): { rows: number; seqLen: number } {
  const total = { ...noBytes };
  for (const area of layout.areas) {
    total.fixed += area.fixed;
    total.perToken += area.perToken;
    total.perChunk += area.perChunk;
    total.perRow += area.perRow;
  }
  const flops = { ...noBytes, perChunk: layout.flopsPerToken * T }; // a short chunk costs a whole one
  const hard = layout.areas.map((area) => ({ area, bound: bounds.areaBytes }));
  const all = [...hard, { area: total, bound: bounds.totalBytes }, { area: flops, bound: bounds.flops }];

  const oneToken = segmentOf(1, 1);
  if (hard.some(({ area, bound }) => areaBytes(area, oneToken) > bound)) {
    throw new LinrecError(
      "unsupported",
      `A layer is too wide for this GPU: it binds at most ${bounds.areaBytes} bytes.`,
    );
  }
  let longest = seqLen;
  for (const { area, bound } of all) {
    const perToken = area.perToken + area.perChunk / T;
    if (perToken > 0)
      longest = Math.min(longest, Math.floor((bound - area.fixed - area.perRow - area.perChunk) / perToken));
  }
  if (longest < seqLen) {
    const whole = Math.max(1, longest > T ? longest - (longest % T) : longest);
    const even = Math.ceil(seqLen / Math.ceil(seqLen / whole) / T) * T;
    return { rows: 1, seqLen: Math.min(whole, even) };
  }
  let rows = batch;
  const oneRow = segmentOf(1, seqLen);
  for (const { area, bound } of all) {
    const bytes = areaBytes(area, oneRow) - area.fixed;
    if (bytes > 0) rows = Math.min(rows, Math.floor((bound - area.fixed) / bytes));
  }
  return { rows: Math.max(1, rows), seqLen };
}
