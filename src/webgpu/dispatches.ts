/** Each stage as dispatches of kernels, its parameters packed as the kernels read them. */
import { eigenvalues, normalizedB, powerIm, powerRe } from "../params.js";
import type { LruStage, PoolStage, Stage, WindowStage } from "../program.js";
import { factorOf } from "./epilogue.js";
import { liftedWeights } from "./lifting.js";
import { GROUP, type KernelName, type Segment, segmentOf } from "./pipelines.js";
import { plainTile, T, type Tile, tilesOver } from "./tiles.js";

export type Over = "tokens" | "outputs" | "rows";

/** One dispatch: its kernel, the words of its `sizes`, and its arrays in binding order: the number of an area, or weights. */
export interface Dispatch {
  readonly kernel: KernelName;
  readonly sizes: readonly number[];
  readonly arrays: readonly (number | Float32Array)[];
  readonly workgroups: (segment: Segment, tile?: Tile) => number;
  /**
   * What it runs on, if not the segment's tokens: those of them that give an output; or, once after a row's last segment,
   * one token for each row, since it follows a pool stage.
   */
  readonly over?: Over | undefined;
  /** What the stages after it, which work element by element, do to what it stores (see {@link fused}). */
  readonly epilogue?: readonly string[];
  /** Run only where each row is one chunk and no tokens are thinned (true), or only where that is not so. */
  readonly single?: boolean | undefined;
  /** Each part of a state is a state by itself. */
  readonly real?: boolean;
  /** Some states, the last ones, read rows from their ends: the last of `sizes` is the first of them. */
  readonly back?: boolean;
  /** Run only where the tokens are thinned, and its result is then copied to this area: `bytes` for each output. */
  readonly into?: { readonly area: number; readonly bytes: number } | undefined;
}

/** What a segment's dispatches run on. */
export function segmentsOf(tokens: Segment, isThinned: boolean): Record<Over, Segment> {
  const all = { ...tokens, thinned: 0 };
  const outputs = isThinned ? { ...segmentOf(1, tokens.outputs), thinned: tokens.outputs } : all;
  return { tokens: all, outputs, rows: segmentOf(tokens.rows, 1) };
}

/** The dispatches that a segment takes, and what each runs on: those of the rows only if it is their last. */
export function* scheduled<D extends Pick<Dispatch, "over" | "single" | "into" | "workgroups">>(
  dispatches: readonly D[],
  tokens: Segment,
  isLast: boolean,
  isThinned: boolean,
): Generator<{ dispatch: D; index: number; on: Segment }, void> {
  const segments = segmentsOf(tokens, isThinned);
  const isSingle = tokens.chunks === tokens.rows && !isThinned;
  for (const [index, dispatch] of dispatches.entries()) {
    if ((dispatch.single ?? isSingle) !== isSingle) continue;
    const on = segments[dispatch.over ?? "tokens"];
    if (on.tokens === 0 || (dispatch.over === "rows" ? !isLast : dispatch.into && !isThinned)) continue;
    if (dispatch.workgroups(on) === 0) continue;
    yield { dispatch, index, on };
  }
}

/**
 * Features of a layer whose single chunks take one dispatch: the columns of y that a workgroup of as many threads as every device has
 * (maxComputeInvocationsPerWorkgroup, 256) keeps in their registers, eight timesteps each. No second workgroup can have others: it
 * would read the state that the first one writes. A wider layer's products are done sooner by many workgroups.
 */
const ONE_CHUNK_WIDTH = 64;

/** A layer's parameters as its kernels read them. */
export function lruWeights(
  stage: LruStage,
  timed: boolean,
  lift: number,
): Record<"B" | "C" | "D" | "powers" | "jumps", Float32Array> {
  const plain = () => ({ B: packB(stage), C: packC(stage), D: stage.params.D });
  return {
    ...(lift > 1 ? liftedWeights(stage, lift) : plain()),
    powers: timed ? new Float32Array(2 * T * stage.dState) : powerTable(stage, T, (k) => lift * (k + 1)),
    jumps: timed ? none : jumpTable(stage, lift),
  };
}

const none = new Float32Array(0);

/** In their place where nothing is to be run: what a plan counts does not depend on them. */
export const noWeights: typeof lruWeights = () => ({ B: none, C: none, D: none, powers: none, jumps: none });

