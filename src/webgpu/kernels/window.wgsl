// y[i] = (x[first] + x[first + 1] + ...) / parts, with what a window holds that began before: windows of tokens.
// A maximum is a sum with another operation; one token of each window is a sum of one. A thread takes one value.

const MAX = 1u;
struct Sizes { width: u32, mode: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [windows, width]
@group(0) @binding(3) var<storage, read> x: array<f32>;        // [tokens, width]
@group(0) @binding(4) var<storage, read> held: array<f32>;     // [rows, width]
@group(0) @binding(5) var<storage, read> places: array<vec4u>; // [windows] first token, tokens, row of held + 1 or 0, parts

@compute @workgroup_size(64)
fn window(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flatten(group, groups) * 64 + lane;
  if (i >= segment.tokens * sizes.width) { return; }
  let place = places[i / sizes.width];
  let j = i % sizes.width;
  var token = place.x;
  let end = token + place.y;
  var total = 0.0;
  if (place.z > 0) {
    total = held[(place.z - 1) * sizes.width + j];
  } else {
    total = x[token * sizes.width + j];
    token++;
  }
  for (; token < end; token++) {
    let value = x[token * sizes.width + j];
    if (sizes.mode == MAX) { total = larger(total, value); } else { total += value; }
  }
  y[i] = total / f32(place.w);
}
