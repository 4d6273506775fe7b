// What is fed to a stream: tokens in chunks that are cut anywhere.
import { between } from "../random.mjs";

/**
 * @param x of all tokens, of `inputWidth` values each
 * @param marks of each token: integrationTimesteps, reset, both or nothing
 * @param tokens of each result, or undefined: as the chunks end
 * @returns the chunks, and how many tokens have been read at the end of each result
 */
export function cutUp(next, x, marks, inputWidth, tokens) {
  const total = x.length / inputWidth;
  const marked = Object.keys(marks).length > 0;
  // What is marked comes in whole tokens.
  const unit = marked ? inputWidth : 1;
  const chunks = [];
  /** Tokens at the end of each result. */
  const ends = new Set();
  for (let at = 0, to; at < x.length; at = to) {
    to = Math.min(x.length, at + unit * between(next, 1, Math.ceil(x.length / unit)));
    const part = x.subarray(at, to);
    const [times, reset] = [marks.integrationTimesteps, marks.reset].map((values) =>
      values?.slice(at / inputWidth, to / inputWidth),
    );
    // A chunk without any reset may say so by saying nothing.
    const some = next() < 0.5 || reset?.some(Boolean) ? { reset } : {};
    chunks.push(marked ? { x: part, integrationTimesteps: times, ...some } : part);
    if (!tokens) ends.add(Math.floor(to / inputWidth));
  }
  for (let end = tokens; end < total + tokens; end += tokens) ends.add(Math.min(end, total));
  ends.delete(0);
  return { chunks, ends };
}
