/** What models have beside LRUs and sums, as their kernels read it. */
import type { Stage } from "../program.js";
import type { StateLayout } from "../state.js";
import { carryOf, type ImageWriter, type PackedStage, pad4 } from "./packed.js";

export function packStage(stage: Stage, image: ImageWriter, layout: StateLayout): PackedStage {
  const { src, dst } = stage;
  switch (stage.kind) {
    case "embedding": {
      const { width, vocabulary } = stage;
      const padded = pad4(width);
      const table = new Float32Array(vocabulary * padded);
      for (let id = 0; id < vocabulary; id++)
        table.set(stage.table.subarray(id * width, (id + 1) * width), id * padded);
      return { kind: "embedding", src, dst, vocabulary, table: image.append(table) };
    }
    case "dense": {
      const { inWidth, outWidth, kernel, bias } = stage;
      const W = image.panels(inWidth, outWidth, (panels, o, at, stride) => {
        for (let k = 0; k < inWidth; k++) panels[at + k * stride] = kernel[k * outWidth + o] as number;
      });
      const b = image.floats(pad4(outWidth), (o) => (o < outWidth ? (bias?.[o % bias.length] ?? 0) : 0));
      const ones = image.floats(pad4(outWidth), () => 1);
      return { kind: "dense", src, dst, inWidth, outWidth: pad4(outWidth), W, b, ones };
    }
    case "layerNorm":
    case "rmsNorm": {
      const { width, epsilon } = stage;
      const centred = stage.kind === "layerNorm";
      const scale = image.padded(stage.scale);
      const bias = image.padded(centred ? stage.bias : new Float32Array(width));
      return { kind: "layerNorm", src, dst, centred, width, epsilon, scale, bias };
    }
    case "batchNorm": {
      const factor = (i: number) =>
        i < stage.width
          ? (stage.scale[i] as number) / Math.sqrt((stage.variance[i] as number) + stage.epsilon)
          : 0;
      return {
        kind: "batchNorm",
        src,
        dst,
        mean: image.padded(stage.mean),
        factor: image.floats(pad4(stage.width), factor),
        bias: image.padded(stage.bias),
      };
    }
    case "gelu":
      return { kind: "gelu", src, dst, exact: stage.exact === true };
    case "glu":
      return { kind: "glu", src, dst, gate: stage.gate, silu: stage.silu === true };
    case "pool": {
      if (stage.mode === "last") return { kind: "poolLast", src, dst };
      const isMax = stage.mode === "max";
      const empty = image.append(new Float64Array(pad4(stage.width)).fill(isMax ? -Infinity : 0));
      return { kind: "poolAll", src, dst, isMax, empty, ...carryOf(stage, layout) };
    }
    case "logSoftmax":
      return { kind: "logSoftmax", src, dst, width: stage.width, group: stage.group };
    default:
      throw new Error(`a layer's own stage: ${stage.kind}`);
  }
}
