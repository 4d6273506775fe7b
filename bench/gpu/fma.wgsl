// Multiply-adds that wait for nothing else: eight in flight in each thread, four wide, all in registers.

struct Sizes { rounds: u32, factor: f32, addend: f32 }
@group(0) @binding(0) var<storage, read_write> sums: array<f32>;
@group(0) @binding(1) var<uniform> sizes: Sizes;

@compute @workgroup_size(256)
fn multiplyAdd(@builtin(global_invocation_id) id: vec3u) {
  let f = vec4f(sizes.factor);
  let c = vec4f(sizes.addend);
  var a = vec4f(f32(id.x));
  var b = a + 1;
  var d = a + 2;
  var e = a + 3;
  var g = a + 4;
  var h = a + 5;
  var k = a + 6;
  var l = a + 7;
  for (var i = 0u; i < sizes.rounds; i++) {
    a = fma(a, f, c); b = fma(b, f, c); d = fma(d, f, c); e = fma(e, f, c);
    g = fma(g, f, c); h = fma(h, f, c); k = fma(k, f, c); l = fma(l, f, c);
    a = fma(a, f, c); b = fma(b, f, c); d = fma(d, f, c); e = fma(e, f, c);
    g = fma(g, f, c); h = fma(h, f, c); k = fma(k, f, c); l = fma(l, f, c);
  }
  let sum = a + b + d + e + g + h + k + l;
  sums[id.x] = sum.x + sum.y + sum.z + sum.w;
}
