// y = x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which is gelu in its tanh form.
// Built from exp: WGSL's tanh may be off by 1e-5.

struct Sizes { width: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [tokens, width]
@group(0) @binding(3) var<storage, read> x: array<f32>;       // [tokens, width]

@compute @workgroup_size(64)
fn gelu(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flatten(group, groups) * 64 + lane;
  if (i >= segment.tokens * sizes.width) { return; }
  // At 13 the sigmoid has long been 0 or 1 in float32, and the cube of a large x would overflow.
  let v = clamp(x[i], -13.0, 13.0);
  y[i] = x[i] * sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v));
}
