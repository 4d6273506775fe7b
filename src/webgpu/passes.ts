/**
 * How a forward goes through the GPU: how much of it at a time where the rate changes, and the round trips and dispatches
 * that the scheduler's price is of, counted from the plans that run, made without their weights.
 */
import type { Passes } from "../backend.js";
import {
  inputWidth,
  type LruStage,
  type Network,
  outputWidth,
  type Program,
  slotWidth,
  statesPerToken,
} from "../program.js";
import { type Link, type Rates, ratesOf } from "../rates.js";
import { liftingOf } from "./chooseLift.js";
import type { Device } from "./device.js";
import { type Dispatch, localDispatch, lruWeights, noWeights, windowDispatch } from "./dispatches.js";
import { isLifted } from "./lifting.js";
import { loadsOf } from "./loads.js";
import { evenPiece } from "./pieces.js";
import { segmentOf } from "./pipelines.js";
import { areaBytes, type Layout, makePlan, noBytes, type Plan, READBACKS } from "./plan.js";
import { SUBMIT_MS } from "./runner.js";
import { T, type Tiles } from "./tiles.js";

type Bounds = Pick<Device, "maxBinding" | "flopsPerMs">;

/** A part of a network whose rate changes: all of them share what is read by the CPU. */
export function makeLinkedPlan(program: Program, timed: boolean, lift = 1, weights = lruWeights): Plan {
  const plan = makePlan(program, timed, lift, weights);
  return { ...plan, areas: plan.areas.map((area, i) => (i === plan.readback ? noBytes : area)) };
}

/** What runs between parts. */
export function betweenOf(link: Link): Dispatch[] {
  if (link.kind === "window") return [windowDispatch(link)];
  return link.kind === "add" ? [localDispatch(link, 0, 1, 2)] : [];
}

/** A link with its dispatches, and the layout of a part. */
interface Stop {
  readonly link: Link;
  readonly dispatches: readonly Dispatch[];
  readonly layout: Layout | undefined;
}

/** Rows that go together, and tokens of each. One token, or as many as rows are padded to, goes whatever it takes. */
export function togetherOf(
  network: Network,
  timed: boolean,
  batch: number,
  { maxBinding, flopsPerMs }: Bounds,
  scratchBytes: number,
): { rows: number; tokens: number } {
  let [rows, tokens] = [batch, (ratesOf(network) as Rates).padding];
  const stops = stopsOf(network, timed, 1);
  const fits = (rows: number, tokens: number) => {
    const { widest, bytes, flops } = sizeOf(network, stops, rows, tokens);
    return widest <= maxBinding && bytes <= scratchBytes && flops <= SUBMIT_MS * flopsPerMs;
  };
  while (rows > 1 && !fits(rows, tokens)) rows = Math.ceil(rows / 2);
  while (fits(rows, 2 * tokens)) tokens *= 2;
  return { rows, tokens };
}

/** What some tokens of each row take at most: with windows, and with halves of windows. */
function sizeOf(network: Network, stops: readonly Stop[], rows: number, tokens: number) {
  let [rate, flops, bytes, widest, states] = [1, 0, 0, 0, 0];
  const segment = () => segmentOf(rows, Math.ceil(rate * tokens) + 1);
  const add = (size: number) => {
    bytes += size;
    widest = Math.max(widest, size);
  };
  add(4 * inputWidth(network) * rows * tokens);
  for (const { link, layout } of stops) {
    if (layout) {
      for (const area of layout.areas) add(areaBytes(area, segment()));
      flops += segment().chunks * T * layout.flopsPerToken;
      for (const { floats } of layout.states) states += floats;
      continue;
    }
    if (link.kind === "reshape") rate *= link.inWidth / link.outWidth;
    else if (link.kind === "window") rate /= link.factor;
    const width = slotWidth(network, link.dst);
    add(4 * width * segment().tokens);
    states += width;
  }
  // What is carried on, and what the CPU reads.
  add(4 * states * rows);
  for (let i = 0; i < READBACKS; i++) add(4 * (states * rows + outputWidth(network) * segment().tokens));
  return { widest, bytes, flops };
}

/** Of networks that have been counted: by what they lift, and with timesteps (0). */
const known = new WeakMap<Network, Map<number, Stop[]>>();

