/** A product with its epilogue: what stages behind it, which work on one value or one row, do to a result before it is stored. */
import { type BatchNormStage, readsOf, type Stage } from "../program.js";
import type { Dispatch } from "./dispatches.js";
import type { KernelName } from "./pipelines.js";
import { plainTile } from "./tiles.js";

/** Storage arrays that a kernel may have on every device. */
const MOST_ARRAYS = 8;

/** Of each product: its arrays, and where among them are what its epilogue's parameters follow, and u. */
const products = {
  dense: { own: 4, parameters: 3, u: -1 },
  output: { own: 8, parameters: 5, u: 6 },
  liftedOutput: { own: 8, parameters: 5, u: 6 },
  oneChunk: { own: 8, parameters: 6, u: 2 },
} as const;

/** Where a product's parameters are among its arrays. */
export const parametersOf = (kernel: KernelName): number =>
  products[kernel as keyof typeof products]?.parameters;

/**
 * The widest row that a workgroup of any tile has whole: wider ones are added up by a dispatch of their own. Lifted, a workgroup has
 * several side by side, and all of them whole where they divide it.
 */
const ROW_WIDTH = plainTile.lanes * plainTile.cols;

/**
 * A matrix product with a stage behind it that works element by element, or row by row, on its result: what would be stored, and
 * loaded again, stays where it is. Undefined where the stage does not, or has an array too many.
 * @param slot what holds the result
 * @param keeps whether the result is needed too: then it goes where it went, as the last of the arrays; where y goes is to be said
 */
export function fused(
  dispatch: Dispatch,
  stage: Stage,
  slot: number,
  areaOf: (slot: number) => number,
  keeps = false,
): Dispatch | undefined {
  const { arrays, epilogue = [], kernel } = dispatch;
  const { own, parameters, u } = products[kernel as keyof typeof products];
  const reads = readsOf(stage);
  if (!reads.includes(slot)) return undefined;
  const isLifted = kernel === "liftedOutput";
  const isNormed = epilogue.some((statement) => statement.startsWith("norm "));
  if (stage.kind === "batchNorm" || stage.kind === "layerNorm" || stage.kind === "rmsNorm") {
    const isRow = stage.kind !== "batchNorm";
    if (arrays.length + Number(keeps) > MOST_ARRAYS) return undefined;
    const row = isLifted ? stage.width : ROW_WIDTH;
    if (isRow && (isNormed || stage.width > row || ROW_WIDTH % row > 0)) return undefined;
    const before = arrays[parameters] as Float32Array;
    const length = isLifted ? (dispatch.sizes[0] as number) ** 2 : stage.width;
    const n = (before.length - length) / stage.width;
    const statements = [...epilogue];
    if (keeps) statements.push(`kept(${arrays.length - own}) = v;`);
    if (isRow) statements.push(`norm ${stage.kind === "layerNorm" ? 2 : 1} ${row} ${stage.epsilon}`);
    let columns: Float32Array[];
    if (stage.kind === "batchNorm") {
      columns = [stage.mean, factorOf(stage), stage.bias];
      statements.push(`v = (v - parameter(${n})) * parameter(${n + 1}) + parameter(${n + 2});`);
    } else if (stage.kind === "layerNorm") {
      columns = [stage.scale, stage.bias];
      statements.push(`v = v * parameter(${n}) + parameter(${n + 1});`);
    } else {
      columns = [stage.scale];
      statements.push(`v *= parameter(${n});`);
    }
    const all: Dispatch["arrays"] = replaced(arrays, parameters, joined([before, ...columns]));
    return { ...dispatch, arrays: keeps ? [...all, arrays[0] as number] : all, epilogue: statements };
  }
  if (keeps) return undefined;
  const others = reads.flatMap((read) => (read === slot ? [] : [areaOf(read)]));
  // Behind a norm a thread has no u any more, but where it is to be read anew.
  const isInput = others.length > 0 && others[0] === arrays[u] && (isLifted || !isNormed);
  if (isInput) others.pop();
  // What the dispatch writes no one can read in it.
  const isWritten = (area: number) =>
    arrays.some((array, i) => array === area && (i === 0 || epilogue.includes(`kept(${i - own}) = v;`)));
  if (others.some(isWritten)) return undefined;
  if (arrays.length + others.length > MOST_ARRAYS) return undefined;
  const other = !isInput ? `other(${arrays.length - own})` : isLifted ? "u[i]" : "input";
  const [a, b] = reads.map((read) => (read === slot ? "v" : other));
  let value: string;
  if (stage.kind === "gelu") value = `geluOf(v, ${stage.exact ?? false})`;
  else if (stage.kind === "glu") value = `gluOf(${a}, ${b}, ${stage.silu ?? false})`;
  else if (stage.kind === "add") value = `${a} + ${b}`;
  else return undefined;
  return { ...dispatch, arrays: [...arrays, ...others], epilogue: [...epilogue, `v = ${value};`] };
}

export function replaced<T>(values: readonly T[], at: number, value: T): T[] {
  return values.map((known, i) => (i === at ? value : known));
}

function joined(arrays: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}

export function factorOf({ scale, variance, epsilon }: BatchNormStage): Float32Array {
  return scale.map((s, j) => s / Math.sqrt((variance[j] as number) + epsilon));
}
