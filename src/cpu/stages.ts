/** What models have beside LRUs and sums, on a tile or step of the CPU. */
import type { PackedStage } from "./packed.js";
import { PoolTile } from "./poolTile.js";
import type { Slots } from "./slots.js";

export type ModelStages = typeof modelStages;

/** A layer runs without them: they come with the first model (widen.ts), and a worker has them from the start. */
export const modelStages = { run, PoolTile };

/** The stages that are local in time. */
function run(slots: Slots, stage: PackedStage): void {
  const { kernels, image, rows } = slots;
  const y = slots.at(stage.dst);
  const x = slots.at(stage.src);
  const width = slots.width(stage.dst);
  const [yBytes, xBytes] = [4 * width, 4 * slots.width(stage.src)];
  switch (stage.kind) {
    case "embedding":
      kernels.embedding(y, x, image + stage.table, rows, width, stage.vocabulary);
      return;
    case "dense": {
      const { W, b, ones, inWidth, outWidth } = stage;
      kernels.dense(y, yBytes, x, xBytes, image + W, image + b, image + ones, rows, inWidth, outWidth);
      return;
    }
    case "layerNorm": {
      const { scale, bias, epsilon, centred } = stage;
      kernels.layerNorm(y, x, yBytes, image + scale, image + bias, epsilon, centred, rows, stage.width);
      return;
    }
    case "batchNorm":
      kernels.batchNorm(y, x, image + stage.mean, image + stage.factor, image + stage.bias, rows, width);
      return;
    case "gelu":
      kernels.gelu(y, x, stage.exact, rows * width);
      return;
    case "glu":
      kernels.glu(y, x, slots.at(stage.gate), stage.silu, rows * width);
      return;
    case "logSoftmax":
      kernels.logSoftmax(y, x, yBytes, rows, stage.width, stage.group);
  }
}
