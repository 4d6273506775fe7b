// carry[c+1] = lambda^T carry[c] + loc[T-1] over the chunks of a row.
// On two levels, for accuracy: GROUP chunks are scanned from 0 with lambda^T, then the groups with lambda^(T GROUP),
// and chunk j of a group adds lambda^(T j) times what came into the group. No chain of roundings is longer than GROUP.
// A workgroup takes LANES states of one row: thread (group g, state s) scans one group at a time.

const LANES = 8u;
struct Sizes { dState: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> carry: array<vec2f>; // [rows, chunks, dState], in: loc[T-1]
@group(0) @binding(3) var<storage, read_write> state: array<vec2f>; // [rows, dState], in: h before, out: h after
@group(0) @binding(4) var<storage, read> loc: array<vec2f>;         // [tokens, dState]
@group(0) @binding(5) var<storage, read> powers: array<vec2f>;      // [T, dState], lambda^(k+1)
@group(0) @binding(6) var<storage, read> jumps: array<vec2f>;       // [GROUP + 1, dState], lambda^(T j)
@group(0) @binding(7) var<storage, read> lengths: array<u32>;       // [rows] real tokens in this segment

var<workgroup> totals: array<vec2f, 64>; // [64 / LANES groups, LANES], first each group's sum, then what comes into it

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
  let length = lengths[row];
  let owner = task % blocks * LANES + lane % LANES;
  let owned = owner < sizes.dState;
  let n = min(owner, sizes.dState - 1);
  let step = jumps[sizes.dState + n];
  let leap = jumps[GROUP * sizes.dState + n];

  var incoming = state[row * sizes.dState + n];
  for (var base = 0u; base < segment.chunks; base += 64 / LANES * GROUP) {
    let begin = min(base + lane / LANES * GROUP, segment.chunks);
    let end = min(begin + GROUP, segment.chunks);

    var sum = vec2f(0);
    for (var c = begin; c < end; c++) { sum = multiply(step, sum) + carry[at(row, c, n)]; }
    totals[lane] = sum;
    workgroupBarrier();

    if (lane < LANES) {
      for (var i = lane; i < 64; i += LANES) {
        let total = totals[i];
        totals[i] = incoming;
        incoming = multiply(leap, incoming) + total;
      }
    }
    workgroupBarrier();

    let start = totals[lane];
    sum = vec2f(0);
    for (var c = begin; c < end; c++) {
      let h = sum + multiply(jumps[(c - begin) * sizes.dState + n], start);
      sum = multiply(step, sum) + carry[at(row, c, n)];
      if (owned) {
        carry[at(row, c, n)] = h;
        if (length > 0 && (length - 1) / T == c) {
          let last = loc[(row * segment.seqLen + length - 1) * sizes.dState + n];
          state[row * sizes.dState + n] = last + multiply(powers[(length - 1) % T * sizes.dState + n], h);
        }
      }
    }
    workgroupBarrier();
  }
}

fn at(row: u32, chunk: u32, n: u32) -> u32 { return (row * segment.chunks + chunk) * sizes.dState + n; }
