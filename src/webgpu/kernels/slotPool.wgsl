// y[t] = sum[t] / count[t], sum[t] = sum[t-1] + x[t], of many streams, step after step: as slotScan goes through them.
// A maximum is a sum with another operation, over a count of 1; the last token needs no sum.
// A sum is that of two: what the last tokens add is added to what was before them 64 times while the count doubles, for in
// a float32 that grows term by term the terms are lost.
// Each thread takes one column of one row.

const LAST = 1u;
const MAX = 2u;
struct Sizes { width: u32, mode: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [tokens, width]
@group(0) @binding(3) var<storage, read_write> sum: array<vec2f>; // [slots, width]; LAST: one value, not used
@group(0) @binding(4) var<storage, read> x: array<f32>;         // [tokens, width]
@group(0) @binding(5) var<storage, read> places: array<vec2u>;  // [tokens], slot | FRESH, float32 tokens since the origin

@compute @workgroup_size(64)
fn slotPool(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let own = placeOf(flatten(group, groups), lane, sizes.width);
  let row = own.x;
  let j = own.y;
  if (row >= segment.rows || j >= sizes.width) { return; }
  var at = (places[row].x & ~FRESH) * sizes.width + j;
  if (sizes.mode == LAST) { at = 0; }
  var total = sum[at];
  for (var token = row; token < segment.tokens; token += segment.rows) {
    let place = places[token];
    let value = x[token * sizes.width + j];
    var count = bitcast<f32>(place.y);
    if (sizes.mode != 0) { count = 1; }
    if (sizes.mode == LAST || (place.x & FRESH) != 0) { total = vec2f(value, 0); }
    else if (sizes.mode == MAX) { total.x = larger(total.x, value); }
    else { total.y += value; }
    if ((place.y & 0x1ffff) == 0) { total = vec2f(total.x + total.y, 0); }
    y[token * sizes.width + j] = (total.x + total.y) / count;
  }
  if (sizes.mode != LAST) { sum[at] = total; }
}
