// In front of every kernel, after the constants T and GROUP. What is in capitals in functions, pipelines.ts replaces.

// What is being run: tokens of some rows, one row after the other, in chunks of up to T of them. After the last stage that
// carries state they may be thinned to those that give an output.
struct Segment { rows: u32, chunks: u32, tokens: u32, thinned: u32 }

// The bit of a chunk's or row's count that says that the state is zero before it.
const FRESH = 0x80000000u;

// The number of a workgroup: more than 65535 of them are spread over two dimensions.
fn flatten(group: vec3u, groups: vec3u) -> u32 { return group.y * groups.x + group.x; }

// The row and the column of a thread where each has one, of rows of so many columns: 64 threads side by side.
fn placeOf(task: u32, lane: u32, columns: u32) -> vec2u {
  let blocks = (columns + 63) / 64;
  return vec2u(task / blocks, task % blocks * 64 + lane);
}

// A power of lambda times a state: the product of two complex numbers, or of two real ones each.
fn multiply(a: vec2f, b: vec2f) -> vec2f { return COMPLEX; }

// Whether state n reads each row from its last token back: those from "first" on do, where any does.
fn isBack(n: u32, first: u32) -> bool { return BACK && n >= first; }

// The maximum, or NaN where either is: WGSL's max may give the other. By their bits, for a compiler may take it that no float is NaN.
fn larger(a: f32, b: f32) -> f32 {
  let bits = max(bitcast<u32>(a) & ~FRESH, bitcast<u32>(b) & ~FRESH);
  return select(max(a, b), a + b, bits > 0x7f800000);
}

// 1 / (1 + exp(-z)), with an exp that cannot overflow.
fn sigmoid(z: f32) -> f32 {
  let e = exp(-abs(z));
  return select(1.0, e, z < 0.0) / (1.0 + e);
}

// x * Phi(x), built from exp, for WGSL's tanh may be off by 1e-5: by erf, Phi(-|x|) = exp(-x^2 / 2) t S(t) as on the CPU, or as
// x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)). At 13 both have long been 0 or 1 in float32, and the cube of a large x would
// overflow.
fn geluOf(x: f32, exact: bool) -> f32 {
  let v = clamp(x, -13.0, 13.0);
  if (!exact) { return x * sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v)); }
  let t = 1.0 / (1.0 + 0.2316 * abs(v));
  let s = 0.09251900762319565 + t * (0.09021434187889099 + t * (0.10373284667730331 + t * (0.010128508321940899
    + t * (0.231429323554039 + t * (-0.20815405249595642 + t * (0.25137490034103394 - t * 0.07124482840299606))))));
  let below = exp(-0.5 * v * v) * t * s;
  return x * select(1.0 - below, below, v < 0.0);
}

// x * sigmoid(z), or x * z * sigmoid(z): SiLU.
fn gluOf(x: f32, z: f32, silu: bool) -> f32 { return x * select(1.0, z, silu) * sigmoid(z); }
