/** Golden cases and example data, the same way in Node and in the browser: Vite inlines the files as data: URLs. */
import { readSafetensors, type Tensor, toFloat32 } from "../../src/io/safetensors.js";
import type { ModelSpec } from "../../src/models/architecture.js";
import { buildProgram } from "../../src/models/build.js";
import type { Input, LruStage, Program } from "../../src/program.js";
import { State, stateLayout } from "../../src/state.js";
import manifest from "../fixtures/golden/manifest.json" with { type: "json" };

const files = {
  ...import.meta.glob("../fixtures/golden/*.safetensors", { query: "?url&inline", import: "default" }),
  ...import.meta.glob("../../examples/data/*.safetensors", { query: "?url&inline", import: "default" }),
};

export interface GoldenCase {
  readonly name: string;
  readonly kind: string;
  readonly batch: number;
  readonly seqLen: number;
  /** Everything in the file. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The parameters alone, under the names of their checkpoint. */
  readonly checkpoint: ReadonlyMap<string, Tensor>;
  readonly spec: ModelSpec;
  readonly program: Program;
  /** [batch, seqLen, inputWidth]; the bits of token ids, for a model that reads them */
  readonly x: Float32Array;
  /** x as `forward` takes it. */
  readonly input: Input;
  /** The source's own result in float64. */
  readonly y: Float64Array;
  /** [batch, dState] of a bare LRU's initial state, where it is not zero. */
  readonly h0: { readonly re: Float32Array; readonly im: Float32Array } | undefined;
  /** [batch, dState] of a bare LRU's final state. */
  readonly finalState: { readonly re: Float64Array; readonly im: Float64Array } | undefined;
}

export const goldenNames: readonly string[] = manifest.map(({ name }) => name);

/** A case by its name in the manifest. */
export async function loadGolden(name: string): Promise<GoldenCase> {
  const entry = manifest.find((candidate) => candidate.name === name);
  if (!entry) throw new Error(`no golden case ${name}`);
  const { tensors } = readSafetensors(await loadFile(`../fixtures/golden/${entry.file}`));
  const isParameter = name.startsWith("lru_")
    ? (key: string) => /^(nu_log|theta_log|gamma_log|[BC]_(re|im)|D)$/.test(key)
    : (key: string) => !/^(x|y|y_.*|logits.*|input_ids|lengths.*|mid\..*|state.*)$/.test(key);
  const checkpoint = new Map([...tensors].filter(([key]) => isParameter(key)));
  const spec = specOf(entry.kind, entry.config);
  const ids = tensors.get("input_ids")?.data as Int32Array | undefined;
  const x = ids ? new Float32Array(ids.slice().buffer) : toFloat32(tensors.get("x") as Tensor);
  const complex = <T>(key: string) => {
    const [re, im] = [tensors.get(`${key}_re`)?.data, tensors.get(`${key}_im`)?.data];
    return re && im ? { re: re as T, im: im as T } : undefined;
  };
  return {
    name,
    kind: entry.kind,
    batch: entry.config.B,
    seqLen: entry.config.L,
    tensors,
    checkpoint,
    spec,
    program: buildProgram(checkpoint, {}, spec) as Program,
    x,
    input: ids ?? x,
    y: (tensors.get("y") ?? tensors.get("logits"))?.data as Float64Array,
    h0: complex<Float32Array>(name.startsWith("tf_") ? "state0" : "h0"),
    finalState: complex<Float64Array>("state"),
  };
}

function specOf(kind: string, config: object): ModelSpec {
  const { prenorm, norm, pooling, multidim } = config as Required<ModelSpec>;
  if (kind === "ml_classification") {
    return { architecture: "minimal-lru/classification", prenorm, norm, pooling, multidim };
  }
  if (kind === "ml_sequence_layer") return { architecture: "minimal-lru/sequence-layer", prenorm, norm };
  if (kind === "tf_lru") return { architecture: "lruun/linear-recurrent-unit" };
  if (kind === "res_lru") return { architecture: "lruun/res-lru" };
  if (kind === "lrnnx_lm") {
    return {
      architecture: "lrnnx/language-model",
      normEpsilon: (config as { norm_epsilon: number }).norm_epsilon,
    };
  }
  return { architecture: "lrnnx/lru" };
}

/** The case's initial state. */
export function initialState({ program, batch, h0 }: GoldenCase): State {
  const state = new State(stateLayout(program), batch);
  const slot = state.layout.slots[0];
  if (!h0 || !slot) return state;
  const { dState } = slot.stage as LruStage;
  for (let row = 0; row < batch; row++) {
    const [start, end] = [row * dState, (row + 1) * dState];
    state.write(slot, row, h0.re.subarray(start, end), h0.im.subarray(start, end));
  }
  return state;
}

/** Bytes of examples/data/`name`.safetensors. */
export function loadExample(name: string): Promise<ArrayBuffer> {
  return loadFile(`../../examples/data/${name}.safetensors`);
}

async function loadFile(path: string): Promise<ArrayBuffer> {
  const load = files[path];
  if (!load) throw new Error(`no file ${path}; there are ${Object.keys(files).join(", ")}`);
  const response = await fetch((await load()) as string);
  return response.arrayBuffer();
}

/** max|actual - expected| / max|expected|; NaN when anything is, Infinity when the lengths differ. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let [error, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    error = Math.max(error, Math.abs((actual[i] as number) - (expected[i] as number)));
    scale = Math.max(scale, Math.abs(expected[i] as number));
  }
  return error === 0 ? 0 : error / scale;
}
