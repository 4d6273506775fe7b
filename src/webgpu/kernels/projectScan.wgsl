// bu = u B_norm^T, and from it loc[k] = lambda loc[k-1] + bu[k] over each chunk from 0.
// A workgroup takes CHUNKS chunks and WIDTH states, a thread ROWS timesteps of COLS states: one load of a weight feeds ROWS
// timesteps, one of a timestep COLS states. A chunk's threads take turns in the scan, in the order of time
// (states that read back: from its end; nothing comes into a chunk that is short, for it is the first that they read).
// Where no row has a second chunk, what comes into it is its row's state, and nothing is left for carryScan to do.
// What a thread holds is indexed by loops of constant length only: compilers unroll them, and can keep it in registers.

struct Sizes { dModel: u32, dState: u32, carries: u32, back: u32 } // carries: 0 where another kernel scans; back: see isBack
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> loc: array<vec2f>;   // [tokens, dState]
@group(0) @binding(3) var<storage, read_write> carry: array<vec2f>; // [chunks, dState], loc[T-1], or of single chunks the carry
@group(0) @binding(4) var<storage, read_write> state: array<vec2f>; // [rows, dState], of single chunks in: h before, out: h after
@group(0) @binding(5) var<storage, read> u: array<f32>;             // [tokens, dModel]
@group(0) @binding(6) var<storage, read> BNorm: array<vec2f>;       // [dModel, dState]
@group(0) @binding(7) var<storage, read> powers: array<vec2f>;      // [T, dState], lambda^(k+1)
@group(0) @binding(8) var<storage, read> chunks: array<vec2u>;      // [chunks], first token, tokens | FRESH

var<workgroup> slab: array<vec4f, TILE * SLAB>; // u [CHUNKS T / 4, SLAB], four timesteps each

@compute @workgroup_size(THREADS)
fn projectScan(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let blocks = (sizes.dState + WIDTH - 1) / WIDTH;
  let task = flatten(group, groups);
  let origin = task / blocks * CHUNKS;
  if (origin >= segment.chunks) { return; }
  let part = thread / LANES;
  let state0 = task % blocks * WIDTH + thread % LANES;

  var re: array<vec4f, QUADS * COLS>;
  var im: array<vec4f, QUADS * COLS>;
  for (var k0 = 0u; k0 < sizes.dModel; k0 += SLAB) {
    let width = min(SLAB, sizes.dModel - k0);
    for (var i = thread; i < TILE * SLAB; i += THREADS) {
      if (i % SLAB < width) {
        let place = chunks[min(origin + i / SLAB * 4 / T, segment.chunks - 1)];
        slab[i] = timesteps(place.x, place.y & ~FRESH, i / SLAB * 4 % T, k0 + i % SLAB);
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < width; k++) {
      var b: array<vec2f, COLS>;
      for (var c = 0u; c < COLS; c++) {
        b[c] = BNorm[(k0 + k) * sizes.dState + min(state0 + c * LANES, sizes.dState - 1)];
      }
      for (var q = 0u; q < QUADS; q++) {
        let v = slab[(part * QUADS + q) * SLAB + k];
        for (var c = 0u; c < COLS; c++) {
          re[q * COLS + c] += v * b[c].x;
          im[q * COLS + c] += v * b[c].y;
        }
      }
    }
    workgroupBarrier();
  }

  let chunk = origin + part / PARTS;
  let turn = part % PARTS;
  var first = 0u;
  var count = 0u;
  var isFresh = false;
  if (chunk < segment.chunks) {
    let place = chunks[chunk];
    first = place.x;
    count = place.y & ~FRESH;
    isFresh = place.y >= FRESH;
  }
  let single = sizes.carries != 0 && segment.chunks == segment.rows;
  for (var now = 0u; now < PARTS; now++) {
    for (var c = 0u; c < COLS; c++) {
      let n = state0 + c * LANES;
      let back = isBack(n, sizes.back);
      if (now == select(turn, PARTS - 1 - turn, back)) {
        // The slab has been read: h goes from turn to turn in it.
        let passed = (part / PARTS * COLS + c) * LANES + thread % LANES;
        let lambda = powers[min(n, sizes.dState - 1)];
        var h = vec2f(0);
        if (now > 0) { h = slab[passed].xy; }
        var last = h;
        if (back) {
          for (var q = QUADS; q > 0; q--) {
            for (var s = 4u; s > 0; s--) {
              let k = turn * ROWS + 4 * q + s - 5;
              if (k < count && n < sizes.dState) {
                h = multiply(lambda, h) + vec2f(re[(q - 1) * COLS + c][s - 1], im[(q - 1) * COLS + c][s - 1]);
                loc[(first + k) * sizes.dState + n] = h;
              }
            }
          }
        } else {
          for (var q = 0u; q < QUADS; q++) {
            for (var s = 0u; s < 4; s++) {
              let k = now * ROWS + 4 * q + s;
              h = multiply(lambda, h) + vec2f(re[q * COLS + c][s], im[q * COLS + c][s]);
              if (k < count && n < sizes.dState) {
                loc[(first + k) * sizes.dState + n] = h;
                last = h;
              }
            }
          }
        }
        if (PARTS > 1) { slab[passed] = vec4f(h, h); }
        if (count == 0 || n >= sizes.dState) { continue; }
        let at = chunk * sizes.dState + n;
        if (!single) {
          if (now == PARTS - 1) { carry[at] = h; }
        } else if (now == select((count - 1) / ROWS, PARTS - 1, back)) {
          // Of a row that is read from its end, nobody asks for the state after it.
          var incoming = vec2f(0);
          if (!isFresh) { incoming = state[at]; }
          carry[at] = incoming;
          state[at] = last + multiply(powers[(count - 1) * sizes.dState + n], incoming);
        }
      }
    }
    if (PARTS > 1) { workgroupBarrier(); }
  }
}

// Timesteps t to t + 3 of a column. Past the chunk's last token they repeat it: nothing reads what comes of them.
fn timesteps(first: u32, count: u32, t: u32, column: u32) -> vec4f {
  let tokens = first + min(vec4u(t, t + 1, t + 2, t + 3), vec4u(count - 1));
  let i = tokens * sizes.dModel + column;
  return vec4f(u[i.x], u[i.y], u[i.z], u[i.w]);
}
