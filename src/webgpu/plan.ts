/**
 * A program as a list of dispatches over areas of GPU memory. Plain data, made without a GPU.
 *
 * A stage may read and write one slot, but WebGPU lets no buffer be both in one dispatch. So a slot is a name, not a
 * buffer: each write gets an area that nobody needs any more, as registers are given to variables.
 */
import {
  flopsPerToken,
  inputWidth,
  isRead,
  lruStages,
  outputWidth,
  type PoolStage,
  type Program,
  poolOf,
  readsOf,
  type Stage,
  slotWidth,
} from "../program.js";
import { stateLayout } from "../state.js";
import {
  type Dispatch,
  localDispatch,
  lruDispatches,
  lruWeights,
  poolDispatch,
  thinDispatch,
} from "./dispatches.js";
import { fused, replaced } from "./epilogue.js";
import { liftingFlops } from "./lifting.js";
import type { Segment } from "./pipelines.js";

/** One is read while the next piece is computed, which is copied to another. */
export const READBACKS = 2;

/** A piece of GPU memory that grows with what is run, in bytes. */
export interface Area {
  fixed: number;
  perToken: number;
  perChunk: number;
  perRow: number;
  perOutput: number;
  /** For each output where not every token gives one. */
  perThinned: number;
}

export const noBytes: Readonly<Area> = {
  fixed: 0,
  perToken: 0,
  perChunk: 0,
  perRow: 0,
  perOutput: 0,
  perThinned: 0,
};

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
  /** Those of both areas that hold x, or y, and nothing else: a buffer of the caller's may stand in for them. */
  readonly own: readonly number[];
  /**
   * Where the state's slots are, in their order: h [rows, size] of an LRU as (re, im), the sum [rows, size] of a mean.
   */
  readonly states: readonly StateArea[];
  /** The areas of a piece's tables. */
  readonly tables: { readonly chunks: number; readonly rows: number; readonly wanted: number };
  /** The area of [rows] float32: what the pool stage divides by. */
  readonly counts: number;
  /** The area of [tokens] uint32: each token's timestep, as a row of the tables. */
  readonly times: number;
  /** The area that y and the states are copied to, to be read by the CPU. There are {@link READBACKS} of it. */
  readonly readback: number;
  readonly flopsPerToken: number;
  /** Rows must not be cut: states read them from both ends. */
  readonly whole: boolean;
  /** Timesteps that LRUs take as one: every row of a segment has so many, or a multiple. */
  readonly lift: number;
}

export interface StateArea {
  readonly area: number;
  /** Float32 values of a row. */
  readonly floats: number;
  /** In a plan with timesteps the area of lambda^Delta [values, size], for an LRU: there may be one for each token. */
  readonly table: number | undefined;
}

/**
 * Nothing is copied that is not repacked: the arrays must be uploaded before the caller can change them.
 * @param timed for tokens with integration timesteps
 * @param lift timesteps that LRUs take as one (see lifting.ts)
 * @param weights `noWeights` for a plan that only counts
 */
