// y[t] = x[t], row by row: between the caller's tight rows and rows padded to a multiple of four.

/** y, x [tokens] rows of `rowBytes` bytes, `yStride` and `xStride` bytes apart */
export function copyRows(y: usize, yStride: usize, x: usize, xStride: usize, rowBytes: usize, tokens: i32): void {
  for (let t = 0; t < tokens; t++) {
    memory.copy(y, x, rowBytes);
    y += yStride;
    x += xStride;
  }
}
