/**
 * A program as the kernels read it: weights in panels, tables of lambda powers, and the plan of a tile's working memory.
 * All addresses are offsets, from the image's start or the scratch block's, so that any thread can place it anywhere.
 */
import { eigenvalues, normalizedB, powerIm, powerRe } from "../params.js";
import {
  flopsPerToken,
  inputWidth,
  isRead,
  type LruStage,
  outputWidth,
  type Program,
  poolOf,
  type Stage,
  vocabularyOf,
} from "../program.js";
import { CHUNK, groupIndex, type StateLayout, stateLayout } from "../state.js";

interface Slots {
  readonly src: number;
  readonly dst: number;
}

/** Offsets into the image of a stage's tables; widths are padded to a multiple of 4 unless they count inputs. */
export type PackedStage =
  | (Slots & {
      readonly kind: "lru";
      readonly dModel: number;
      readonly outWidth: number;
      readonly groups: number;
      /** Each part of a state is a state by itself. */
      readonly real: boolean;
      readonly B: number;
      /** [groups, 8] float32: what a state starts anew from. */
      readonly zeros: number;
      readonly lambdaT: number;
      /** The first one is lambda itself. */
      readonly powers: number;
      /** [groups, nu x 4 | high x 4 | low x 4] float64: theta in turns is high + low, high a float32. If real, of either part. */
      readonly rates: number;
      readonly C: number;
      readonly D: number;
      /** Offsets in a row's state block, and which of the program's carries this is. */
      readonly carry: number;
      readonly loc: number;
      readonly carryIndex: number;
    })
  | (Slots & { readonly kind: "embedding"; readonly vocabulary: number; readonly table: number })
  | (Slots & {
      readonly kind: "dense";
      readonly inWidth: number;
      readonly outWidth: number;
      readonly W: number;
      readonly b: number;
      readonly ones: number;
    })
  | (Slots & {
      readonly kind: "layerNorm";
      /** Or rmsNorm. */
      readonly centred: boolean;
      readonly width: number;
      readonly epsilon: number;
      readonly scale: number;
      readonly bias: number;
    })
  | (Slots & {
      readonly kind: "batchNorm";
      readonly mean: number;
      readonly factor: number;
      readonly bias: number;
    })
  | (Slots & { readonly kind: "gelu"; readonly exact: boolean })
  | (Slots & { readonly kind: "glu"; readonly gate: number; readonly silu: boolean })
  | (Slots & { readonly kind: "add"; readonly other: number })
  | (Slots & {
      readonly kind: "poolAll";
      readonly isMax: boolean;
      /** [width] float64: what the carry is of no token. */
      readonly empty: number;
      readonly carry: number;
      readonly loc: number;
      readonly carryIndex: number;
    })
  | (Slots & { readonly kind: "poolLast" })
  | (Slots & { readonly kind: "logSoftmax"; readonly width: number; readonly group: number });

export type StageOf<Kind extends PackedStage["kind"]> = Extract<PackedStage, { kind: Kind }>;

/** Offsets in a thread's scratch block, for tiles of up to `tileTokens`. */
export interface Scratch {
  readonly slots: readonly number[];
  /** loc, then h, of the LRU stage under way */
  readonly h: number;
  /** the carry into each chunk of the tile, or a pool's chunk sums */
  readonly carries: number;
  /** carry, then loc, of an LRU stage that starts anew in the tile */
  readonly fresh: number;
  /** What `timedScan` works in. */
  readonly lambdas: number;
  readonly bytes: number;
}

/** Timesteps whose lambda^Delta are kept at a time, as in assembly/timedScan.ts. */
const TIMED_TABLES = 8;

export interface PackedProgram {
  readonly stages: readonly PackedStage[];
  readonly layout: { readonly rowBytes: number; readonly carries: number };
  /** Width of each slot, padded to a multiple of 4, but for a slot of token ids: 1. */
  readonly slots: readonly number[];
  readonly inputWidth: number;
  readonly outputWidth: number;
  readonly output: number;
  readonly pooled: boolean;
  /** The last stage that carries state: what follows is done only for tokens that give an output. -1 if there is none. */
  readonly lastCarry: number;
  /** The slots that it or a later stage reads. */
  readonly live: readonly number[];
  /** Whether it is one LRU between the caller's x and y: tiles of a row can follow each other without a word from the host. */
  readonly whole: boolean;
  /** Tokens of a tile, a multiple of CHUNK. Where resets move its ends, it may have up to CHUNK - 1 more. */
  readonly tileTokens: number;
  readonly scratch: Scratch;
  readonly image: Uint8Array<ArrayBuffer>;
}

/**
 * Tiles that follow each other through shared memory are small, to be fast to reach in a cache of 1 MiB that weights and the
 * next tokens share; but a narrow program's have work for 0.1 ms, for a tile's calls from JavaScript not to show.
 */
