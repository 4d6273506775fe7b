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
import type { Device } from "./device.js";
import { lruWeights, noWeights, scheduled } from "./dispatches.js";
import { segmentOf } from "./pipelines.js";
import { areaBytes, makePlan, noBytes, type Plan } from "./plan.js";
import { SUBMIT_MS } from "./runner.js";
import { T } from "./tiles.js";

type Bounds = Pick<Device, "maxBinding" | "flopsPerMs">;

/** A part of a network whose rate changes: all of them share what is read by the CPU. */
export function makeLinkedPlan(program: Program, timed: boolean, weights = lruWeights): Plan {
  const plan = makePlan(program, timed, 1, weights);
  return { ...plan, areas: plan.areas.map((area, i) => (i === plan.readback ? noBytes : area)) };
}

/** A link, and the plan of a part. */
interface Stop {
  readonly link: Link;
  readonly layout: Plan | undefined;
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
  const stops = stopsOf(network, timed);
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
  // What the CPU reads.
  add(4 * (states * rows + outputWidth(network) * segment().tokens));
  return { widest, bytes, flops };
}

/** Of networks that have been counted: plain, and with timesteps. */
const known = new WeakMap<Network, [Stop[]?, Stop[]?]>();

function stopsOf(network: Network, timed: boolean): Stop[] {
  const own = known.get(network) ?? [];
  known.set(network, own);
  const links = ratesOf(network)?.links ?? [{ kind: "part", src: 0, dst: 0, program: network as Program }];
  own[Number(timed)] ??= links.map((link) => ({
    link,
    layout: link.kind === "part" ? makeLinkedPlan(link.program, timed, noWeights) : undefined,
  }));
  return own[Number(timed)] as Stop[];
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
 * Of rows that are all as long. Where the rate stays, what is cut in pieces is on its way while others are computed: one round
 * trip; and what lifting and more pieces dispatch again is nothing beside what they compute.
 */
export function passesOf(
  work: Network | Layers,
  batch: number,
  seqLen: number,
  timed: number,
  bounds: Bounds,
  scratchBytes: number,
): Passes {
  const [network, times] = "stages" in work ? [work, 1] : [layerOf(work), work.layers];
  let [rows, tokens, dispatches, roundTrips] = [batch, seqLen, 0, 1];
  const tables = timed && 4 * rows * tokens + 8 * statesPerToken(network) * Math.min(timed, rows * tokens);
  const rates = ratesOf(network);
  if (rates && batch > 0) {
    const most = togetherOf(network, timed > 0, batch, bounds, scratchBytes);
    const padded = Math.ceil(seqLen / rates.padding) * rates.padding;
    roundTrips = Math.ceil(batch / most.rows) * Math.ceil(padded / most.tokens);
    rows = most.rows;
    tokens = Math.min(padded, most.tokens);
  }
  for (const { link, layout } of stopsOf(network, timed > 0)) {
    if (tokens === 0) break;
    if (layout) dispatches += [...scheduled(layout.dispatches, segmentOf(rows, tokens), true, false)].length;
    else if (link.kind === "add") dispatches++;
    else if (link.kind === "reshape") tokens *= link.inWidth / link.outWidth;
    else if (link.kind === "window") {
      dispatches++;
      tokens = Math[link.mode === "stride" ? "ceil" : "floor"](tokens / link.factor);
    }
  }
  return { dispatches: times * dispatches, roundTrips, tables: times * tables };
}
