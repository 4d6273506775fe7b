/** lruun, the LRU for TensorFlow: LinearRecurrentUnitCell and ResLRUCell, or ...FFN, which are the same functions. */
import { gammaLogOf } from "../params.js";
import type { LruParams, Stage } from "../program.js";
import type { Tensor } from "../tensor.js";
import { type Architecture, finished } from "./architecture.js";
import { denseStage } from "./dense.js";
import type { Size, TensorReader } from "./tensors.js";

/** Keras' LayerNormalization. */
const EPSILON = 1e-3;

/** One layer: x [tokens, inputs], y [tokens, n]; y = lru(adapter(x)), the adapter being there where x has another width. */
export const linearRecurrentUnit: Architecture = {
  name: "lruun/linear-recurrent-unit",
  options: [],
  infer: (tensors) => inferFrom(tensors, "lambda_nu"),
  build(reader) {
    const { stages, slots, stream: src, size } = startOf(reader, "");
    const output = slots.push(size ?? 0) - 1;
    stages.push(lruStage(reader, "", src, output, size));
    return finished(reader, { architecture: this.name, slots, stages, output });
  },
};

/** A residual block: a = adapter(x); y = a + w_3(z) * sigmoid(w_1(z)), z = gelu(lru(norm(a))). */
export const resLru: Architecture = {
  name: "lruun/res-lru",
  options: [],
  infer: (tensors) => inferFrom(tensors, "lru.lambda_nu", "glu.w_3.kernel"),
  build(reader) {
    const { stages, slots, stream, size } = startOf(reader, "lru.");
    const width = size ?? 0;
    const [z, a, b] = [0, 1, 2].map(() => slots.push(width) - 1) as [number, number, number];
    const [scale, bias] = [reader.take("norm.gamma", [size]), reader.take("norm.beta", [size])];
    stages.push(
      { kind: "layerNorm", name: "norm", src: stream, dst: z, width, scale, bias, epsilon: EPSILON },
      lruStage(reader, "lru.", z, a, size),
      { kind: "gelu", name: "gelu", src: a, dst: a, width, exact: true },
      denseStage(reader, "glu.w_3", a, z, size, size),
      denseStage(reader, "glu.w_1", a, b, size, size),
      { kind: "glu", name: "glu", src: z, dst: z, width, gate: b },
      { kind: "add", name: "residual", src: z, dst: z, width, other: stream },
    );
    return finished(reader, { architecture: this.name, slots, stages, output: z });
  },
};

/** Keras writes "glu/w_1/kernel:0". */
function plain(name: string): string {
  return name.replaceAll("/", ".").replace(/:0$/, "");
}

function inferFrom(tensors: ReadonlyMap<string, Tensor>, ...required: string[]) {
  const names = [...tensors.keys()].map(plain);
  return required.every((name) => names.includes(name)) ? {} : undefined;
}

interface Start {
  readonly stages: Stage[];
  readonly slots: number[];
  /** The slot of what comes out of the adapter, or of x. */
  readonly stream: number;
  /** Features there. */
  readonly size: Size;
}

function startOf(reader: TensorReader, prefix: string): Start {
  reader.rename(plain);
  const size = reader.size(`${prefix}D`, 0);
  if (!reader.has("adapter.kernel")) return { stages: [], slots: [size ?? 0], stream: 0, size };
  const adapter = denseStage(reader, "adapter", 0, 1, undefined, size);
  return { stages: [adapter], slots: [adapter.inWidth, adapter.outWidth], stream: 1, size };
}

/** B (n, dState) and C (dState, n), for row vectors; phases not logged. A locked gamma is no weight: it follows from lambda. */
function lruStage(reader: TensorReader, prefix: string, src: number, dst: number, dModel: Size): Stage {
  const dState = reader.size(`${prefix}lambda_nu`, 0);
  const take = (name: string, ...shape: Size[]) =>
    reader.take(prefix + name, shape, shape.length > 1 ? [1, 0] : undefined);
  const [nuLog, theta] = [take("lambda_nu", dState), take("lambda_theta", dState)];
  const params: LruParams = {
    nuLog,
    theta,
    gammaLog: reader.has(`${prefix}gamma_log`) ? take("gamma_log", dState) : reader.derive(gammaLogOf(nuLog)),
    BRe: take("B_re", dModel, dState),
    BIm: take("B_im", dModel, dState),
    CRe: take("C_re", dState, dModel),
    CIm: take("C_im", dState, dModel),
    D: take("D", dModel),
  };
  return {
    kind: "lru",
    name: prefix.slice(0, -1) || "lru",
    src,
    dst,
    dModel: dModel ?? 0,
    dState: nuLog.length,
    params,
  };
}