const CACHE_BYTES = 96 * 1024;
const MOST_CACHE_BYTES = 512 * 1024;
const TILE_FLOPS = 4e6;

/** Of the stages that a program may have beside LRUs and sums: see packStage.ts. */
export type PackStage = (stage: Stage, image: ImageWriter, layout: StateLayout) => PackedStage;

/** @param pack for a model's program */
export function packProgram(program: Program, pack?: PackStage): PackedProgram {
  const image = new ImageWriter();
  const layout = stateLayout(program);
  const stages = program.stages.map((stage) => {
    if (stage.kind === "lru") return packLru(stage, image, layout);
    const { kind, src, dst } = stage;
    if (kind === "add") return { kind, src, dst, other: stage.other };
    return (pack as PackStage)(stage, image, layout);
  });
  const [first] = stages;
  const slots = program.slots.map(pad4);
  if (vocabularyOf(program)) slots[0] = 1;
  const lastCarry = stages.reduce((last, stage, i) => ("carry" in stage ? i : last), -1);
  return {
    stages,
    layout: { rowBytes: layout.rowBytes, carries: layout.slots.length },
    slots,
    inputWidth: inputWidth(program),
    outputWidth: outputWidth(program),
    output: program.output,
    pooled: poolOf(program) !== undefined,
    lastCarry,
    whole: stages.length === 1 && first?.kind === "lru" && !first.real && first.dModel === first.outWidth,
    live: [...slots.keys()].filter((slot) => isRead(program, slot, Math.max(0, lastCarry))),
    ...planTiles({ slots, stages }, cacheBytes(program, slots, stages)),
    image: image.bytes(),
  };
}

/**
 * The largest tiles whose activations take no more than `most` bytes.
 * @param apart bytes of a token beside its activations
 */
export function planTiles(
  { slots, stages }: Pick<PackedProgram, "slots" | "stages">,
  most: number,
  apart = 0,
): Pick<PackedProgram, "tileTokens" | "scratch"> {
  const token = tokenBytes(slots, stages);
  const chunks = Math.floor(most / (token.slots + token.h + apart) / CHUNK);
  const tileTokens = CHUNK * Math.max(chunks, 1);
  return { tileTokens, scratch: planScratch(slots, stages, tileTokens) };
}

function cacheBytes(program: Program, slots: readonly number[], stages: readonly PackedStage[]): number {
  const token = tokenBytes(slots, stages);
  const enough = ((token.slots + token.h) * TILE_FLOPS) / flopsPerToken(program);
  return Math.min(Math.max(enough, CACHE_BYTES), MOST_CACHE_BYTES);
}

export function pad4(width: number): number {
  return Math.ceil(width / 4) * 4;
}

/** Where a stage's state is. */
export function carryOf(
  stage: Stage,
  layout: StateLayout,
): { carry: number; loc: number; carryIndex: number } {
  const carryIndex = layout.slots.findIndex((slot) => slot.stage === stage);
  const slot = layout.slots[carryIndex];
  if (!slot) throw new Error(`stage ${stage.name} carries no state`);
  return { carry: slot.carry, loc: slot.loc, carryIndex };
}

/** Each so many powers of lambda one is derived, the last of a chunk among them. */
const DERIVED = 8;

