// y = a + b.

/** y, a, b [count] float32, count a multiple of 4; may be the same memory */
export function add(y: usize, a: usize, b: usize, count: i32): void {
  const bytes = <usize>count << 2;
  for (let i: usize = 0; i < bytes; i += 16) {
    v128.store(y + i, f32x4.add(v128.load(a + i), v128.load(b + i)));
  }
}
