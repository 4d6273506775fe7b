// Rows of x as the rows of y: some of them, or all of them at another distance.

/** y, x [tokens] rows of `rowBytes` bytes, a multiple of 4, `yStride` and `xStride` bytes apart (which may go backwards) */
export function copyRows(y: usize, yStride: usize, x: usize, xStride: usize, rowBytes: usize, tokens: i32): void {
  for (let t = 0; t < tokens; t++) {
    if (rowBytes > SHORT) memory.copy(y, x, rowBytes);
    else copyShort(y, x, rowBytes);
    y += yStride;
    x += xStride;
  }
}

/** Bytes that are copied sooner than `memory.copy` has begun. */
const SHORT: usize = 256;

// @ts-ignore: decorator
@inline
function copyShort(y: usize, x: usize, bytes: usize): void {
  let i: usize = 0;
  for (; i + 16 <= bytes; i += 16) v128.store(y + i, v128.load(x + i));
  for (; i < bytes; i += 4) store<u32>(y + i, load<u32>(x + i));
}
