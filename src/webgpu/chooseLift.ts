/**
 * How many timesteps a program's LRUs take as one: where the plan that does costs clearly less than the one that does not, both
 * counted from their dispatches. So a stage that is a part of the product before it, but not of a lifted one, is in the count.
 */
import { lruStages, type Program } from "../program.js";
import { type Dispatch, noWeights, scheduled } from "./dispatches.js";
import type { Lifting } from "./lifting.js";
import { loadsOf } from "./loads.js";
import { segmentOf } from "./pipelines.js";
import { makePlan } from "./plan.js";
import { plainTiles, T } from "./tiles.js";

/** What a GPU can multiply and add while a byte comes: 20 (H100), 30 (integrated, M4 Max), 80 (RTX 4090). */
const FLOPS_PER_BYTE = 30;

/** Chunks of lifted timesteps that fill a large GPU; fewer are done sooner without. */
const LEAST_CHUNKS = 256;

const LIFTS = [2, 4, 8, 16];

/** Several chunks of any of them: what each token of a long forward takes. */
const TOKENS = 32 * T;

const known = new WeakMap<Program, number>();

/** Lifting that pays. */
export function liftingOf(program: Program): Lifting {
  const lift = known.get(program) ?? liftOf(program);
  known.set(program, lift);
  return { lift, leastChunks: LEAST_CHUNKS };
}

/**
 * Timesteps to take as one: 1 where that is not clearly faster, as in most layers that are wide and have N <= H. More of them save
 * 5 % of what the LRUs cost, and never move more bytes than none.
 */
function liftOf(program: Program): number {
  if (lruStages(program).some(({ backward }) => backward)) return 1;
  const plain = countOf(program, 1);
  let [lift, best] = [1, plain];
  for (const P of LIFTS) {
    const count = countOf(program, P);
    if (count.bytes < plain.bytes && count.cost < best.cost - 0.05 * best.lrus) [lift, best] = [P, count];
  }
  return lift;
}

/** Of a token: bytes; flops with those that the bytes stand in for; and how many of these are its LRUs'. */
export function countOf(program: Program, P: number): { bytes: number; cost: number; lrus: number } {
  const segment = { ...segmentOf(1, TOKENS), chunks: TOKENS / P / T };
  const count = { bytes: 0, cost: 0, lrus: 0 };
  const { dispatches } = makePlan(program, false, P, noWeights);
  for (const { dispatch } of scheduled(dispatches, segment, false, false)) {
    const bytes = bytesOf(dispatch, P);
    // Of products, on lanes of which there are 64 side by side: the other stages compute the same, in epilogues or by themselves.
    const product = { ...dispatch, epilogue: [] };
    const cost = loadsOf([product], segment, plainTiles).flops / TOKENS + FLOPS_PER_BYTE * bytes;
    count.bytes += bytes;
    count.cost += cost;
    if (/Scan|utput/.test(dispatch.kernel)) count.lrus += cost;
  }
  return count;
}

/** Bytes that a token reads and writes: in a kernel of an LRU its share of what a chunk and P timesteps take. */
function bytesOf({ kernel, sizes, arrays }: Dispatch, P: number): number {
  const [width = 0, other = 0] = sizes;
  const areas = arrays.filter((array) => typeof array === "number").length;
  switch (kernel) {
    case "projectScan":
      return (4 * width + 8 * other + (8 * other + 8) / T) / P;
    case "carryScan":
      return (16 * width + 8) / T / P;
    case "output":
    case "liftedOutput":
      // Besides y and u, what its epilogue reads. Lifted, the last loc of a chunk is not read.
      return (4 * width * (areas - 3) + 8 * other + (P > 1 ? 8 : 8 * other + 8) / T) / P;
    case "dense":
      return 4 * width + 4 * other * (areas - 1);
    case "embedding":
      return 4 + 4 * width;
    case "pool":
      return other === 1 ? 0 : 4 * width;
    default:
      return 4 * width * areas;
  }
}
