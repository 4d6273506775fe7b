// y = x * sigmoid(gate), or x * gate * sigmoid(gate): SiLU.

struct Sizes { width: u32, silu: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [tokens, width]
@group(0) @binding(3) var<storage, read> x: array<f32>;       // [tokens, width]
@group(0) @binding(4) var<storage, read> gate: array<f32>;    // [tokens, width]

@compute @workgroup_size(64)
fn glu(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flatten(group, groups) * 64 + lane;
  if (i >= segment.tokens * sizes.width) { return; }
  y[i] = gluOf(x[i], gate[i], sizes.silu != 0);
}
