/** What is seen of layers that run in parts (`halves.ts`, loaded for the first of them): which they are, and their states. */
import { parts } from "../parts.js";
import { type LruStage, lruStages, type Network, type Program } from "../program.js";
import type { State, StateSlot } from "../state.js";
import type { BothWays } from "./bothWays.js";
import type { Halved } from "./halves.js";

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

/** What reads and writes the states of layers in parts: loaded before there can be any. */
let sharing: Awaited<ReturnType<typeof parts.halves>>;

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
  if (!may) return;
  sharing = await parts.halves();
  const halves = sharing.halve(network);
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
export function readHidden(state: State, hidden: Hidden, row: number) {
  const slot = hidden.slots[0] as StateSlot;
  return isShared(slot) ? sharing.readShared(state, hidden, row) : state.read(slot, row);
}

/** As `State.write`, of all of an LRU's states. */
export function writeHidden(
  state: State,
  hidden: Hidden,
  row: number,
  re: ArrayLike<number>,
  im: ArrayLike<number>,
): void {
  const slot = hidden.slots[0] as StateSlot;
  if (isShared(slot)) sharing.writeShared(state, hidden, row, re, im);
  else state.write(slot, row, re, im);
}

function isShared({ stage }: StateSlot): boolean {
  return (stage as LruStage).share !== undefined;
}
