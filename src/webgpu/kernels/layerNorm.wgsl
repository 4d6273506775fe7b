// y = (x - mean) / sqrt(var + epsilon) * scale + bias, row by row; or without the mean, var being mean(x^2): RMSNorm.
// A workgroup takes one token. The variance is of x - mean, in a second sweep: E[x^2] - mean^2 cancels.

struct Sizes { width: u32, epsilon: f32, centred: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [tokens, width]
@group(0) @binding(3) var<storage, read> x: array<f32>;       // [tokens, width]
@group(0) @binding(4) var<storage, read> scale: array<f32>;   // [width]
@group(0) @binding(5) var<storage, read> bias: array<f32>;    // [width]

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn layerNorm(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let token = flatten(group, groups);
  if (token >= segment.tokens) { return; }
  let first = token * sizes.width;

  var sum = 0.0;
  var mean = 0.0;
  if (sizes.centred != 0) {
    for (var i = lane; i < sizes.width; i += 64u) { sum += x[first + i]; }
    mean = total(lane, sum) / f32(sizes.width);
  }

  sum = 0.0;
  for (var i = lane; i < sizes.width; i += 64u) {
    let d = x[first + i] - mean;
    sum += d * d;
  }
  let factor = 1.0 / sqrt(total(lane, sum) / f32(sizes.width) + sizes.epsilon);

  for (var i = lane; i < sizes.width; i += 64u) { y[first + i] = (x[first + i] - mean) * factor * scale[i] + bias[i]; }
}

// The sum of what the 64 threads bring.
fn total(lane: u32, value: f32) -> f32 {
  partial[lane] = value;
  workgroupBarrier();
  for (var half = 32u; half > 0; half /= 2) {
    if (lane < half) { partial[lane] += partial[lane + half]; }
    workgroupBarrier();
  }
  let sum = partial[0];
  workgroupBarrier();
  return sum;
}
