// h[t] = lambda^dt[t] h[t-1] + bu[t]: the scan of tokens that are any time apart, one after the other.
// Each thread takes one state of one row. Where lambda differs from token to token there are no powers to jump by.

struct Sizes { dState: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> h: array<vec2f>;     // [tokens, dState], bu on entry, h on return
@group(0) @binding(3) var<storage, read_write> carry: array<vec2f>; // [chunks, dState], zeroed: h has it already
@group(0) @binding(4) var<storage, read_write> state: array<vec2f>; // [rows, dState], in: h before, out: h after
@group(0) @binding(5) var<storage, read> lambda: array<vec2f>;      // [values of dt, dState]
@group(0) @binding(6) var<storage, read> dt: array<u32>;            // [tokens] which of the values
@group(0) @binding(7) var<storage, read> rows: array<vec4u>;        // [rows], first chunk, chunks, ...
@group(0) @binding(8) var<storage, read> chunks: array<vec2u>;      // [chunks], first token, tokens | FRESH

@compute @workgroup_size(64)
fn timedScan(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let own = placeOf(flatten(group, groups), lane, sizes.dState);
  let row = own.x;
  let n = own.y;
  if (row >= segment.rows || n >= sizes.dState) { return; }
  var last = state[row * sizes.dState + n];
  for (var c = rows[row].x; c < rows[row].x + rows[row].y; c++) {
    carry[c * sizes.dState + n] = vec2f(0);
    let first = chunks[c].x;
    if ((chunks[c].y & FRESH) != 0) { last = vec2f(0); }
    for (var t = first; t < first + (chunks[c].y & ~FRESH); t++) {
      last = multiply(lambda[dt[t] * sizes.dState + n], last) + h[t * sizes.dState + n];
      h[t * sizes.dState + n] = last;
    }
  }
  state[row * sizes.dState + n] = last;
}
