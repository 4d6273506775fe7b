/** A program as workers with memories of their own run it. */
import { type PackedProgram, planTiles } from "./packed.js";
import { isInputDirect, isOutputDirect } from "./slots.js";

/**
 * Of threads without shared memory: spans are the tiles there, and each costs messages. They are as large as a millisecond or
 * more of work, and two of them, with what they come and go in, and a chunk more of each, take at most 4 MiB of a worker.
 */
const SPAN_BYTES = 1.5 * 1024 * 1024;

/** The same program in tiles that are spans. */
export function withSpans(packed: PackedProgram): PackedProgram {
  const { inputWidth, outputWidth } = packed;
  // The message that brings x and takes y; and those in the worker's memory, where they are no slots.
  const x = isInputDirect(packed) ? 0 : inputWidth;
  const y = isOutputDirect(packed) ? 0 : outputWidth;
  const apart = 4 * (x + y + Math.max(inputWidth, outputWidth));
  return { ...packed, ...planTiles(packed, SPAN_BYTES, apart) };
}
