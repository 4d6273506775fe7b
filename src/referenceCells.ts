/** The stages of the float64 oracle, one token at a time: equations, in the obvious loops. `reference.ts` runs them. */
import type {
  DenseStage,
  EmbeddingStage,
  LayerNormStage,
  LogSoftmaxStage,
  LruStage,
  PoolStage,
  RmsNormStage,
  Stage,
} from "./program.js";
import type { State, StateSlot } from "./state.js";

/** One stage over the slots of one token. */
export interface Cell {
  /** Takes the current token through the stage; `delta` is its timestep. */
  apply(delta: number): void;
  /** Starts a row of the batch from the state; a cell that carries nothing has none. */
  load?(state: State, row: number): void;
  /** Stores what the row has come to. */
  save?(state: State, row: number): void;
}

export interface PoolCell extends Cell {
  /** Writes the row's one output after its last token, `count` tokens after the state's origin. */
  emit(count: number): void;
}

export type Values = readonly Float64Array[];

export function makeCell(
  stage: Exclude<Stage, PoolStage>,
  values: Values,
  slot: StateSlot | undefined,
): Cell {
  const [src, dst] = [slotOf(values, stage.src), slotOf(values, stage.dst)];
  switch (stage.kind) {
    case "embedding":
      return embeddingCell(stage, src, dst);
    case "lru":
      return lruCell(stage, src, dst, slot as StateSlot);
    case "dense":
      return denseCell(stage, src, dst);
    case "layerNorm":
      return layerNormCell(stage, src, dst);
    case "batchNorm": {
      const [mean, variance, bias] = [wide(stage.mean), wide(stage.variance), wide(stage.bias)];
      const factor = wide(stage.scale).map((scale, j) => scale / Math.sqrt(at(variance, j) + stage.epsilon));
      return elementwise(dst, (j) => (at(src, j) - at(mean, j)) * at(factor, j) + at(bias, j));
    }
    case "rmsNorm":
      return rmsNormCell(stage, src, dst);
    case "gelu":
      return elementwise(dst, (j) => {
        const v = at(src, j);
        if (stage.exact) return 0.5 * v * (1 + erf(v / Math.SQRT2));
        return 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v * v * v)));
      });
    case "glu": {
      const gate = slotOf(values, stage.gate);
      const factor = stage.silu ? (z: number) => z : () => 1;
      return elementwise(dst, (j) => (at(src, j) * factor(at(gate, j))) / (1 + Math.exp(-at(gate, j))));
    }
    case "add": {
      const other = slotOf(values, stage.other);
      return elementwise(dst, (j) => at(src, j) + at(other, j));
    }
    case "logSoftmax":
      return logSoftmaxCell(stage, src, dst);
  }
}

function embeddingCell({ table, width }: EmbeddingStage, src: Float64Array, dst: Float64Array): Cell {
  const rows = wide(table);
  return elementwise(dst, (j) => at(rows, at(src, 0) * width + j));
}

function elementwise(dst: Float64Array, value: (j: number) => number): Cell {
  return {
    apply() {
      for (let j = 0; j < dst.length; j++) dst[j] = value(j);
    },
  };
}

/** h = lambda h + exp(gammaLog) (BRe + i BIm) u; y = Re((CRe + i CIm) h) + D u (arXiv 2303.06349, equations 2 and 3). */
function lruCell(stage: LruStage, u: Float64Array, y: Float64Array, slot: StateSlot): Cell {
  const { dModel, dState, params } = stage;
  const angle = params.theta ? wide(params.theta) : wide(params.thetaLog ?? []).map(Math.exp);
  const lambdaRe = new Float64Array(dState);
  const lambdaIm = new Float64Array(dState);
  const nuLogIm = params.nuLogIm && wide(params.nuLogIm);
  let lambdaOf = Number.NaN;
  /** lambda^delta = exp(delta log lambda); lambda^0 is 1, even of lambda = 0. */
  const setLambda = (delta: number) => {
    lambdaOf = delta;
    for (let n = 0; n < dState; n++) {
      const r = delta === 0 ? 1 : Math.exp(-delta * Math.exp(params.nuLog[n] as number));
      lambdaRe[n] = r * Math.cos(delta * at(angle, n));
      lambdaIm[n] = r * Math.sin(delta * at(angle, n));
      if (nuLogIm) lambdaIm[n] = delta === 0 ? 1 : Math.exp(-delta * Math.exp(at(nuLogIm, n)));
    }
  };
  const gamma = wide(params.gammaLog).map(Math.exp);
  const bRe = wide(params.BRe).map((b, i) => b * at(gamma, Math.floor(i / dModel)));
  const bIm = wide(params.BIm).map((b, i) => b * at(gamma, Math.floor(i / dModel)));
  const cRe = wide(params.CRe);
  const cIm = wide(params.CIm);
  const d = wide(params.D);
  const hRe = new Float64Array(dState);
  const hIm = new Float64Array(dState);
  return {
    load(state, row) {
      const h = state.read(slot, row);
      hRe.set(h.re);
      hIm.set(h.im);
    },
    save: (state, row) => state.write(slot, row, hRe, hIm),
    apply(delta) {
      if (delta !== lambdaOf) setLambda(delta);
      for (let n = 0; n < dState; n++) {
        let re = 0;
        let im = 0;
        for (let j = 0, i = n * dModel; j < dModel; j++, i++) {
          re += at(bRe, i) * at(u, j);
          im += at(bIm, i) * at(u, j);
        }
        const previousRe = at(hRe, n);
        const previousIm = at(hIm, n);
        if (nuLogIm) {
          hRe[n] = at(lambdaRe, n) * previousRe + re;
          hIm[n] = at(lambdaIm, n) * previousIm + im;
          continue;
        }
        hRe[n] = at(lambdaRe, n) * previousRe - at(lambdaIm, n) * previousIm + re;
        hIm[n] = at(lambdaRe, n) * previousIm + at(lambdaIm, n) * previousRe + im;
      }
      for (let j = 0; j < dModel; j++) {
        let sum = 0;
        for (let n = 0, i = j * dState; n < dState; n++, i++)
          sum += at(cRe, i) * at(hRe, n) - at(cIm, i) * at(hIm, n);
        y[j] = sum + at(d, j) * at(u, j);
      }
    },
  };
}

