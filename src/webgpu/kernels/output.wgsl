// y = Re(C h) + D * u.
// Or lifted (LIFT is 1): a token is several timesteps, h the state before it, and D a matrix, of which nothing is above the
// diagonal of blocks.
// A workgroup takes CHUNKS chunks, or as many times T of the wanted tokens where they are thinned, and WIDTH features; a thread
// ROWS timesteps of COLS features.

struct Sizes { dModel: u32, dState: u32, block: u32, back: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [tokens or outputs, dModel]
@group(0) @binding(3) var<storage, read> loc: array<vec2f>;    // [tokens, dState]
@group(0) @binding(4) var<storage, read> carry: array<vec2f>;  // [chunks, dState]
@group(0) @binding(5) var<storage, read> powers: array<vec2f>; // [T, dState], lambda^(k+1)
@group(0) @binding(6) var<storage, read> C: array<vec2f>;      // [dState, dModel] of (C_re, -C_im)
@group(0) @binding(7) var<storage, read> D: array<f32>;        // [1, dModel]; lifted [dModel in, dModel out]; then parameters [block]
@group(0) @binding(8) var<storage, read> u: array<f32>;        // [tokens, dModel]
@group(0) @binding(9) var<storage, read> places: array<vec2u>; // chunks as in projectScan; thinned: token, T chunk + k

var<workgroup> slab: array<vec4f, ROOM>;       // re of h [CHUNKS T / 4, SLAB], four timesteps each
var<workgroup> hIm: array<vec4f, TILE * SLAB>; // im of h

@compute @workgroup_size(THREADS)
fn output(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let blocks = (sizes.dModel + WIDTH - 1) / WIDTH;
  let task = flatten(group, groups);
  let origin = task / blocks * CHUNKS;
  if (origin >= segment.chunks) { return; }
  let thinned = segment.thinned != 0;
  let part = thread / LANES;
  let column = task % blocks * WIDTH + thread % LANES;

  var sums: array<vec4f, QUADS * COLS>;
  for (var n0 = 0u; n0 < sizes.dState; n0 += SLAB) {
    let width = min(SLAB, sizes.dState - n0);
    for (var i = thread; i < TILE * SLAB; i += THREADS) {
      if (i % SLAB < width) {
        let n = n0 + i % SLAB;
        let row = i / SLAB * 4;
        let chunk = min(origin + row / T, segment.chunks - 1);
        var first = 0u;
        var count = 0u;
        var incoming: vec2f;
        if (!thinned) {
          first = places[chunk].x;
          count = places[chunk].y & ~FRESH;
          incoming = carry[chunk * sizes.dState + n];
        }
        var re: vec4f;
        var im: vec4f;
        for (var s = 0u; s < 4; s++) {
          // Past the chunk's last token it is repeated: nothing reads what comes of it.
          var k = min(row % T + s, count - 1);
          var token = first + k;
          if (thinned) {
            let place = places[min(origin * T + row + s, segment.tokens - 1)];
            incoming = carry[place.y / T * sizes.dState + n];
            k = place.y % T;
            token = place.x;
          }
          var h = incoming;
          if (k >= LIFT) {
            let age = select(k - LIFT, count - 1 - k, isBack(n, sizes.back));
            let added = multiply(powers[age * sizes.dState + n], incoming);
            h = loc[(token - LIFT) * sizes.dState + n] + added;
          }
          re[s] = h.x;
          im[s] = h.y;
        }
        slab[i] = re;
        hIm[i] = im;
      }
    }
    workgroupBarrier();
    for (var n = 0u; n < width; n++) {
      var w: array<vec2f, COLS>;
      for (var c = 0u; c < COLS; c++) {
        w[c] = C[(n0 + n) * sizes.dModel + min(column + c * LANES, sizes.dModel - 1)];
      }
      for (var q = 0u; q < QUADS; q++) {
        let re = slab[(part * QUADS + q) * SLAB + n];
        let im = hIm[(part * QUADS + q) * SLAB + n];
        for (var c = 0u; c < COLS; c++) {
          sums[q * COLS + c] += re * w[c].x;
          sums[q * COLS + c] += im * w[c].y;
        }
      }
    }
    workgroupBarrier();
  }

  if (LIFT > 0) {
    let end = min(sizes.dModel, ((task % blocks + 1) * WIDTH - 1) / sizes.block * sizes.block + sizes.block);
    for (var k0 = 0u; k0 < end; k0 += SLAB) {
      let width = min(SLAB, end - k0);
      for (var i = thread; i < TILE * SLAB; i += THREADS) {
        if (i % SLAB < width) {
          let row = i / SLAB * 4;
          let place = places[min(origin + row / T, segment.chunks - 1)];
          for (var s = 0u; s < 4; s++) {
            let token = place.x + min(row % T + s, (place.y & ~FRESH) - 1);
            slab[i][s] = u[token * sizes.dModel + k0 + i % SLAB];
          }
        }
      }
      workgroupBarrier();
      for (var k = 0u; k < width; k++) {
        var w: array<f32, COLS>;
        for (var c = 0u; c < COLS; c++) {
          w[c] = D[(k0 + k) * sizes.dModel + min(column + c * LANES, sizes.dModel - 1)];
        }
        for (var q = 0u; q < QUADS; q++) {
          let v = slab[(part * QUADS + q) * SLAB + k];
          for (var c = 0u; c < COLS; c++) { sums[q * COLS + c] += v * w[c]; }
        }
      }
      workgroupBarrier();
    }
  }

  let chunk = origin + part / PARTS;
  var first = chunk * T; // of y
  var count = min(T, segment.tokens - min(first, segment.tokens));
  if (chunk >= segment.chunks) { count = 0; }
  else if (!thinned) {
    first = places[chunk].x;
    count = places[chunk].y & ~FRESH;
  }
  for (var c = 0u; c < COLS; c++) {
    let j = column + c * LANES;
    if (j >= sizes.dModel || count == 0) { break; }
    var skip = 0.0;
    if (LIFT == 0) { skip = D[j]; }
    for (var q = 0u; q < QUADS; q++) {
      for (var s = 0u; s < 4; s++) {
        let k = part % PARTS * ROWS + 4 * q + s;
        if (k < count) {
          var token = first + k;
          let i = token * sizes.dModel + j;
          if (thinned) { token = places[token].x; }
          var sum = sums[q * COLS + c][s];
          var input = 0.0;
          if (LIFT == 0) {
            input = u[token * sizes.dModel + j];
            sum += skip * input;
          }
          sum = finish(sum, i, j, input);
          if (NORM == 0) { y[i] = sum; } else { sums[q * COLS + c][s] = sum; }
        }
      }
    }
  }
  if (NORM == 0) { return; }
  normalize(&sums, thread, sizes.block);
  for (var c = 0u; c < COLS; c++) {
    let j = column + c * LANES;
    if (j >= sizes.dModel) { break; }
    for (var q = 0u; q < QUADS; q++) {
      for (var s = 0u; s < 4; s++) {
        let k = part % PARTS * ROWS + 4 * q + s;
        let i = (first + k) * sizes.dModel + j;
        if (k < count) { y[i] = finishNorm(sums[q * COLS + c][s], i, j, 0); }
      }
    }
  }
}

fn parameter(n: u32, j: u32) -> f32 {
  var own = 1u;
  if (LIFT > 0) { own = sizes.dModel; }
  return D[own * sizes.dModel + n * sizes.block + j % sizes.block];
}
