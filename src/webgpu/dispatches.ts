/** Each stage as dispatches of kernels, its parameters packed as the kernels read them. */
import { eigenvalues, normalizedB, powerIm, powerRe } from "../params.js";
import type { LruStage, PoolStage, Stage } from "../program.js";
import { GROUP, type KernelName, type Segment, segmentOf, T } from "./pipelines.js";

export type Over = "tokens" | "outputs" | "rows";

/** One dispatch: its kernel, the words of its `sizes`, and its arrays in binding order: the number of an area, or weights. */
export interface Dispatch {
  readonly kernel: KernelName;
  readonly sizes: readonly number[];
  readonly arrays: readonly (number | Float32Array)[];
  readonly workgroups: (segment: Segment) => number;
  /**
   * What it runs on, if not the segment's tokens: those of them that give an output; or, once after a row's last segment,
   * one token for each row, since it follows a pool stage.
   */
  readonly over?: Over | undefined;
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
export function* scheduled<D extends Pick<Dispatch, "over" | "into">>(
  dispatches: readonly D[],
  tokens: Segment,
  isLast: boolean,
  isThinned: boolean,
): Generator<{ dispatch: D; index: number; on: Segment }, void> {
  const segments = segmentsOf(tokens, isThinned);
  for (const [index, dispatch] of dispatches.entries()) {
    const on = segments[dispatch.over ?? "tokens"];
    if (on.tokens === 0 || (dispatch.over === "rows" ? !isLast : dispatch.into && !isThinned)) continue;
    yield { dispatch, index, on };
  }
}

/**
 * The three dispatches of DESIGN section 5. With a table of lambda^Delta and the tokens' timesteps (`times`), lambda in the
 * first is 0, so that loc is bu, and the second makes it h, with no carry left for the third to add.
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
): Dispatch[] {
  const { dModel, dState, params } = stage;
  const { y, u, loc, carry, state, rows, chunks, wanted } = area;
  const powers = timed ? new Float32Array(2 * T * dState) : powerTable(stage, T, (k) => k + 1);
  return [
    {
      kernel: "projectScan",
      sizes: [dModel, dState],
      arrays: [loc, carry, u, packB(stage), powers, chunks],
      workgroups: ({ chunks }) => chunks * Math.ceil(dState / 64),
    },
    timed
      ? {
          kernel: "timedScan",
          sizes: [dState],
          arrays: [loc, carry, state, timed.table, timed.times, rows, chunks],
          workgroups: ({ rows }) => rows * Math.ceil(dState / 64),
        }
      : {
          kernel: "carryScan",
          sizes: [dState],
          arrays: [carry, state, loc, powers, powerTable(stage, GROUP + 1, (j) => j * T), rows, chunks],
          workgroups: ({ rows }) => rows * Math.ceil(dState / 8),
        },
    {
      kernel: "output",
      sizes: [dModel, dState],
      arrays: [y, loc, carry, powers, packC(stage), params.D, u, wanted ?? chunks],
      workgroups: ({ chunks }) => chunks * Math.ceil(dModel / 64),
      over: wanted === undefined ? undefined : "outputs",
    },
  ];
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
      workgroups: ({ tokens }) => Math.ceil(tokens / T) * Math.ceil(outWidth / 64),
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
      const { mean, variance, scale, bias, epsilon } = stage;
      const factor = scale.map((s, j) => s / Math.sqrt((variance[j] as number) + epsilon));
      return { kernel, sizes: [width], arrays: [y, x, mean, factor, bias], workgroups: elementwise };
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
