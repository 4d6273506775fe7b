// y = Re(C h) + D * u.
// A workgroup takes one chunk, or T of the wanted tokens where they are thinned, and 64 features: each thread holds the T
// timesteps of one feature.

struct Sizes { dModel: u32, dState: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [tokens or outputs, dModel]
@group(0) @binding(3) var<storage, read> loc: array<vec2f>;    // [tokens, dState]
@group(0) @binding(4) var<storage, read> carry: array<vec2f>;  // [chunks, dState]
@group(0) @binding(5) var<storage, read> powers: array<vec2f>; // [T, dState], lambda^(k+1)
@group(0) @binding(6) var<storage, read> C: array<vec2f>;      // [dState, dModel] of (C_re, -C_im)
@group(0) @binding(7) var<storage, read> D: array<f32>;        // [dModel]
@group(0) @binding(8) var<storage, read> u: array<f32>;        // [tokens, dModel]
@group(0) @binding(9) var<storage, read> places: array<vec2u>; // chunks as in projectScan; thinned: token, T chunk + k

var<workgroup> hRe: array<vec4f, QUADS * SLAB>; // [T / 4, SLAB], four timesteps each
var<workgroup> hIm: array<vec4f, QUADS * SLAB>;

@compute @workgroup_size(64)
fn output(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let blocks = (sizes.dModel + 63) / 64;
  let task = flatten(group, groups);
  if (task >= segment.chunks * blocks) { return; }
  let thinned = segment.thinned != 0;
  let chunk = task / blocks;
  var first = chunk * T; // of y
  var count = min(T, segment.tokens - min(first, segment.tokens));
  if (!thinned) {
    first = places[chunk].x;
    count = places[chunk].y & ~FRESH;
  }
  let column = task % blocks * 64 + lane;
  let j = min(column, sizes.dModel - 1);

  var sums: array<vec4f, QUADS>;
  for (var n0 = 0u; n0 < sizes.dState; n0 += SLAB) {
    let width = min(SLAB, sizes.dState - n0);
    for (var i = lane; i < QUADS * SLAB; i += 64u) {
      if (i % SLAB < width) {
        let n = n0 + i % SLAB;
        var incoming: vec2f;
        if (!thinned) { incoming = carry[chunk * sizes.dState + n]; }
        var re: vec4f;
        var im: vec4f;
        for (var s = 0u; s < 4; s++) {
          // Past the chunk's last token it is repeated: nothing reads what comes of it.
          var k = min(4 * (i / SLAB) + s, count - 1);
          var token = first + k;
          if (thinned) {
            let place = places[token];
            incoming = carry[place.y / T * sizes.dState + n];
            k = place.y % T;
            token = place.x;
          }
          let h = loc[token * sizes.dState + n] + multiply(powers[k * sizes.dState + n], incoming);
          re[s] = h.x;
          im[s] = h.y;
        }
        hRe[i] = re;
        hIm[i] = im;
      }
    }
    workgroupBarrier();
    for (var n = 0u; n < width; n++) {
      let c = C[(n0 + n) * sizes.dModel + j];
      for (var q = 0u; q < QUADS; q++) {
        sums[q] += hRe[q * SLAB + n] * c.x;
        sums[q] += hIm[q * SLAB + n] * c.y;
      }
    }
    workgroupBarrier();
  }

  if (column >= sizes.dModel) { return; }
  let skip = D[j];
  for (var q = 0u; q < QUADS; q++) {
    for (var s = 0u; s < 4; s++) {
      if (4 * q + s < count) {
        let row = first + 4 * q + s;
        var token = row;
        if (thinned) { token = places[row].x; }
        y[row * sizes.dModel + j] = sums[q][s] + skip * u[token * sizes.dModel + j];
      }
    }
  }
}
