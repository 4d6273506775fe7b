// (x - mean) / sqrt(var + epsilon) of rows that a tile has whole, each in the registers of LANES threads side by side.
// NORM is 2, or 1 without the mean: RMSNorm. The variance is of x - mean, in a second sweep: E[x^2] - mean^2 cancels. As many
// quads of timesteps are added up at a time as the slab, of ROOM values, has room for; in the same order by any tile, and layerNorm.

const OWN = 64 / LANES; // columns of a row that a thread may have
const AT_ONCE = min(QUADS, ROOM / THREADS);
fn normalize(sums: ptr<function, array<vec4f, QUADS * COLS>>, thread: u32, width: u32) {
  for (var q0 = 0u; q0 < QUADS; q0 += AT_ONCE) {
    for (var sweep = NORM % 2; sweep < 2; sweep++) {
      for (var a = 0u; a < AT_ONCE; a++) {
        var own = array<vec4f, OWN>();
        for (var c = 0u; c < OWN; c++) {
          let v = (*sums)[(q0 + a) * COLS + c];
          if (thread % LANES + c * LANES < width) { own[c] = select(v, v * v, sweep > 0); }
        }
        for (var half = OWN / 2; half > 0; half /= 2) {
          for (var c = 0u; c < half; c++) { own[c] += own[c + half]; }
        }
        slab[a * THREADS + thread] = own[0];
      }
      workgroupBarrier();
      for (var half = LANES / 2; half > 0; half /= 2) {
        if (thread % LANES < half) {
          for (var a = 0u; a < AT_ONCE; a++) { slab[a * THREADS + thread] += slab[a * THREADS + thread + half]; }
        }
        workgroupBarrier();
      }
      for (var a = 0u; a < AT_ONCE; a++) {
        let mean = slab[a * THREADS + thread / LANES * LANES] / f32(width);
        for (var c = 0u; c < COLS; c++) {
          let v = (*sums)[(q0 + a) * COLS + c];
          if (sweep == 0) { (*sums)[(q0 + a) * COLS + c] = v - mean; }
          else { (*sums)[(q0 + a) * COLS + c] = v * (1 / sqrt(mean + EPSILON)); }
        }
      }
      workgroupBarrier();
    }
  }
}
