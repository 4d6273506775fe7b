// h[t] = lambda^dt[t] h[t-1] + bu[t] of many streams, step after step: the tokens are [steps, rows], and each row has a slot.
// Each thread takes one state of one row.

struct Sizes { dState: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> h: array<vec2f>;     // [tokens, dState], bu on entry, h on return
@group(0) @binding(3) var<storage, read_write> state: array<vec2f>; // [slots, dState], in: h before, out: h after
@group(0) @binding(4) var<storage, read> lambda: array<vec2f>;      // [values of dt, dState]
@group(0) @binding(5) var<storage, read> dt: array<u32>;            // [tokens] which of the values
@group(0) @binding(6) var<storage, read> places: array<vec2u>;      // [tokens], slot | FRESH, ...

@compute @workgroup_size(64)
fn slotScan(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let own = placeOf(flatten(group, groups), lane, sizes.dState);
  let row = own.x;
  let n = own.y;
  if (row >= segment.rows || n >= sizes.dState) { return; }
  let at = (places[row].x & ~FRESH) * sizes.dState + n;
  var last = state[at];
  for (var token = row; token < segment.tokens; token += segment.rows) {
    if ((places[token].x & FRESH) != 0) { last = vec2f(0); }
    let i = token * sizes.dState + n;
    last = multiply(lambda[dt[token] * sizes.dState + n], last) + h[i];
    h[i] = last;
  }
  state[at] = last;
}