/**
 * Three dispatches (products with local scans, carries, outputs), or fewer: where no row has a second chunk, the first does what
 * is left of the second, and of a narrow layer (see {@link ONE_CHUNK_WIDTH}) a fourth does all that the others do. With a table of
 * lambda^Delta and the tokens' timesteps (`times`), lambda in the first is 0, so that loc is bu, and the second makes it h, with no
 * carry left for the third to add.
 */
export function lruDispatches(
  stage: LruStage,
  area: {
    y: number;
    u: number;
    loc: number;
    carry: number;
    state: number;
    rows: number;
    chunks: number;
    /** What the output reads in place of `chunks`, if it is the program's last LRU. */
    wanted: number | undefined;
  },
  timed?: { table: number; times: number },
  lift = 1,
  weights = lruWeights,
): Dispatch[] {
  const { dState, params } = stage;
  const dModel = lift * stage.dModel;
  const { y, u, loc, carry, state, rows, chunks, wanted } = area;
  const { B, C, D, powers, jumps } = weights(stage, timed !== undefined, lift);
  const real = params.nuLogIm !== undefined;
  const back = stage.backward !== undefined;
  const first = dState - (stage.backward ?? 0);
  const whole = !timed && lift === 1 && !back && dModel <= ONE_CHUNK_WIDTH;
  const over = wanted === undefined ? undefined : "outputs";
  const single = whole ? false : undefined;
  const dispatches: Dispatch[] = [
    {
      kernel: "projectScan",
      single,
      ...{ real, back },
      sizes: [dModel, dState, timed ? 0 : 1, first],
      arrays: [loc, carry, state, u, B, powers, chunks],
      workgroups: ({ chunks }, tile = plainTile) => tilesOver(tile, chunks, dState),
    },
    timed
      ? {
          kernel: "timedScan",
          real,
          sizes: [dState],
          arrays: [loc, carry, state, timed.table, timed.times, rows, chunks],
          workgroups: ({ rows }) => rows * Math.ceil(dState / 64),
        }
      : {
          kernel: "carryScan",
          ...{ real, back },
          sizes: [dState, first],
          arrays: [carry, state, loc, powers, jumps, rows, chunks],
          workgroups: ({ rows, chunks }) => (chunks === rows ? 0 : rows * Math.ceil(dState / 4)),
        },
    {
      kernel: lift > 1 ? "liftedOutput" : "output",
      single,
      ...{ real, back },
      sizes: [dModel, dState, stage.dModel, first],
      arrays: [y, loc, carry, powers, C, D, u, wanted ?? chunks],
      workgroups: ({ chunks }, tile = plainTile) => tilesOver(tile, chunks, dModel),
      over,
    },
  ];
  if (whole) {
    dispatches.push({
      ...{ kernel: "oneChunk", real, single: true, sizes: [dModel, dState], over },
      arrays: [y, state, u, B, powers, C, D, chunks],
      workgroups: ({ rows }) => rows,
    });
  }
  return dispatches;
}

/** lambda^(T j), j to GROUP; then of those with j = 1, 2, 4, ... GROUP what they lost when they were rounded. */
function jumpTable(stage: LruStage, lift: number): Float32Array {
  const { dState } = stage;
  const exponent = (j: number) => lift * T * (j <= GROUP ? j : 2 ** (j - GROUP - 1));
  const table = powerTable(stage, GROUP + 2 + Math.log2(GROUP), exponent);
  const eigen = eigenvalues(stage.params);
  for (let at = 2 * (GROUP + 1) * dState; at < table.length; at += 2) {
    const n = (at / 2) % dState;
    const j = Math.floor(at / 2 / dState);
    table[at] = powerRe(eigen, n, exponent(j)) - (table[at] as number);
    table[at + 1] = powerIm(eigen, n, exponent(j)) - (table[at + 1] as number);
  }
  return table;
}

/** lambda^exponent(i) as [count, dState] of (re, im): derived in float64 and rounded once. */
function powerTable(stage: LruStage, count: number, exponent: (i: number) => number): Float32Array {
  const eigen = eigenvalues(stage.params);
  const table = new Float32Array(2 * count * stage.dState);
  for (let i = 0, at = 0; i < count; i++) {
    for (let n = 0; n < stage.dState; n++) {
      table[at++] = powerRe(eigen, n, exponent(i));
      table[at++] = powerIm(eigen, n, exponent(i));
    }
  }
  return table;
}

/** B_norm [dState, dModel] as [dModel, dState] of (re, im): the threads of a workgroup are states, side by side. */
function packB({ dModel, dState, params }: LruStage): Float32Array {
  const { re, im } = normalizedB(params);
  const packed = new Float32Array(2 * dModel * dState);
  for (let j = 0, at = 0; j < dModel; j++) {
    for (let n = 0; n < dState; n++) {
      packed[at++] = re[n * dModel + j] as number;
      packed[at++] = im[n * dModel + j] as number;
    }
  }
  return packed;
}

