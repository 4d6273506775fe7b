// (x - mean) / sqrt(var + epsilon) of rows that a tile has whole, each in the registers of SPAN threads side by side: rows of up to
// ROW columns, one in a tile, or, lifted, of just as many, one beside the other.
// NORM is 2, or 1 without the mean: RMSNorm. The variance is of x - mean, in a second sweep: E[x^2] - mean^2 cancels. As many
// quads of timesteps are added up at a time as the slab, of ROOM values, has room for; in the same order by any tile, and layerNorm.

const OWN = max(1u, ROW / LANES); // columns of a row that a thread may have
const SPAN = min(ROW, LANES);
const END = max(OWN, LIFT * COLS);
const AT_ONCE = min(QUADS, ROOM / THREADS);
fn normalize(sums: ptr<function, array<vec4f, QUADS * COLS>>, thread: u32, width: u32) {
  for (var q0 = 0u; q0 < QUADS; q0 += AT_ONCE) {
    for (var c0 = 0u; c0 < END; c0 += OWN) {
      for (var sweep = NORM % 2; sweep < 2; sweep++) {
        for (var a = 0u; a < AT_ONCE; a++) {
          var own = array<vec4f, OWN>();
          for (var c = 0u; c < OWN; c++) {
            let v = (*sums)[(q0 + a) * COLS + c0 + c];
            if (thread % SPAN + c * LANES < width) { own[c] = select(v, v * v, sweep > 0); }
          }
          for (var half = OWN / 2; half > 0; half /= 2) {
            for (var c = 0u; c < half; c++) { own[c] += own[c + half]; }
          }
          slab[a * THREADS + thread] = own[0];
        }
        workgroupBarrier();
        for (var half = SPAN / 2; half > 0; half /= 2) {
          if (thread % SPAN < half) {
            for (var a = 0u; a < AT_ONCE; a++) { slab[a * THREADS + thread] += slab[a * THREADS + thread + half]; }
          }
          workgroupBarrier();
        }
        for (var a = 0u; a < AT_ONCE; a++) {
          let mean = slab[a * THREADS + thread / SPAN * SPAN] / f32(width);
          for (var c = 0u; c < OWN; c++) {
            let at = (q0 + a) * COLS + c0 + c;
            let v = (*sums)[at];
            if (sweep == 0) { (*sums)[at] = v - mean; }
            else { (*sums)[at] = v * (1 / sqrt(mean + EPSILON)); }
          }
        }
        workgroupBarrier();
      }
    }
  }
}
