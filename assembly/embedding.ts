// y = table[x].

/**
 * y     [tokens, width] float32, rows one after the other
 * x     [tokens] int32 ids; one that is not below `vocabulary` (x was changed while it was read) reads the last row
 * table [vocabulary, width] float32
 */
export function embedding(y: usize, x: usize, table: usize, tokens: i32, width: i32, vocabulary: i32): void {
  const bytes = <usize>width << 2;
  const last = <u32>(vocabulary - 1);
  for (let t = 0; t < tokens; t++) {
    memory.copy(y, table + <usize>min<u32>(load<u32>(x), last) * bytes, bytes);
    x += 4;
    y += bytes;
  }
}
