// sum[p] = sum[p-1] + x[p]: the running sum behind a mean over time.
// A workgroup takes 16 columns of one row; 16 threads share a column and add whole chunks, so that no sum of many terms
// is taken one by one. The last token is the running sum that forgets all but the newest term; from a reset on it is anew.
// A maximum is a sum with another operation.

const LAST = 1u;
const MAX = 2u;
struct Sizes { width: u32, mode: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [rows, width], sum / count
@group(0) @binding(3) var<storage, read_write> sum: array<f32>; // [rows, width], in: before this segment, out: after it
@group(0) @binding(4) var<storage, read> x: array<f32>;         // [tokens, width]
@group(0) @binding(5) var<storage, read> rows: array<vec4u>;    // [rows], ..., first token, tokens | FRESH
@group(0) @binding(6) var<storage, read> counts: array<f32>;    // [rows] tokens behind the mean, or 1

var<workgroup> partial: array<f32, 256>; // [16 shares, 16 columns]

fn join(a: f32, b: f32) -> f32 {
  if (sizes.mode == MAX) { return larger(a, b); }
  return a + b;
}

@compute @workgroup_size(256)
fn pool(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let blocks = (sizes.width + 15) / 16;
  let task = flatten(group, groups);
  if (task >= segment.rows * blocks) { return; }
  let row = task / blocks;
  let first = rows[row].z;
  let length = rows[row].w & ~FRESH;
  let column = task % blocks * 16 + lane % 16;
  let j = min(column, sizes.width - 1);
  let newest = sizes.mode == LAST;
  let begin = select(0u, length - 1, newest);

  let empty = select(0.0, -3.4028234e38, sizes.mode == MAX);
  var share = empty;
  for (var t0 = begin + lane / 16 * T; t0 < length; t0 += 16 * T) {
    var chunk = empty;
    for (var t = t0; t < min(t0 + T, length); t++) { chunk = join(chunk, x[(first + t) * sizes.width + j]); }
    share = join(share, chunk);
  }
  partial[lane] = share;
  workgroupBarrier();

  if (lane >= 16 || column >= sizes.width) { return; }
  var total = partial[lane];
  for (var i = lane + 16; i < 256; i += 16u) { total = join(total, partial[i]); }
  let at = row * sizes.width + j;
  if (!newest && (rows[row].w & FRESH) == 0) { total = join(total, sum[at]); }
  sum[at] = total;
  y[at] = total / counts[row];
}
