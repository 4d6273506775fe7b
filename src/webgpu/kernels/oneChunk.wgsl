// bu = u B_norm^T, h[k] = lambda h[k-1] + bu[k], y = Re(C h) + D * u of rows that are one chunk: as projectScan and output, to the bit.
// A workgroup takes one row: LANES states at a time go from u through registers into y, of which a thread has ROWS timesteps
// of one column. Threads of the same states take turns in the scan, in the order of time.

struct Sizes { dModel: u32, dState: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;       // [tokens, dModel], dModel <= LANES
@group(0) @binding(3) var<storage, read_write> state: array<vec2f>; // [rows, dState], in: h before, out: h after
@group(0) @binding(4) var<storage, read> u: array<f32>;             // [tokens, dModel]
@group(0) @binding(5) var<storage, read> BNorm: array<vec2f>;       // [dModel, dState]
@group(0) @binding(6) var<storage, read> powers: array<vec2f>;      // [T, dState], lambda^(k+1)
@group(0) @binding(7) var<storage, read> C: array<vec2f>;           // [dState, dModel] of (C_re, -C_im)
@group(0) @binding(8) var<storage, read> D: array<f32>;             // [1 + parameters, dModel]
@group(0) @binding(9) var<storage, read> chunks: array<vec2u>;      // [rows], first token, tokens | FRESH

var<workgroup> slab: array<vec4f, ROOM>;       // re of h [T / 4, SLAB], four timesteps each; before, u
var<workgroup> hIm: array<vec4f, TILE * SLAB>; // im of h; before, h from turn to turn

@compute @workgroup_size(THREADS)
fn oneChunk(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = flatten(group, groups);
  if (row >= segment.rows) { return; }
  let place = chunks[row];
  let first = place.x;
  let count = place.y & ~FRESH;
  let part = thread / LANES;
  let lane = thread % LANES;
  let column = min(lane, sizes.dModel - 1);

  var sums: array<vec4f, QUADS>;
  for (var n0 = 0u; n0 < sizes.dState; n0 += LANES) {
    let n = n0 + lane;
    let owner = min(n, sizes.dState - 1);
    var incoming = vec2f(0);
    if (n < sizes.dState && place.y < FRESH) { incoming = state[row * sizes.dState + n]; }

    // With a value: without one, a compiler was seen to leave what was there the time before.
    var re = array<vec4f, QUADS>();
    var im = array<vec4f, QUADS>();
    for (var k0 = 0u; k0 < sizes.dModel; k0 += SLAB) {
      let width = min(SLAB, sizes.dModel - k0);
      for (var i = thread; i < TILE * SLAB; i += THREADS) {
        if (i % SLAB < width) { slab[i] = timesteps(first, count, i / SLAB * 4, k0 + i % SLAB); }
      }
      workgroupBarrier();
      for (var k = 0u; k < width; k++) {
        let b = BNorm[(k0 + k) * sizes.dState + owner];
        for (var q = 0u; q < QUADS; q++) {
          let v = slab[(part * QUADS + q) * SLAB + k];
          re[q] += v * b.x;
          im[q] += v * b.y;
        }
      }
      workgroupBarrier();
    }

    let lambda = powers[owner];
    storageBarrier(); // whoever needs the state before has read it
    for (var now = 0u; now < PARTS; now++) {
      if (now == part) {
        var h = vec2f(0);
        if (now > 0) { h = hIm[lane].xy; }
        for (var q = 0u; q < QUADS; q++) {
          for (var s = 0u; s < 4; s++) {
            let k = now * ROWS + 4 * q + s;
            h = multiply(lambda, h) + vec2f(re[q][s], im[q][s]);
            if (k < count && n < sizes.dState) {
              let added = multiply(powers[k * sizes.dState + n], incoming);
              let all = h + added;
              re[q][s] = all.x;
              im[q][s] = all.y;
              if (k == count - 1) { state[row * sizes.dState + n] = all; }
            }
          }
        }
        if (PARTS > 1) { hIm[lane] = vec4f(h, h); }
      }
      if (PARTS > 1) { workgroupBarrier(); }
    }

    for (var m0 = 0u; m0 < LANES; m0 += SLAB) {
      if (n0 + m0 >= sizes.dState) { break; }
      if (lane >= m0 && lane < m0 + SLAB) {
        for (var q = 0u; q < QUADS; q++) {
          slab[(part * QUADS + q) * SLAB + lane - m0] = re[q];
          hIm[(part * QUADS + q) * SLAB + lane - m0] = im[q];
        }
      }
      workgroupBarrier();
      for (var m = 0u; m < min(SLAB, sizes.dState - n0 - m0); m++) {
        let w = C[(n0 + m0 + m) * sizes.dModel + column];
        for (var q = 0u; q < QUADS; q++) {
          sums[q] += slab[(part * QUADS + q) * SLAB + m] * w.x;
          sums[q] += hIm[(part * QUADS + q) * SLAB + m] * w.y;
        }
      }
      workgroupBarrier();
    }
  }

  var known = 0u; // timesteps of the thread's column
  var skip = 0.0;
  if (lane < sizes.dModel) {
    known = count;
    skip = D[lane];
  }
  for (var q = 0u; q < QUADS; q++) {
    for (var s = 0u; s < 4; s++) {
      let k = part * ROWS + 4 * q + s;
      if (k < known) {
        let i = (first + k) * sizes.dModel + lane;
        let input = u[i];
        let v = finish(sums[q][s] + skip * input, i, lane, input);
        if (NORM == 0) { y[i] = v; } else { sums[q][s] = v; }
      }
    }
  }
  if (NORM == 0) { return; }
  normalize(&sums, thread, sizes.dModel);
  for (var q = 0u; q < QUADS; q++) {
    for (var s = 0u; s < 4; s++) {
      let k = part * ROWS + 4 * q + s;
      let i = (first + k) * sizes.dModel + lane;
      if (k < known) { y[i] = finishNorm(sums[q][s], i, lane, 0); }
    }
  }
}

fn parameter(n: u32, j: u32) -> f32 { return D[(1 + n) * sizes.dModel + j]; }

// Timesteps t to t + 3 of a column. Past the chunk's last token they repeat it: nothing reads what comes of them.
fn timesteps(first: u32, count: u32, t: u32, column: u32) -> vec4f {
  let tokens = first + min(vec4u(t, t + 1, t + 2, t + 3), vec4u(count - 1));
  let i = tokens * sizes.dModel + column;
  return vec4f(u[i.x], u[i.y], u[i.z], u[i.w]);
}