function packLru(stage: LruStage, image: ImageWriter, layout: StateLayout): PackedStage {
  const { dModel, dState, params } = stage;
  const groups = pad4(dState) / 4;
  const eigen = eigenvalues(params);
  // Plain loops: a page's first layer is packed before its code has been optimised.
  const { re: BRe, im: BIm } = normalizedB(params);
  const panelB = new Float32Array(groups * dModel * 8);
  for (let n = 0, from = 0; n < dState; n++) {
    const end = from + dModel;
    for (let at = (n >> 2) * dModel * 8 + (n & 3); from < end; from++, at += 8) {
      panelB[at] = BRe[from] as number;
      panelB[at + 4] = BIm[from] as number;
    }
  }
  // [groups][re x 4 | im x 4] of each power; 0 for the states that only pad the last group
  const { nuIm } = eigen;
  const powers = new Float32Array(CHUNK * groups * 8);
  const lambdaT = new Float64Array(groups * 8);
  for (let n = 0; n < dState; n++) {
    const [lr, li] = [powerRe(eigen, n, 1), powerIm(eigen, n, 1)];
    let re = 1;
    let im = nuIm ? 1 : 0;
    for (let k = 1, at = groupIndex(n); k <= CHUNK; k++, at += groups * 8) {
      // Between two that are derived they are products, in float64 too: to derive each takes a page's first layer longer.
      if (k % DERIVED === 0) {
        re = powerRe(eigen, n, k);
        im = powerIm(eigen, n, k);
      } else {
        const last = re;
        re = nuIm ? last * lr : last * lr - im * li;
        im = nuIm ? im * li : last * li + im * lr;
      }
      powers[at] = re;
      powers[at + 4] = im;
    }
    lambdaT[groupIndex(n)] = re;
    lambdaT[groupIndex(n) + 4] = im;
  }

  const width = nuIm ? 24 : 12;
  const rates = new Float64Array(groups * width);
  for (let n = 0; n < dState; n++) {
    const at = width * (n >> 2) + (n & 3);
    if (nuIm) rates[at + 12] = Math.min(nuIm[n] as number, 1e300);
    const turns = (eigen.theta[n] as number) / (2 * Math.PI);
    rates[at] = Math.min(eigen.nu[n] as number, 1e300); // infinite where |lambda| = 0, and lambda^0 is 1
    rates[at + 4] = Math.fround(turns);
    rates[at + 8] = turns - Math.fround(turns);
  }

  const { CRe, CIm } = params;
  /** [C_re | -C_im], the rows in the order of h's groups */
  const C = image.panels(groups * 8, dModel, (panels, o, at, stride) => {
    for (let n = 0; n < dState; n++) {
      const row = at + groupIndex(n) * stride;
      panels[row] = CRe[o * dState + n] as number;
      panels[row + 4 * stride] = -(CIm[o * dState + n] as number);
    }
  });
  return {
    kind: "lru",
    src: stage.src,
    dst: stage.dst,
    dModel,
    outWidth: pad4(dModel),
    groups,
    real: nuIm !== undefined,
    B: image.append(panelB),
    zeros: image.append(new Float32Array(groups * 8)),
    lambdaT: image.append(lambdaT),
    powers: image.append(powers),
    rates: image.append(rates),
    C,
    D: image.padded(params.D),
    ...carryOf(stage, layout),
  };
}

/** Bytes of one token in the slots, in h, and (per chunk) in the carries. */
function tokenBytes(
  slots: readonly number[],
  stages: readonly PackedStage[],
): { slots: number; h: number; carries: number } {
  let h = 0;
  let carries = 0;
  for (const stage of stages) {
    if (stage.kind === "lru") {
      h = Math.max(h, stage.groups * 32);
      carries = Math.max(carries, stage.groups * 32);
    } else if (stage.kind === "poolAll") {
      carries = Math.max(carries, (slots[stage.src] as number) * 8);
    }
  }
  return { slots: slots.reduce((sum, width) => sum + 4 * width, 0), h, carries };
}

function planScratch(slots: readonly number[], stages: readonly PackedStage[], tileTokens: number): Scratch {
  const bytes = tokenBytes(slots, stages);
  const rows = tileTokens + CHUNK;
  let end = 0;
  const take = (size: number) => {
    const start = end;
    end += Math.ceil(size / 128) * 128;
    return start;
  };
  return {
    slots: slots.map((width) => take(4 * width * rows)),
    h: take(bytes.h * rows),
    // One chunk more than tileTokens / CHUNK: a tile that starts inside a chunk may touch one more.
    carries: take(bytes.carries * (tileTokens / CHUNK + 1)),
    fresh: take(3 * bytes.h),
    lambdas: take(TIMED_TABLES * (4 * bytes.h + 4)),
    bytes: end,
  };
}

/** Builds the image: blocks on 64-byte lines, in the order they are written. */
export class ImageWriter {
  readonly #blocks: { at: number; bytes: Uint8Array }[] = [];
  #end = 0;

  append(values: Float32Array | Float64Array): number {
    const at = this.#end;
    this.#blocks.push({ at, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) });
    this.#end = Math.ceil((at + values.byteLength) / 64) * 64;
    return at;
  }

  floats(length: number, value: (i: number) => number): number {
    return this.append(Float32Array.from({ length }, (_, i) => value(i)));
  }

  padded(values: Float32Array): number {
    return this.floats(pad4(values.length), (i) => values[i] ?? 0);
  }

  /**
   * Panels of 8 columns, [rows, 8] each, the last one [rows, 4] where that is enough; columns past `columns` are 0.
   * @param write a column, whose first row is at `at` and whose next ones follow at `stride`
   */
  panels(
    rows: number,
    columns: number,
    write: (panels: Float32Array, column: number, at: number, stride: number) => void,
  ): number {
    const panels = new Float32Array(rows * pad4(columns));
    for (let column = 0; column < columns; column++) {
      const within = column % 8;
      const first = column - within;
      write(panels, column, rows * first + within, Math.min(8, pad4(columns) - first));
    }
    return this.append(panels);
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#end);
    for (const block of this.#blocks) all.set(block.bytes, block.at);
    return all;
  }
}
