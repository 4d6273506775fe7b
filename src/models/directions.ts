/** A bidirectional layer: its checkpoint, and both directions as one. */
import { LinrecError } from "../errors.js";
import type { SafetensorsFile } from "../io/safetensors.js";
import { programOf } from "../lruParams.js";
import { BothWays } from "../networks/bothWays.js";
import { waysOf } from "../networks/hidden.js";
import { eigenvalues } from "../params.js";
import { type LruParams, type LruStage, lruStages, type Network, type Program } from "../program.js";
import type { Tensor } from "../tensor.js";
import { readLru } from "./lrnnxLru.js";

/** Both directions of a bidirectional layer: all tensors are under "forward." or "backward.". Throws what {@link readLru} does. */
export function buildDirections({
  tensors,
  metadata,
}: SafetensorsFile): [forward: Network, backward: Network] {
  const parts = { forward: new Map<string, Tensor>(), backward: new Map<string, Tensor>() };
  for (const [name, tensor] of tensors) {
    const [, direction, own] = /^(forward|backward)[./](.+)$/s.exec(name) ?? [];
    if (own === undefined) {
      throw new LinrecError(
        "unknown-model",
        `${name} is under neither "forward." nor "backward.", the two layers of a bidirectional one.`,
      );
    }
    parts[direction as keyof typeof parts].set(own, tensor);
  }
  return [readLru({ tensors: parts.forward, metadata }), readLru({ tensors: parts.backward, metadata })];
}

/**
 * Both as one layer, whose last states read back: y[t] = Re([Cf, Cb] [hf[t]; hb[t]]) + (Df + Db) x[t]. Its parameters are put
 * together when a GPU wants them.
 */
export function joined(forward: Network, backward: Network): Program {
  const [a, b] = [forward, backward].map((network) => lruStages(network)[0]) as [LruStage, LruStage];
  if (a.dModel !== b.dModel) {
    throw new LinrecError(
      "shape-mismatch",
      `forward has dModel ${a.dModel}, backward ${b.dModel}: both read the same x. Give layers of one dModel.`,
    );
  }
  const { dModel } = a;
  let params: LruParams | undefined;
  const stage: LruStage = {
    ...{ kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState: a.dState + b.dState, backward: b.dState },
    get params() {
      params ??= side(a, b);
      return params;
    },
  };
  const program = { ...programOf(a.params, ""), stages: [stage] };
  waysOf.set(program, { forward, backward, BothWays });
  return program;
}

function side({ params: a }: LruStage, { params: b }: LruStage): LruParams {
  const rows = (name: "nuLog" | "gammaLog" | "BRe" | "BIm") => Float32Array.from([...a[name], ...b[name]]);
  const [m, n] = [a.nuLog.length, b.nuLog.length];
  const columns = (name: "CRe" | "CIm") => {
    const values = new Float32Array(a.D.length * (m + n));
    for (let o = 0; o < a.D.length; o++) {
      values.set(a[name].subarray(o * m, (o + 1) * m), o * (m + n));
      values.set(b[name].subarray(o * n, (o + 1) * n), o * (m + n) + m);
    }
    return values;
  };
  // In float64, for one may have the angles and the other their logarithms: to round them would be another layer.
  const angles = [...eigenvalues(a).theta, ...eigenvalues(b).theta];
  return {
    ...{ nuLog: rows("nuLog"), theta: Float64Array.from(angles) as ArrayLike<number> as Float32Array },
    ...{ gammaLog: rows("gammaLog"), BRe: rows("BRe"), BIm: rows("BIm") },
    ...{ CRe: columns("CRe"), CIm: columns("CIm"), D: a.D.map((value, j) => value + (b.D[j] as number)) },
  };
}
