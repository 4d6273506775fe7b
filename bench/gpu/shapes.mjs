/** The layers, models and steps that bench/gpu measures, and how much of each is run on what adapter. */
import { stackModel } from "../extras/stack.mjs";
import { flopsOf, paramsOf } from "../shapes.mjs";

/** batch B, seqLen L, dModel H, dState N; layers: a minimal-LRU network around as many of them */
export const shapes = [
  { name: "narrow", batch: 1, seqLen: 2 ** 20, dModel: 16, dState: 16 },
  { name: "long", batch: 1, seqLen: 65536, dModel: 64, dState: 64 },
  { name: "batch", batch: 8, seqLen: 2048, dModel: 256, dState: 256 },
  { name: "wide", batch: 1, seqLen: 2 ** 20, dModel: 256, dState: 256 },
  { name: "many states", batch: 1, seqLen: 65536, dModel: 64, dState: 256 },
  { name: "stack", batch: 1, seqLen: 65536, dModel: 64, dState: 64, layers: 4 },
];

/** For time against length: as many as the adapter's budget has room for. */
export const lengths = [8, 9, 10, 12, 14, 16, 18, 20].map((power) => ({
  ...{ name: `2^${power}`, batch: 1, seqLen: 2 ** power, dModel: 64, dState: 64 },
}));

export const stepShapes = [
  { name: "64 streams", batch: 64, dModel: 256, dState: 256 },
  { name: "4096 streams", batch: 4096, dModel: 256, dState: 256 },
];

/** Flops of one forward: all of them on a GPU, seconds' worth on a CPU that plays one, hardly any in a trial run. */
export const budgetOf = ({ software, quick }) => (quick ? 2e7 : software ? 1.5e8 : Number.POSITIVE_INFINITY);

/** The same layer over fewer tokens, and then fewer rows. */
export function within(shape, budget) {
  const token = flopsPerToken(shape);
  const { batch, seqLen } = shape;
  const fewer = Math.min(seqLen, Math.max(256, Math.floor(budget / token / batch / 256) * 256));
  return { ...shape, seqLen: fewer, batch: Math.min(batch, Math.max(1, Math.floor(budget / token / fewer))) };
}

/** Few enough tokens for the float64 reference, and several chunks and groups of chunks where they are cheap. */
export const checkShape = (shape) => within({ ...shape, batch: Math.min(shape.batch, 2) }, 2e8);

export const flopsPerToken = (shape) =>
  shape.layers ? stackModel.flopsPerToken : flopsOf({ ...shape, batch: 1, seqLen: 1 });

/** Opens a shape's layer or model on an engine. */
export const open = (engine, shape) =>
  shape.layers ? engine.model(stackModel.bytes(), stackModel.spec) : engine.lru(paramsOf(shape));
