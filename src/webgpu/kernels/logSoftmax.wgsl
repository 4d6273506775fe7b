// y = x - log(sum(exp(x))) over each group of columns.
// A thread takes one group of one token.

struct Sizes { width: u32, group: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [tokens, width]
@group(0) @binding(3) var<storage, read> x: array<f32>;       // [tokens, width]

@compute @workgroup_size(64)
fn logSoftmax(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (flatten(group, groups) * 64 + lane) * sizes.group;
  if (first >= segment.tokens * sizes.width) { return; }
  let end = first + sizes.group;

  // The largest is subtracted before exp, which then cannot overflow.
  var largest = x[first];
  for (var i = first + 1; i < end; i++) { largest = max(largest, x[i]); }
  var sum = 0.0;
  for (var i = first; i < end; i++) { sum += exp(x[i] - largest); }
  let shift = log(sum);
  for (var i = first; i < end; i++) { y[i] = (x[i] - largest) - shift; }
}