/** C [dModel, dState] as [dState, dModel] of (re, -im) */
function packC({ dModel, dState, params }: LruStage): Float32Array {
  const packed = new Float32Array(2 * dModel * dState);
  for (let n = 0, at = 0; n < dState; n++) {
    for (let j = 0; j < dModel; j++) {
      packed[at++] = params.CRe[j * dState + n] as number;
      packed[at++] = -(params.CIm[j * dState + n] as number);
    }
  }
  return packed;
}

export function poolDispatch(
  { width, mode }: PoolStage,
  area: { y: number; sum: number; x: number; rows: number; counts: number },
): Dispatch {
  return {
    kernel: "pool",
    sizes: [width, ["mean", "last", "max"].indexOf(mode)],
    arrays: [area.y, area.sum, area.x, area.rows, area.counts],
    workgroups: ({ rows }) => rows * Math.ceil(width / 16),
  };
}

/** Its arrays: y, x, what is held from before, and a table of the windows, which it runs on as if they were tokens. */
export function windowDispatch({ width, mode, factor }: WindowStage): Dispatch {
  return {
    kernel: "window",
    sizes: [width, Number(mode === "max"), mode === "stride" ? 1 : factor],
    arrays: [0, 1, 2, 3],
    workgroups: ({ tokens }) => Math.ceil((tokens * width) / 64),
  };
}

/** Leaves only the wanted tokens of an area. */
export function thinDispatch(
  width: number,
  area: { x: number; temporary: number; wanted: number },
): Dispatch {
  return {
    kernel: "copyRows",
    sizes: [width],
    arrays: [area.temporary, area.x, area.wanted],
    workgroups: ({ tokens }) => Math.ceil((tokens * width) / 64),
    over: "outputs",
    into: { area: area.x, bytes: 4 * width },
  };
}

/** A stage that needs nothing but its token. `other` is the area of the second slot that it reads, if it reads two. */
export function localDispatch(
  stage: Exclude<Stage, LruStage | PoolStage>,
  y: number,
  x: number,
  other = x,
): Dispatch {
  const kernel = stage.kind === "rmsNorm" ? "layerNorm" : stage.kind;
  if (stage.kind === "dense") {
    const { inWidth, outWidth, bias } = stage;
    return {
      kernel,
      sizes: [inWidth, outWidth],
      arrays: [y, x, stage.kernel, new Float32Array(outWidth).map((_, o) => bias?.[o % bias.length] ?? 0)],
      workgroups: ({ tokens }, tile = plainTile) => tilesOver(tile, Math.ceil(tokens / T), outWidth),
    };
  }
  const { width } = stage;
  const elementwise = ({ tokens }: Segment): number => Math.ceil((tokens * width) / 64);
  switch (stage.kind) {
    case "embedding":
      return {
        kernel,
        sizes: [width, stage.vocabulary],
        arrays: [y, x, stage.table],
        workgroups: elementwise,
      };
    case "layerNorm":
    case "rmsNorm": {
      const bias = stage.kind === "layerNorm" ? stage.bias : new Float32Array(width);
      return {
        kernel,
        sizes: [width, floatBits(stage.epsilon), Number(stage.kind === "layerNorm")],
        arrays: [y, x, stage.scale, bias],
        workgroups: ({ tokens }) => tokens,
      };
    }
    case "batchNorm": {
      const arrays = [y, x, stage.mean, factorOf(stage), stage.bias];
      return { kernel, sizes: [width], arrays, workgroups: elementwise };
    }
    case "gelu":
      return { kernel, sizes: [width, Number(stage.exact ?? 0)], arrays: [y, x], workgroups: elementwise };
    case "glu":
      return {
        kernel,
        sizes: [width, Number(stage.silu ?? 0)],
        arrays: [y, x, other],
        workgroups: elementwise,
      };
    case "add":
      return { kernel, sizes: [width], arrays: [y, x, other], workgroups: elementwise };
    case "logSoftmax": {
      const groups = width / stage.group;
      return {
        kernel,
        sizes: [width, stage.group],
        arrays: [y, x],
        workgroups: ({ tokens }) => Math.ceil((tokens * groups) / 64),
      };
    }
  }
}

/** The word that a shader reads as this float32. */
function floatBits(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0] as number;
}
