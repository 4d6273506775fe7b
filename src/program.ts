/**
 * A model as data: a list of stages over named buffers ("slots"). Every backend runs programs and nothing else;
 * a new architecture is a new way to build one, not new code in a backend.
 *
 * A slot holds [tokens, width] float32 activations. Slot 0 is the input x: where an `embedding` comes first, it has one
 * int32 token id for each token instead. All stages are local in time, except
 * `lru` and `pool`, which carry a state from token to token. After a `pool` stage there is one row for each sequence.
 *
 * A network is the same with stages that change how many rows there are to a token; `rates.ts` takes it apart into programs.
 */
import type { Tensor } from "./tensor.js";

/** What a model reads: features, or token ids where its first stage is an embedding. */
export type Input = Float32Array | Int32Array;

export type BackendName = "reference" | "wasm" | "webgpu";

/** A layer's own parameters as its checkpoint has them, row-major float32. */
export interface LruParams {
  /** [dState]; |lambda| = exp(-exp(nuLog)) */
  nuLog: Float32Array;
  /** [dState]; arg lambda = exp(thetaLog) radians. Give this or `theta`. */
  thetaLog?: Float32Array | undefined;
  /** [dState]; arg lambda in radians, not logged (may be negative). Give this or `thetaLog`. */
  theta?: Float32Array | undefined;
  /** [dState]; B_norm = exp(gammaLog) * (BRe + i BIm), row by row */
  gammaLog: Float32Array;
  /** [dState, dModel] */
  BRe: Float32Array;
  /** [dState, dModel] */
  BIm: Float32Array;
  /** [dModel, dState] */
  CRe: Float32Array;
  /** [dModel, dState] */
  CIm: Float32Array;
  /** [dModel] */
  D: Float32Array;
}

/** What the states of a part of a layer are to the layer: see `halves.ts`. */
export interface Share {
  readonly layer: LruStage;
  /** Itself; the real or the imaginary part of two states, as the parts of one; what a conjugate is off by. */
  readonly as: "state" | "re" | "im" | "deviation";
  /** The layer's states. */
  readonly states: readonly number[];
  /** Of each that may deviate, whose conjugate it should be. */
  readonly of?: readonly number[];
}

/** As a backend reads them. */
export interface StageParams extends LruParams {
  /** [dState]: each part of a state is a real state, and this is nuLog of the imaginary ones. theta is 0. */
  readonly nuLogIm?: Float32Array;
}

interface StageBase {
  /** Where it comes from in the checkpoint, for people: "encoder.layers_0.seq". */
  readonly name: string;
  /** The slot it reads. */
  readonly src: number;
  /** The slot it writes. Equal to `src` only for stages that work element by element or row by row. */
  readonly dst: number;
}

/** dst = table[src]: the first stage of a program whose x are token ids. src is slot 0, of width 1. */
export interface EmbeddingStage extends StageBase {
  readonly kind: "embedding";
  readonly width: number;
  /** Rows of the table: ids are 0 to vocabulary - 1. */
  readonly vocabulary: number;
  /** [vocabulary, width] row-major */
  readonly table: Float32Array;
}

/** h[t] = lambda * h[t-1] + B_norm u[t]; y[t] = Re(C h[t]) + D * u[t]. dst differs from src. */
export interface LruStage extends StageBase {
  readonly kind: "lru";
  readonly dModel: number;
  readonly dState: number;
  readonly params: StageParams;
  /** Of a part of a layer: a user sees the layer's states. */
  readonly share?: Share;
  /** So many states, the last ones, read each row from its last token back. For "webgpu" alone; see `bothWays.ts`. */
  readonly backward?: number;
}

/** dst = src * kernel + bias. dst differs from src. */
export interface DenseStage extends StageBase {
  readonly kind: "dense";
  readonly inWidth: number;
  readonly outWidth: number;
  /** [inWidth, outWidth] row-major */
  readonly kernel: Float32Array;
  /** [outWidth], or shorter and repeated (a transposed convolution's), or null for none */
  readonly bias: Float32Array | null;
}

