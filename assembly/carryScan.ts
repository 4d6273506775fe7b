// carry[c+1] = lambda^T carry[c] + loc[T-1] over the chunks of a row.
import { advanceCarry, roundCarry } from "./carry";

/**
 * carries  [chunks touched, groups, re x 4 | im x 4] float32, written: the carry into each chunk, rounded once
 * carry    [groups, re x 4 | im x 4] float64, advanced in place past every chunk that ends here
 * stateLoc [groups, re x 4 | im x 4] float32, written: loc of the last token if its chunk is unfinished, else 0
 * loc      [tokens, groups, re x 4 | im x 4] float32
 * lambdaT  [groups, re x 4 | im x 4] float64: lambda^chunk
 * real     each part is a state by itself, multiplied by the same part of lambda
 */
export function carryScan(
  carries: usize, carry: usize, stateLoc: usize, loc: usize, lambdaT: usize,
  tokens: i32, k0: i32, chunk: i32, groups: i32, real: bool,
): void {
  const locStride = <usize>groups << 5;
  let last = chunk - k0 - 1;
  for (; last < tokens; last += chunk) {
    const row = loc + <usize>last * locStride;
    for (let g: usize = 0; g < <usize>groups; g++) {
      const c = carry + (g << 6);
      roundCarry(carries + (g << 5), c);
      advanceCarry(c, row + (g << 5), lambdaT + (g << 6), real);
    }
    carries += locStride;
  }
  if (last - chunk + 1 < tokens) {
    // The last chunk is unfinished: its carry is needed for the output, and its loc is part of the state.
    for (let g: usize = 0; g < <usize>groups; g++) {
      roundCarry(carries + (g << 5), carry + (g << 6));
    }
    memory.copy(stateLoc, loc + <usize>(tokens - 1) * locStride, locStride);
  } else {
    memory.fill(stateLoc, 0, locStride);
  }
}