export function makePlan(program: Program, timed = false, lift = 1, weights = lruWeights): Plan {
  const areas: Area[] = [];
  const addArea = (area: Partial<Area>): number => areas.push({ ...noBytes, ...area }) - 1;
  const dState = Math.max(0, ...program.stages.map((stage) => (stage.kind === "lru" ? stage.dState : 0)));
  const scratch = {
    loc: addArea({ perToken: (8 * dState) / lift }),
    carry: addArea({ perChunk: 8 * dState }),
  };
  const tables = {
    chunks: addArea({ perChunk: 8 }),
    rows: addArea({ perRow: 16 }),
    wanted: addArea({ perChunk: 8, perThinned: 8 }),
  };
  const counts = addArea({ perRow: 4 });
  const times = addArea({ perToken: timed ? 4 : 0 });
  const carriers = stateLayout(program).slots;
  const states = carriers.map(({ stage, size }): StateArea => {
    const isComplex = stage.kind === "lru";
    const floats = isComplex ? 2 * size : size;
    const table = timed && isComplex ? addArea({ perToken: 4 * floats }) : undefined;
    return { area: addArea({ perRow: 4 * floats }), floats, table };
  });

  const slots = new SlotAreas(program, areas);
  const input = slots.take(0, "perToken");
  const dispatches: Dispatch[] = [];
  let pool: PoolStage | undefined;
  const lastLru = poolOf(program)
    ? program.stages.length
    : program.stages.reduce((last, { kind }, i) => (kind === "lru" ? i : last), -1);
  /** Leaves the wanted tokens in every slot that stage `from` or a later one reads. */
  const thin = (from: number, except?: number) => {
    if (poolOf(program)) return;
    for (const [slot, width] of program.slots.entries()) {
      if (slot === except || !isRead(program, slot, from)) continue;
      const temporary = addArea({ perThinned: 4 * width });
      dispatches.push(thinDispatch(width, { x: slots.areaOf(slot), temporary, wanted: tables.wanted }));
    }
  };
  if (lastLru < 0) thin(0);
  /** The dispatch and the slot of the matrix product that the stage before was: what comes next may become a part of it. */
  let product: { at: readonly number[]; slot: number } | undefined;
  program.stages.forEach((stage, index) => {
    const [x, other] = readsOf(stage).map((slot) => slots.areaOf(slot)) as [number, number?];
    if (stage.kind === "pool") pool = stage;
    const over = pool ? "rows" : index > lastLru ? "outputs" : undefined;
    const made = product;
    product = undefined;
    if (made) {
      const keeps = stage.dst !== made.slot && isRead(program, made.slot, index + 1);
      const both = made.at.map((at) => {
        const before = dispatches[at] as Dispatch;
        return before.over === over
          ? fused(before, stage, made.slot, (slot) => slots.areaOf(slot), keeps)
          : undefined;
      });
      if (both.every((dispatch) => dispatch !== undefined)) {
        const known = both.flatMap(({ arrays }) => arrays);
        if (!keeps) slots.rename(made.slot, stage.dst);
        else slots.write(index, pool ? "perRow" : "perToken", (area) => !known.includes(area));
        const y = slots.areaOf(stage.dst);
        for (const [i, at] of made.at.entries()) {
          const dispatch = both[i] as Dispatch;
          dispatches[at] = { ...dispatch, arrays: replaced(dispatch.arrays, 0, y) };
        }
        product = { at: made.at, slot: stage.dst };
        return;
      }
    }
    const y = slots.write(index, pool ? "perRow" : "perToken");
    const { area: state, table } = states[carriers.findIndex((slot) => slot.stage === stage)] ?? {};
    if (stage.kind === "lru") {
      const wanted = index === lastLru ? tables.wanted : undefined;
      const { rows, chunks } = tables;
      const areas = { y, u: x, state: state as number, rows, chunks, wanted, ...scratch };
      const own = lruDispatches(stage, areas, table === undefined ? table : { table, times }, lift, weights);
      // The last product: one of them runs.
      const at = own.flatMap(({ arrays }, i) => (arrays[0] === y ? [dispatches.length + i] : []));
      dispatches.push(...own);
      product = { at, slot: stage.dst };
      if (index === lastLru) thin(index + 1, stage.dst);
    } else if (stage.kind === "pool") {
      const sum = state ?? addArea({ perRow: 4 * stage.width });
      dispatches.push(poolDispatch(stage, { y, sum, x, rows: tables.rows, counts }));
    } else {
      if (stage.kind === "dense") product = { at: [dispatches.length], slot: stage.dst };
      dispatches.push({ ...localDispatch(stage, y, x, other), over });
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
    own: input === output ? [] : [input, output].filter((area) => !slots.shared.has(area)),
    states,
    tables,
    counts,
    times,
    readback: addArea(pool ? { perRow: stateBytes + yBytes } : { perRow: stateBytes, perOutput: yBytes }),
    flopsPerToken: flopsPerToken(program) + liftingFlops(program, lift),
    whole: lruStages(program).some(({ backward }) => backward !== undefined),
    lift,
  };
}

/** Which area holds which slot, from stage to stage. */
export class SlotAreas {
  readonly #program: Program;
  readonly #areas: Area[];
  /** Areas for slots, apart from those for anything else. */
  readonly #own = { perToken: [] as number[], perRow: [] as number[] };
  readonly #areaOf = new Map<number, number>();
  /** Areas that have held more than one slot. */
  readonly shared = new Set<number>();

  constructor(program: Program, areas: Area[]) {
    this.#program = program;
    this.#areas = areas;
  }

  areaOf(slot: number): number {
    const area = this.#areaOf.get(slot);
    if (area === undefined) throw new Error(`slot ${slot} is read before it is written`);
    return area;
  }

  /** What was in one slot, and nobody needs there, is in another. */
  rename(from: number, to: number): void {
    this.#areaOf.set(to, this.areaOf(from));
  }

  /** An area for what stage `index` writes: none that it reads, and none that is read later. */
  write(index: number, per: "perToken" | "perRow", isFree: (area: number) => boolean = () => true): number {
    const needed = new Set<number>();
    for (const [slot, area] of this.#areaOf) if (isRead(this.#program, slot, index)) needed.add(area);
    const { dst } = this.#program.stages[index] as Stage;
    return this.take(dst, per, (area) => !needed.has(area) && isFree(area));
  }

  take(slot: number, per: "perToken" | "perRow", isFree: (area: number) => boolean = () => false): number {
    let index = this.#own[per].find(isFree);
    if (index !== undefined) this.shared.add(index);
    else {
      index = this.#areas.push({ ...noBytes }) - 1;
      this.#own[per].push(index);
    }
    const area = this.#areas[index] as Area;
    area[per] = Math.max(area[per], 4 * slotWidth(this.#program, slot));
    this.#areaOf.set(slot, index);
    return index;
  }
}

/** Bytes of an area for a segment. */
export function areaBytes(area: Readonly<Area>, { rows, chunks, tokens, outputs, thinned }: Segment): number {
  return (
    area.fixed +
    area.perToken * tokens +
    area.perChunk * chunks +
    area.perRow * rows +
    area.perOutput * outputs +
    area.perThinned * thinned
  );
}
