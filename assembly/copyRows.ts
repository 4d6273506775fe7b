// Rows of x as the rows of y: some of them, or all of them at another distance.

/** y, x [tokens] rows of `rowBytes` bytes, `yStride` and `xStride` bytes apart */
export function copyRows(y: usize, yStride: usize, x: usize, xStride: usize, rowBytes: usize, tokens: i32): void {
  for (let t = 0; t < tokens; t++) {
    memory.copy(y, x, rowBytes);
    y += yStride;
    x += xStride;
  }
}
