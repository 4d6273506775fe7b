/** Which formulations a tensor library may try on a shape, and what they need. */
import { blockSize, chunked, logStep, looped, scanOp } from "./formulations.mjs";

const builders = { chunked, looped, logStep, scanOp };
const words = {
  chunked: "chunked, products with constant powers",
  looped: "chunked, short loops",
  logStep: "log-step",
  scanOp: "Scan operator",
};

/** Arrays of [rows * L, N] floats that are alive at once, in a runtime that reuses memory well. */
const arraysAlive = { chunked: 8, looped: 10, logStep: 12, scanOp: 10 };

/** More than this, and a formulation is left out, with a word about it. */
export const MEMORY_LIMIT = 8e9;

/** Tokens of a piece of a long sequence: its arrays stay in cache. The state goes from piece to piece. */
const PIECE = 8192;

/**
 * Each: { name, kind, target (of a chunk's size), rows (at a time), L (tokens at a time), bytes, skipped (why) }
 * @param {[string, number[]][]} kinds formulations and sizes of chunks
 * @param {number} limit bytes that this library can have
 */
export function choices({ batch, seqLen, dModel, dState }, kinds, limit = MEMORY_LIMIT) {
  const result = [];
  for (const [kind, targets] of kinds) {
    // Few rows at a time, or a part of one, need less memory.
    const portions = [[batch, seqLen]];
    if (batch > 1) portions.push([1, seqLen]);
    if (hasState(kind) && seqLen > PIECE) portions.push([1, blockSize(seqLen, PIECE)]);
    for (const target of targets) {
      for (const [rows, L] of portions) {
        const bytes = 4 * rows * L * (arraysAlive[kind] * dState + 2 * dModel) + 8 * batch * seqLen * dModel;
        const size = target ? ` of ${blockSize(L, target)}` : "";
        const portion = L < seqLen ? `, ${L} tokens at a time` : rows < batch ? ", row by row" : "";
        const skipped =
          bytes > limit ? `would take about ${gigabytes(bytes)}, more than ${gigabytes(limit)}` : "";
        result.push({
          name: `${words[kind]}${size}${portion}`,
          kind,
          target,
          rows,
          L,
          whole: L === seqLen,
          bytes,
          skipped,
        });
      }
    }
  }
  return result;
}

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

const hasState = (kind) => kind === "chunked" || kind === "looped";

/**
 * For a smaller shape, the same way to compute it: [rows, tokens] at a time.
 * Pieces stay pieces, so that passing the state on is checked too.
 */
export function portionOf({ batch, seqLen }, { rows, L, whole }) {
  const tokens = whole ? seqLen : L < seqLen ? L : blockSize(seqLen, Math.ceil(seqLen / 2));
  return { rows: Math.min(rows, batch), L: tokens };
}

/** The shape of re and of im of a state. */
export const stateShape = (kind, rows, N) => (kind === "chunked" ? [N, rows, 1] : [rows, 1, N]);

/** { y, state() }. h0: re and im, or nothing for zeros */
export function build(ops, x, { dModel: H, dState: N }, m, { kind, target, rows, L }, h0) {
  const zeros = () => ops.constant(() => new Float32Array(rows * N), stateShape(kind, rows, N));
  const start = h0 ?? (hasState(kind) ? [zeros(), zeros()] : undefined);
  return builders[kind](ops, x, { rows, L, H, N }, m, target, start);
}
