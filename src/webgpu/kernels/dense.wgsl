// y = x W + b.
// A workgroup takes T tokens and 64 outputs: each thread holds the T tokens of one output.

struct Sizes { inWidth: u32, outWidth: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [tokens, outWidth]
@group(0) @binding(3) var<storage, read> x: array<f32>;       // [tokens, inWidth]
@group(0) @binding(4) var<storage, read> W: array<f32>;       // [inWidth, outWidth]
@group(0) @binding(5) var<storage, read> b: array<f32>;       // [outWidth]

var<workgroup> slab: array<vec4f, QUADS * SLAB>; // x [T / 4, SLAB], four tokens each

@compute @workgroup_size(64)
fn dense(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let blocks = (sizes.outWidth + 63) / 64;
  let task = flatten(group, groups);
  let first = task / blocks * T;
  if (first >= segment.tokens) { return; }
  let count = min(T, segment.tokens - first);
  let column = task % blocks * 64 + lane;
  let j = min(column, sizes.outWidth - 1);

  var sums: array<vec4f, QUADS>;
  for (var k0 = 0u; k0 < sizes.inWidth; k0 += SLAB) {
    let width = min(SLAB, sizes.inWidth - k0);
    for (var i = lane; i < QUADS * SLAB; i += 64u) {
      if (i % SLAB < width) { slab[i] = fourTokens(first, count, 4 * (i / SLAB), k0 + i % SLAB); }
    }
    workgroupBarrier();
    for (var k = 0u; k < width; k++) {
      let w = W[(k0 + k) * sizes.outWidth + j];
      for (var q = 0u; q < QUADS; q++) { sums[q] += slab[q * SLAB + k] * w; }
    }
    workgroupBarrier();
  }

  if (column >= sizes.outWidth) { return; }
  let bias = b[j];
  for (var q = 0u; q < QUADS; q++) {
    for (var s = 0u; s < 4; s++) {
      if (4 * q + s < count) { y[(first + 4 * q + s) * sizes.outWidth + j] = sums[q][s] + bias; }
    }
  }
}

// Tokens t to t + 3 of a column. Past the last token they repeat it: nothing reads what comes of them.
fn fourTokens(first: u32, count: u32, t: u32, column: u32) -> vec4f {
  let tokens = first + min(vec4u(t, t + 1, t + 2, t + 3), vec4u(count - 1));
  let i = tokens * sizes.inWidth + column;
  return vec4f(x[i.x], x[i.y], x[i.z], x[i.w]);
}
