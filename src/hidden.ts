/** What is seen of layers that run in parts (`halves.ts`, loaded for the first of them): which they are, and their states. */
import type { BothWays } from "./bothWays.js";
import type { Halved } from "./halves.js";
import { parts } from "./parts.js";
import { type LruStage, lruStages, type Network, type Program } from "./program.js";
import type { State, StateSlot } from "./state.js";

export interface Halves {
  readonly lean: Program;
  readonly full: Program;
  readonly Halved: typeof Halved;
}

/** The directions of a bidirectional layer, each of which may run in halves, and what runs them. */
export interface Ways {
  readonly forward: Network;
  readonly backward: Network;
  readonly BothWays: typeof BothWays;
}

/** By the network that is both. */
export const waysOf = new WeakMap<Network, Ways>();

const known = new WeakMap<Network, Halves>();

/** Of a network that {@link findHalves} has seen. */
export function halvesOf(network: Network): Halves | undefined {
  return known.get(network);
}

/** Whatever may have conjugate pairs or real states has an angle that is not above 0. */
export async function findHalves(network: Network): Promise<void> {
  const ways = waysOf.get(network);
  if (ways) {
    await Promise.all([ways.forward, ways.backward].map(findHalves));
    return;
  }
  const may = lruStages(network).some(({ params: { theta, thetaLog } }) =>
    (theta ?? thetaLog)?.some((angle) => angle <= (theta ? 0 : -700)),
  );
  const halves = may && (await parts.halves()).halve(network);
  if (halves) known.set(network, halves);
}

/** Where one LRU's states are: a slot for each part. */
export interface Hidden {
  readonly slots: StateSlot[];
  /** The layer's dState. */
  readonly size: number;
}

/** The LRUs of a state, in their order. */
export function hiddenSlots({ layout: { slots } }: State): Hidden[] {
  const hidden: Hidden[] = [];
  let last: LruStage | undefined;
  for (const slot of slots) {
    if (slot.stage.kind !== "lru") continue;
    const { share } = slot.stage;
    if (share && share.layer === last) hidden.at(-1)?.slots.push(slot);
    else hidden.push({ slots: [slot], size: (share?.layer ?? slot.stage).dState });
    last = share?.layer;
  }
  return hidden;
}

/** h of one LRU and row, re and im [dState] in float64. */
export function readHidden(state: State, { slots, size }: Hidden, row: number) {
  const [re, im] = [new Float64Array(size), new Float64Array(size)];
  for (const slot of slots) {
    const h = state.read(slot, row);
    const { share } = slot.stage as LruStage;
    if (!share) return h;
    const { as, states, of } = share;
    for (const [i, m] of states.entries()) {
      const n = of?.[i];
      if (as === "re" || as === "im") (as === "re" ? re : im)[m] = h[i % 2 ? "im" : "re"][i >> 1] as number;
      else if (n === undefined) [re[m], im[m]] = [h.re[i] as number, h.im[i] as number];
      else
        [re[m], im[m]] = [(re[n] as number) + (h.re[i] as number), (h.im[i] as number) - (im[n] as number)];
    }
  }
  return { re, im };
}

/** As `State.write`, of all of an LRU's states. */
export function writeHidden(
  state: State,
  { slots }: Hidden,
  row: number,
  re: ArrayLike<number>,
  im: ArrayLike<number>,
): void {
  for (const slot of slots) {
    const { share } = slot.stage as LruStage;
    if (!share) {
      state.write(slot, row, re, im);
      return;
    }
    const { as, states, of } = share;
    const isReal = as === "re" || as === "im";
    /** Of a state there, the part that stands in one part of a state here. */
    const part = (values: ArrayLike<number>, other: 0 | 1, sign: number) =>
      Array.from({ length: slot.size }, (_, i) => {
        if (isReal) return (as === "re" ? re : im)[states[2 * i + other] ?? -1] ?? 0;
        const n = of?.[i];
        const value = values[states[i] as number] as number;
        return n === undefined ? value : value + sign * (values[n] as number);
      });
    state.write(slot, row, part(re, 0, -1), part(im, 1, 1));
  }
}