/** Row by row: (x - mean) / sqrt(variance + epsilon) * scale + bias, biased variance. */
export interface LayerNormStage extends StageBase {
  readonly kind: "layerNorm";
  readonly width: number;
  readonly scale: Float32Array;
  readonly bias: Float32Array;
  readonly epsilon: number;
}

/** Row by row: x / sqrt(mean(x^2) + epsilon) * scale. */
export interface RmsNormStage extends StageBase {
  readonly kind: "rmsNorm";
  readonly width: number;
  readonly scale: Float32Array;
  readonly epsilon: number;
}

/** Column by column, with stored statistics: (x - mean) / sqrt(variance + epsilon) * scale + bias. */
export interface BatchNormStage extends StageBase {
  readonly kind: "batchNorm";
  readonly width: number;
  readonly mean: Float32Array;
  readonly variance: Float32Array;
  readonly scale: Float32Array;
  readonly bias: Float32Array;
  readonly epsilon: number;
}

/** x * Phi(x), in its tanh form 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) or by erf. */
export interface GeluStage extends StageBase {
  readonly kind: "gelu";
  readonly width: number;
  /** 0.5 x (1 + erf(x / sqrt(2))) */
  readonly exact?: boolean;
}

/** dst = src * sigmoid(gate): SiLU where gate is src. Or dst = src * SiLU(gate) = src * gate * sigmoid(gate). */
export interface GluStage extends StageBase {
  readonly kind: "glu";
  readonly width: number;
  readonly gate: number;
  readonly silu?: boolean;
}

/** dst = src + other. */
export interface AddStage extends StageBase {
  readonly kind: "add";
  readonly width: number;
  readonly other: number;
}

/** One row for each sequence: the mean or the maximum over all its tokens since the state's origin, or its last token. */
export interface PoolStage extends StageBase {
  readonly kind: "pool";
  readonly width: number;
  readonly mode: "mean" | "last" | "max";
}

/** x - log(sum(exp(x))) over each run of `group` columns. */
export interface LogSoftmaxStage extends StageBase {
  readonly kind: "logSoftmax";
  readonly width: number;
  readonly group: number;
}

export type Stage =
  | EmbeddingStage
  | LruStage
  | DenseStage
  | LayerNormStage
  | RmsNormStage
  | BatchNormStage
  | GeluStage
  | GluStage
  | AddStage
  | PoolStage
  | LogSoftmaxStage;

/** A tensor of a checkpoint by its own name, dtype and shape, and where its values are now. */
export interface Origin {
  readonly name: string;
  readonly dtype: Tensor["dtype"];
  readonly shape: readonly number[];
  /** A stage's own array, not a copy; for an F64 tensor that is not exact in float32, the doubles. */
  readonly data: Float32Array | Float64Array;
  /** The order of the tensor's axes in `data`, if it is another. */
  readonly axes: readonly number[] | undefined;
}

/** What a program was built from, for the way back. */
export interface Checkpoint {
  /** The file's own, and in `linrec` the spec with every option. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: readonly Origin[];
  /** Arrays of stages that are no parameters of their own: a tied head, a locked gamma. */
  readonly derived: readonly Float32Array[];
}

/**
 * One row for each window of `factor` rows, counted from the state's origin: their mean, their maximum, or ("stride") the
 * first of them. A last window that is not full gives none, but for "stride".
 */
export interface WindowStage extends StageBase {
  readonly kind: "window";
  readonly mode: "mean" | "max" | "stride";
  readonly width: number;
  readonly factor: number;
}

/** The same values in rows of another width: [T, inWidth] seen as [T inWidth / outWidth, outWidth]. */
export interface ReshapeStage extends StageBase {
  readonly kind: "reshape";
  readonly inWidth: number;
  readonly outWidth: number;
}

/** dst[t] = src[t - 1]; 0 before the first row. */
export interface ShiftStage extends StageBase {
  readonly kind: "shift";
  readonly width: number;
}

/** What no backend runs: the chain between them does. */
export type RateStage = WindowStage | ReshapeStage | ShiftStage;

export interface Program extends Network {
  readonly stages: readonly Stage[];
}

