// y = x * Phi(x): by erf, or in the tanh form x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
// Built from exp: WGSL's tanh may be off by 1e-5.

struct Sizes { width: u32, exact: u32 }
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
  // At 13 Phi and the sigmoid have long been 0 or 1 in float32, and the cube of a large x would overflow.
  let v = clamp(x[i], -13.0, 13.0);
  if (sizes.exact != 0) {
    // Phi(-|x|) = exp(-x^2 / 2) t S(t), as on the CPU.
    let t = 1.0 / (1.0 + 0.2316 * abs(v));
    let s = 0.09251900762319565 + t * (0.09021434187889099 + t * (0.10373284667730331 + t * (0.010128508321940899
      + t * (0.231429323554039 + t * (-0.20815405249595642 + t * (0.25137490034103394 - t * 0.07124482840299606))))));
    let below = exp(-0.5 * v * v) * t * s;
    y[i] = x[i] * select(1.0 - below, below, v < 0.0);
  } else {
    y[i] = x[i] * sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v));
  }
}
