// carry[c+1] = lambda^T carry[c] + loc[T-1] over the chunks of a row.
// On two levels, for accuracy: GROUP chunks are scanned from 0 with lambda^T, then the groups with lambda^(T GROUP),
// and chunk j of a group adds lambda^(T j) times what came into the group. No chain of roundings is longer than GROUP.
// Nothing comes into a chunk that is FRESH, nor past it. Only the chunk before such a one, and the row's last, are short.
// A workgroup takes LANES states of one row: thread (group g, state s) scans one group at a time.

const LANES = 8u;
struct Sizes { dState: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> carry: array<vec2f>; // [chunks, dState], in: loc[T-1]
@group(0) @binding(3) var<storage, read_write> state: array<vec2f>; // [rows, dState], in: h before, out: h after
@group(0) @binding(4) var<storage, read> loc: array<vec2f>;         // [tokens, dState]
@group(0) @binding(5) var<storage, read> powers: array<vec2f>;      // [T, dState], lambda^(k+1)
@group(0) @binding(6) var<storage, read> jumps: array<vec2f>;       // [GROUP + 1, dState], lambda^(T j)
@group(0) @binding(7) var<storage, read> rows: array<vec4u>;        // [rows], first chunk, chunks, ...
@group(0) @binding(8) var<storage, read> chunks: array<vec2u>;      // [chunks], first token, tokens | FRESH

var<workgroup> totals: array<vec2f, 64>; // [64 / LANES groups, LANES], first each group's sum, then what comes into it
var<workgroup> ends: array<bool, 64>;    // the same: whether nothing passes through the group

@compute @workgroup_size(64)
fn carryScan(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let blocks = (sizes.dState + LANES - 1) / LANES;
  let task = flatten(group, groups);
  if (task >= segment.rows * blocks) { return; }
  let row = task / blocks;
  let origin = rows[row].x;
  let count = rows[row].y;
  let owner = task % blocks * LANES + lane % LANES;
  let owned = owner < sizes.dState;
  let n = min(owner, sizes.dState - 1);
  let step = jumps[sizes.dState + n];
  let leap = jumps[GROUP * sizes.dState + n];

  var incoming = state[row * sizes.dState + n];
  for (var base = 0u; base < count; base += 64 / LANES * GROUP) {
    let begin = min(base + lane / LANES * GROUP, count);
    let end = min(begin + GROUP, count);

    var sum = vec2f(0);
    var isEnd = false;
    for (var c = begin; c < end; c++) {
      if (isFresh(origin + c)) {
        sum = vec2f(0);
        isEnd = true;
      }
      sum = multiply(step, sum) + carry[(origin + c) * sizes.dState + n];
    }
    totals[lane] = sum;
    ends[lane] = isEnd;
    workgroupBarrier();

    if (lane < LANES) {
      for (var i = lane; i < 64; i += LANES) {
        let total = totals[i];
        totals[i] = incoming;
        if (ends[i]) { incoming = total; } else { incoming = multiply(leap, incoming) + total; }
      }
    }
    workgroupBarrier();

    var start = totals[lane];
    sum = vec2f(0);
    for (var c = begin; c < end; c++) {
      if (isFresh(origin + c)) {
        sum = vec2f(0);
        start = vec2f(0);
      }
      let at = (origin + c) * sizes.dState + n;
      let h = sum + multiply(jumps[(c - begin) * sizes.dState + n], start);
      sum = multiply(step, sum) + carry[at];
      if (owned) {
        carry[at] = h;
        if (c + 1 == count) {
          let chunk = chunks[origin + c];
          let k = (chunk.y & ~FRESH) - 1;
          let last = loc[(chunk.x + k) * sizes.dState + n];
          state[row * sizes.dState + n] = last + multiply(powers[k * sizes.dState + n], h);
        }
      }
    }
    workgroupBarrier();
  }
}

fn isFresh(chunk: u32) -> bool { return (chunks[chunk].y & FRESH) != 0; }