export interface Network {
  /** "lru" for a bare layer, else the architecture's name in the checkpoint spec. */
  readonly architecture: string;
  /** The width of each slot; slots[0] is that of x. */
  readonly slots: readonly number[];
  readonly stages: readonly (Stage | RateStage)[];
  /** The slot that holds y after the last stage. */
  readonly output: number;
  /** Says nothing about what is computed. */
  readonly checkpoint?: Checkpoint;
}

/** How many token ids x may hold, of a program that reads ids; undefined where x is float32. */
export function vocabularyOf({ stages: [first] }: Network): number | undefined {
  return first?.kind === "embedding" ? first.vocabulary : undefined;
}

/** Features of one token of x, 1 for a token id. */
export function inputWidth(program: Network): number {
  return slotWidth(program, 0);
}

/** Features of one token of y, or of one sequence's row of y when the program pools. */
export function outputWidth(program: Network): number {
  return slotWidth(program, program.output);
}

export function slotWidth(program: Network, slot: number): number {
  const width = program.slots[slot];
  if (width === undefined) throw new Error(`program has no slot ${slot}`);
  return width;
}

/** Whether what a slot holds before stage `index` is read by it, by a later stage, or as y. */
export function isRead(program: Program, slot: number, index: number): boolean {
  for (const stage of program.stages.slice(index)) {
    if (readsOf(stage).includes(slot)) return true;
    if (stage.dst === slot) return false;
  }
  return slot === program.output;
}

/** The pool stage, when y has one row for each sequence and not for each token. */
export function poolOf(program: Network): PoolStage | undefined {
  return program.stages.find((stage) => stage.kind === "pool");
}

export function lruStages(program: Network): LruStage[] {
  return program.stages.filter((stage) => stage.kind === "lru");
}

/** How many float32 parameters the program has: of what follows from others none. */
export function countParameters({ stages, checkpoint }: Network): number {
  let count = 0;
  for (const stage of stages) {
    const source = stage.kind === "lru" ? stage.params : stage;
    for (const value of Object.values(source) as Float32Array[])
      if (ArrayBuffer.isView(value) && !checkpoint?.derived.includes(value)) count += value.length;
  }
  return count;
}

/** Multiplications and additions of one LRU and token: two complex products, the scan, and the skip. */
export function lruFlops(dModel: number, dState: number): number {
  return 8 * dModel * dState + 8 * dState + 2 * dModel;
}

/**
 * Multiplications and additions that one token costs: 8HN + 8N + 2H for an LRU, 2 in out for a dense stage, and a
 * nominal count for the rest. Only ratios matter: the scheduler divides it by a measured rate.
 */
export function flopsPerToken(program: Network): number {
  let flops = 0;
  for (const [stage, rate] of atRates(program)) {
    if (stage.kind === "lru") flops += rate * lruFlops(stage.dModel, stage.dState);
    else if (stage.kind === "dense") flops += rate * 2 * stage.inWidth * stage.outWidth;
    else if (stage.kind !== "reshape")
      flops += rate * (stage.kind === "gelu" || stage.kind === "glu" ? 24 : 6) * stage.width;
  }
  return flops;
}

/** States of all LRUs that are advanced for one token. */
export function statesPerToken(program: Network): number {
  let states = 0;
  for (const [stage, rate] of atRates(program)) if (stage.kind === "lru") states += rate * stage.dState;
  return states;
}

/** The stages up to a pool, with the rows that each reads for one token. */
function* atRates({ stages }: Network): Generator<[Stage | RateStage, number]> {
  let rate = 1;
  for (const stage of stages) {
    if (stage.kind === "pool") return;
    yield [stage, rate];
    if (stage.kind === "reshape") rate *= stage.inWidth / stage.outWidth;
    if (stage.kind === "window") rate /= stage.factor;
  }
}

/** The slots that a stage reads. */
export function readsOf(stage: Stage | RateStage): number[] {
  if (stage.kind === "glu") return [stage.src, stage.gate];
  return stage.kind === "add" ? [stage.src, stage.other] : [stage.src];
}