function stopsOf(network: Network, timed: boolean, lift: number): Stop[] {
  const own = known.get(network) ?? new Map<number, Stop[]>();
  known.set(network, own);
  const links = ratesOf(network)?.links ?? [{ kind: "part", src: 0, dst: 0, program: network as Program }];
  const plan = ratesOf(network) ? makeLinkedPlan : makePlan;
  const stops =
    own.get(timed ? 0 : lift) ??
    links.map((link): Stop => {
      if (link.kind === "part") {
        const { dispatches, ...layout } = plan(link.program, timed, lift, noWeights);
        return { link, dispatches, layout };
      }
      return { link, dispatches: betweenOf(link), layout: undefined };
    });
  own.set(timed ? 0 : lift, stops);
  return stops;
}

/** LRUs that are no network yet. */
export interface Layers {
  readonly dModel: number;
  readonly dState: number;
  readonly layers: number;
}

function layerOf({ dModel, dState }: Layers): Network {
  const layer = { kind: "lru", src: 0, dst: 1, dModel, dState, params: {} } as LruStage;
  return { architecture: "", slots: [dModel, dModel], stages: [layer], output: 1 };
}

/**
 * Of rows that are all as long. What is cut in pieces is on its way while others are computed, so there is one round trip; and
 * what lifting leaves is nothing beside what it computes.
 */
export function passesOf(
  work: Network | Layers,
  batch: number,
  seqLen: number,
  timed: number,
  bounds: Bounds,
  scratchBytes: number,
  tiles: Tiles,
): Passes {
  const [network, times] = "stages" in work ? [work, 1] : [layerOf(work), work.layers];
  let [rows, tokens, submits, segments, lift] = [batch, seqLen, 1, 1, 1];
  const tables = timed && 4 * rows * tokens + 8 * statesPerToken(network) * Math.min(timed, rows * tokens);
  const rates = ratesOf(network);
  if (rates && batch > 0) {
    const most = togetherOf(network, timed > 0, batch, bounds, scratchBytes);
    const padded = Math.ceil(seqLen / rates.padding) * rates.padding;
    rows = most.rows;
    tokens = Math.min(padded, most.tokens);
    submits = Math.ceil(batch / rows) * Math.ceil(padded / most.tokens);
    segments = tokens > 0 ? (batch * padded) / (rows * tokens) : 0;
  } else if (!rates && batch * seqLen > 0) {
    const lifting = liftingOf(network as Program);
    const canLift = !timed && lifting.lift > 1;
    // One row for all, in its share of the chunks: there may be millions.
    const ofRow = { ...lifting, leastChunks: lifting.leastChunks / batch };
    if (canLift && isLifted({ lengths: Int32Array.of(seqLen) }, ofRow)) lift = lifting.lift;
    const { layout } = stopsOf(network, timed > 0, lift)[0] as { layout: Layout };
    const { maxBinding: areaBytes, flopsPerMs } = bounds;
    const most = { areaBytes, totalBytes: scratchBytes, flops: (SUBMIT_MS * flopsPerMs) / times };
    ({ rows, tokens } = evenPiece(layout, batch, seqLen, most));
    segments = (batch * seqLen) / (rows * tokens);
    submits = Math.ceil(batch / rows) * Math.ceil(seqLen / tokens);
  }
  const sum = { dispatches: 0, flops: 0, threads: 0, loads: 0, waits: 0 };
  for (const { link, dispatches } of stopsOf(network, timed > 0, lift)) {
    if (tokens === 0) break;
    let given = tokens;
    if (link.kind === "reshape") given *= link.inWidth / link.outWidth;
    else if (link.kind === "window") given = Math.ceil(tokens / link.factor);
    const segment = { ...segmentOf(rows, given), chunks: rows * Math.ceil(given / lift / T) };
    const own = loadsOf(dispatches, segment, tiles);
    for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += own[key];
    tokens = link.kind === "window" && link.mode !== "stride" ? Math.floor(tokens / link.factor) : given;
  }
  return {
    tables: times * tables,
    dispatches: times * submits * sum.dispatches,
    flops: times * segments * sum.flops,
    threads: times * segments * sum.threads,
    loads: times * segments * sum.loads,
    waits: times * submits * sum.waits,
  };
}
