/** Sequences cut, joined and read token by token: values [batch, seqLen, width], row-major. */
import type { Input } from "../../src/index.js";

/** Tokens [from, to) of every row. */
export function cut<T extends Input>(values: T, batch: number, width: number, from: number, to: number): T {
  const rowLength = batch === 0 ? 0 : values.length / batch;
  const result = likeThis(values, batch * (to - from) * width);
  for (let row = 0; row < batch; row++) {
    const start = row * rowLength;
    result.set(values.subarray(start + from * width, start + to * width), row * (to - from) * width);
  }
  return result;
}

/** Each row of the first, then of the second, ... */
export function join(parts: readonly Float32Array[], batch: number): Float32Array {
  const lengths = parts.map((part) => (batch === 0 ? 0 : part.length / batch));
  const rowLength = lengths.reduce((sum, length) => sum + length, 0);
  const result = new Float32Array(batch * rowLength);
  let at = 0;
  for (const [i, part] of parts.entries()) {
    const length = lengths[i] as number;
    for (let row = 0; row < batch; row++) {
      result.set(part.subarray(row * length, (row + 1) * length), row * rowLength + at);
    }
    at += length;
  }
  return result;
}

/** The rows in another order, or some of them. */
export function rows<T extends Input>(values: T, batch: number, order: readonly number[]): T {
  const rowLength = batch === 0 ? 0 : values.length / batch;
  const result = likeThis(values, order.length * rowLength);
  for (const [i, row] of order.entries()) {
    result.set(values.subarray(row * rowLength, (row + 1) * rowLength), i * rowLength);
  }
  return result;
}

function likeThis<T extends Input>(values: T, length: number): T {
  return new (values.constructor as new (length: number) => T)(length);
}

interface Stepping<Cache> {
  readonly inputWidth: number;
  stepSync(xt: Input, cache: Cache): Float32Array;
}

/** Steps through x [batch, seqLen, inputWidth]: what each step gave, each [batch, outputWidth]. */
export function stepThrough<Cache extends { readonly batch: number }>(
  layer: Stepping<Cache>,
  x: Input,
  cache: Cache,
): Float32Array[] {
  const { batch } = cache;
  const seqLen = x.length / (batch * layer.inputWidth);
  return Array.from({ length: seqLen }, (_, t) =>
    layer.stepSync(cut(x, batch, layer.inputWidth, t, t + 1), cache),
  );
}