function denseCell(stage: DenseStage, src: Float64Array, dst: Float64Array): Cell {
  const { inWidth, outWidth } = stage;
  const kernel = wide(stage.kernel);
  const { bias } = stage;
  const initial = new Float64Array(outWidth).map((_, j) => bias?.[j % bias.length] ?? 0);
  return {
    apply() {
      dst.set(initial);
      for (let i = 0; i < inWidth; i++) {
        for (let j = 0, k = i * outWidth; j < outWidth; j++, k++)
          dst[j] = at(dst, j) + at(src, i) * at(kernel, k);
      }
    },
  };
}

function layerNormCell(stage: LayerNormStage, src: Float64Array, dst: Float64Array): Cell {
  const { width, epsilon } = stage;
  const scale = wide(stage.scale);
  const bias = wide(stage.bias);
  return {
    apply() {
      let mean = 0;
      for (let j = 0; j < width; j++) mean += at(src, j) / width;
      let variance = 0;
      for (let j = 0; j < width; j++) variance += (at(src, j) - mean) ** 2 / width;
      const inverse = 1 / Math.sqrt(variance + epsilon);
      for (let j = 0; j < width; j++) dst[j] = (at(src, j) - mean) * inverse * at(scale, j) + at(bias, j);
    },
  };
}

function rmsNormCell({ width, scale, epsilon }: RmsNormStage, src: Float64Array, dst: Float64Array): Cell {
  const factor = wide(scale);
  return {
    apply() {
      let square = 0;
      for (let j = 0; j < width; j++) square += at(src, j) ** 2 / width;
      const inverse = 1 / Math.sqrt(square + epsilon);
      for (let j = 0; j < width; j++) dst[j] = at(src, j) * inverse * at(factor, j);
    },
  };
}

/** erf x = 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (2n+1)!!, whose terms have one sign (DLMF 7.6.2); 1 past 6 in float64. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let sum = 0;
  for (let n = 0, term = x; Math.abs(term) > 1e-20 * Math.abs(sum); n++, term *= (2 * x * x) / (2 * n + 1))
    sum += term;
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** `slot` is there for all but the last token, which needs nothing from before this call. */
export function poolCell(
  stage: PoolStage,
  src: Float64Array,
  dst: Float64Array,
  slot: StateSlot | undefined,
): PoolCell {
  if (!slot) return { apply: () => undefined, emit: () => dst.set(src) };
  const isMax = stage.mode === "max";
  const sum = new Float64Array(stage.width);
  return {
    load: (state, row) => sum.set(state.read(slot, row).re),
    save: (state, row) => state.write(slot, row, sum, []),
    apply() {
      for (let j = 0; j < sum.length; j++)
        sum[j] = isMax ? Math.max(at(sum, j), at(src, j)) : at(sum, j) + at(src, j);
    },
    emit(count) {
      for (let j = 0; j < sum.length; j++) dst[j] = at(sum, j) / (isMax ? 1 : count);
    },
  };
}

function logSoftmaxCell(stage: LogSoftmaxStage, src: Float64Array, dst: Float64Array): Cell {
  const { width, group } = stage;
  return {
    apply() {
      for (let start = 0; start < width; start += group) {
        const end = start + group;
        let max = -Infinity;
        for (let j = start; j < end; j++) max = Math.max(max, at(src, j));
        let sum = 0;
        for (let j = start; j < end; j++) sum += Math.exp(at(src, j) - max);
        for (let j = start; j < end; j++) dst[j] = at(src, j) - max - Math.log(sum);
      }
    },
  };
}

/** An element that is there: the loops above stay within widths that the program's builder has checked. */
function at(values: Float64Array, index: number): number {
  return values[index] as number;
}

function wide(values: ArrayLike<number>): Float64Array {
  return Float64Array.from(values);
}

export function slotOf(values: Values, slot: number): Float64Array {
  const value = values[slot];
  if (!value) throw new Error(`program has no slot ${slot}`);
  return value;
}
