// bu = u B_norm^T and, in the same registers, loc[k] = lambda loc[k-1] + bu[k] over each chunk from 0.
// A workgroup takes one chunk and 64 states: each thread holds the T timesteps of one state, so that one
// load of a weight feeds T of them, and the scan needs no other thread. What a thread holds is indexed by loops of
// constant length only: compilers unroll them, and can keep it in registers.

struct Sizes { dModel: u32, dState: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> loc: array<vec2f>;    // [tokens, dState]
@group(0) @binding(3) var<storage, read_write> finals: array<vec2f>; // [chunks, dState], loc[T-1]
@group(0) @binding(4) var<storage, read> u: array<f32>;              // [tokens, dModel]
@group(0) @binding(5) var<storage, read> BNorm: array<vec2f>;        // [dModel, dState]
@group(0) @binding(6) var<storage, read> powers: array<vec2f>;       // [T, dState], lambda^(k+1)
@group(0) @binding(7) var<storage, read> chunks: array<vec2u>;       // [chunks], first token, tokens | FRESH

var<workgroup> slab: array<vec4f, QUADS * SLAB>; // u [T / 4, SLAB], four timesteps each

@compute @workgroup_size(64)
fn projectScan(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let blocks = (sizes.dState + 63) / 64;
  let task = flatten(group, groups);
  if (task >= segment.chunks * blocks) { return; }
  let chunk = task / blocks;
  let first = chunks[chunk].x;
  let count = chunks[chunk].y & ~FRESH;
  let state = task % blocks * 64 + lane;
  let n = min(state, sizes.dState - 1);

  var re: array<vec4f, QUADS>;
  var im: array<vec4f, QUADS>;
  for (var k0 = 0u; k0 < sizes.dModel; k0 += SLAB) {
    let width = min(SLAB, sizes.dModel - k0);
    for (var i = lane; i < QUADS * SLAB; i += 64u) {
      if (i % SLAB < width) { slab[i] = timesteps(first, count, 4 * (i / SLAB), k0 + i % SLAB); }
    }
    workgroupBarrier();
    for (var k = 0u; k < width; k++) {
      let b = BNorm[(k0 + k) * sizes.dState + n];
      for (var q = 0u; q < QUADS; q++) {
        let v = slab[q * SLAB + k];
        re[q] += v * b.x;
        im[q] += v * b.y;
      }
    }
    workgroupBarrier();
  }

  if (state >= sizes.dState) { return; }
  let lambda = powers[n];
  var h = vec2f(0);
  for (var q = 0u; q < QUADS; q++) {
    for (var s = 0u; s < 4; s++) {
      h = multiply(lambda, h) + vec2f(re[q][s], im[q][s]);
      if (4 * q + s < count) { loc[(first + 4 * q + s) * sizes.dState + n] = h; }
    }
  }
  finals[chunk * sizes.dState + n] = h;
}

// Timesteps t to t + 3 of a column. Past the chunk's last token they repeat it: nothing reads what comes of them.
fn timesteps(first: u32, count: u32, t: u32, column: u32) -> vec4f {
  let tokens = first + min(vec4u(t, t + 1, t + 2, t + 3), vec4u(count - 1));
  let i = tokens * sizes.dModel + column;
  return vec4f(u[i.x], u[i.y], u[i.z], u[i.w]);
}
