/** The shapes that are measured, their flops, and the data that every contender gets. */
import { initLru } from "./linrec.mjs";

/** batch B, seqLen L, dModel H, dState N: the table of the README. */
export const shapes = [
  { name: "S1", batch: 1, seqLen: 4096, dModel: 64, dState: 64 },
  { name: "S2", batch: 8, seqLen: 2048, dModel: 256, dState: 256 },
  { name: "S3", batch: 1, seqLen: 65536, dModel: 64, dState: 64 },
  { name: "S4", batch: 1, seqLen: 1048576, dModel: 16, dState: 16 },
  { name: "S5", batch: 32, seqLen: 10000, dModel: 210, dState: 420 },
];

/** What --quick measures in their place: the same sizes of a layer, few tokens. */
const quickSizes = { S1: [1, 512], S2: [2, 256], S3: [1, 2048], S4: [1, 16384], S5: [2, 400] };

export const quickShape = (shape) => {
  const [batch, seqLen] = quickSizes[shape.name];
  return { ...shape, batch, seqLen };
};

/** Effective flops: what any way to compute it needs at least, however it is done. */
export const flopsOf = ({ batch, seqLen, dModel, dState }) =>
  batch * seqLen * (8 * dModel * dState + 8 * dState + 2 * dModel);

/** Few enough tokens for the float64 reference, and still several chunks. */
export const checkShape = (shape) => ({
  ...shape,
  batch: Math.min(shape.batch, 2),
  seqLen: shape.seqLen % 256 === 0 ? 256 : 400,
});

/** A part of the sequence that costs about `flops`, for trying out formulations: the largest of some even parts. */
export function partOf(shape, flops) {
  for (const parts of [1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 64, 128, 256, 512]) {
    const part = { ...shape, seqLen: shape.seqLen / parts };
    if (!Number.isInteger(part.seqLen)) continue;
    if (flopsOf(part) <= flops || part.seqLen <= 512) return part;
  }
  return shape;
}

/** Layers as they are after training: memory of 10 to 1000 tokens. */
export const paramsOf = ({ dModel, dState }) => initLru({ dModel, dState, rMin: 0.9, rMax: 0.999, seed: 1 });

/** Fills x [batch, seqLen, dModel] with the same numbers in every process: uniform on [-1, 1). */
export function fillInput(x) {
  let seed = 12345;
  const fresh = Math.min(x.length, 1 << 20);
  for (let i = 0; i < fresh; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
    x[i] = seed / 2 ** 31;
  }
  // Generating hundreds of millions would take longer than the measurement.
  for (let at = fresh; at < x.length; at += fresh) x.copyWithin(at, 0, Math.min(fresh, x.length - at));
  return x;
}

export const inputLength = ({ batch, seqLen, dModel }) => batch * seqLen * dModel;

/** Values of y at places spread over it, so that all contenders' results at full size can be compared. */
export function sampleOf(y) {
  const sample = new Float32Array(256);
  const stride = Math.max(1, Math.floor(y.length / sample.length));
  for (let i = 0; i < sample.length; i++) sample[i] = y[Math.min(i * stride + (i % stride), y.length - 1)];
  return sample;
}

/** max |a - b| / max |b|; NaN if anything is not a number or missing. */
export function relativeError(a, b) {
  if (a.length !== b.length) return Number.NaN;
  let [difference, scale] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference = Math.max(difference, Math.abs(a[i] - b[i]));
    scale = Math.max(scale, Math.abs(b[i]));
  }
  return difference / scale;
}
