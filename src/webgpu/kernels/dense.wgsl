// y = x W + b.
// A workgroup takes CHUNKS times T tokens and WIDTH outputs, a thread ROWS tokens of COLS outputs.

struct Sizes { inWidth: u32, outWidth: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [tokens, outWidth]
@group(0) @binding(3) var<storage, read> x: array<f32>;       // [tokens, inWidth]
@group(0) @binding(4) var<storage, read> W: array<f32>;       // [inWidth, outWidth]
@group(0) @binding(5) var<storage, read> b: array<f32>;       // [1 + parameters, outWidth]

var<workgroup> slab: array<vec4f, ROOM>; // x [CHUNKS T / 4, SLAB], four tokens each

@compute @workgroup_size(THREADS)
fn dense(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let blocks = (sizes.outWidth + WIDTH - 1) / WIDTH;
  let task = flatten(group, groups);
  let first = task / blocks * TILE * 4;
  if (first >= segment.tokens) { return; }
  let count = min(TILE * 4, segment.tokens - first);
  let part = thread / LANES;
  let column = task % blocks * WIDTH + thread % LANES;

  var sums: array<vec4f, QUADS * COLS>;
  for (var k0 = 0u; k0 < sizes.inWidth; k0 += SLAB) {
    let width = min(SLAB, sizes.inWidth - k0);
    for (var i = thread; i < TILE * SLAB; i += THREADS) {
      if (i % SLAB < width) { slab[i] = fourTokens(first, count, 4 * (i / SLAB), k0 + i % SLAB); }
    }
    workgroupBarrier();
    for (var k = 0u; k < width; k++) {
      var w: array<f32, COLS>;
      for (var c = 0u; c < COLS; c++) {
        w[c] = W[(k0 + k) * sizes.outWidth + min(column + c * LANES, sizes.outWidth - 1)];
      }
      for (var q = 0u; q < QUADS; q++) {
        let v = slab[(part * QUADS + q) * SLAB + k];
        for (var c = 0u; c < COLS; c++) { sums[q * COLS + c] += v * w[c]; }
      }
    }
    workgroupBarrier();
  }

  for (var c = 0u; c < COLS; c++) {
    let j = column + c * LANES;
    if (j >= sizes.outWidth) { break; }
    let bias = b[j];
    for (var q = 0u; q < QUADS; q++) {
      for (var s = 0u; s < 4; s++) {
        let t = part * ROWS + 4 * q + s;
        let i = (first + t) * sizes.outWidth + j;
        if (t < count) {
          let v = finish(sums[q * COLS + c][s] + bias, i, j, 0);
          if (NORM == 0) { y[i] = v; } else { sums[q * COLS + c][s] = v; }
        }
      }
    }
  }
  if (NORM == 0) { return; }
  normalize(&sums, thread, sizes.outWidth);
  for (var c = 0u; c < COLS; c++) {
    let j = column + c * LANES;
    if (j >= sizes.outWidth) { break; }
    for (var q = 0u; q < QUADS; q++) {
      for (var s = 0u; s < 4; s++) {
        let t = part * ROWS + 4 * q + s;
        let i = (first + t) * sizes.outWidth + j;
        if (t < count) { y[i] = finishNorm(sums[q * COLS + c][s], i, j, 0); }
      }
    }
  }
}

fn parameter(n: u32, j: u32) -> f32 { return b[(1 + n) * sizes.outWidth + j]; }

// Tokens t to t + 3 of a column. Past the last token they repeat it: nothing reads what comes of them.
fn fourTokens(first: u32, count: u32, t: u32, column: u32) -> vec4f {
  let tokens = first + min(vec4u(t, t + 1, t + 2, t + 3), vec4u(count - 1));
  let i = tokens * sizes.inWidth + column;
  return vec4f(x[i.x], x[i.y], x[i.z], x[i.w]);
}
