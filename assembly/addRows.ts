// y += x, rows that may be some distance apart.

/** y, x [tokens] rows of `rowBytes` bytes of float32, `yStride` and `xStride` bytes apart (which may go backwards) */
export function addRows(y: usize, yStride: usize, x: usize, xStride: usize, rowBytes: usize, tokens: i32): void {
  for (let t = 0; t < tokens; t++) {
    let i: usize = 0;
    for (; i + 16 <= rowBytes; i += 16) v128.store(y + i, f32x4.add(v128.load(y + i), v128.load(x + i)));
    for (; i < rowBytes; i += 4) store<f32>(y + i, load<f32>(y + i) + load<f32>(x + i));
    y += yStride;
    x += xStride;
  }
}
