/**
 * Layers whose states come in conjugate pairs, run at half their cost.
 *
 * Where state m is the conjugate of state n to the bit (lambda and B_norm), h_m = conj(h_n) + d with d[t] = lambda_m d[t-1]:
 * whatever x is, d only decays from what the initial states were off by, and is 0 where they were conjugate as well. And
 *
 *   Re(C_n h_n + C_m h_m) = Re((C_n + conj(C_m)) h_n) + Re(C_m d).
 *
 * So the `lean` program has one state of each pair, and gives y while every d is 0. The `full` one has the d beside them, as a
 * layer that reads nothing. A state holds h_n and d, as the full program lays them out; its owner sees h_n and h_m.
 */
import type { ForwardJob, Resident, Runner } from "./backend.js";
import type { Stepper } from "./host.js";
import { splitPairs } from "./models/conjugates.js";
import type { LruStage, Network, Program, Stage } from "./program.js";
import { linksOf } from "./rates.js";
import { State, type StateLayout, type StateSlot, stateLayout } from "./state.js";

export interface Halves {
  readonly lean: Program;
  readonly full: Program;
}

const known = new WeakMap<Network, Halves | null>();

/** Undefined for a network without such layers, or whose rate changes. Made once. */
export function halvesOf(network: Network): Halves | undefined {
  let halves = known.get(network);
  if (halves === undefined) {
    halves = linksOf(network).length > 0 ? null : halve(network as Program);
    known.set(network, halves);
  }
  return halves ?? undefined;
}

function halve({ architecture, slots, stages, output }: Program): Halves | null {
  const wide = [...slots];
  const [lean, full]: [Stage[], Stage[]] = [[], []];
  for (const stage of stages) {
    const pairs = stage.kind === "lru" ? splitPairs(stage.params) : undefined;
    if (stage.kind !== "lru" || !pairs) {
      lean.push(stage);
      full.push(stage);
      continue;
    }
    const { name, dst, dModel: width } = stage;
    const { merged, rest } = pairs;
    const half: LruStage = { ...stage, dState: merged.nuLog.length, params: merged, pairs };
    const other = wide.push(width) - 1;
    lean.push(half);
    full.push(
      half,
      { ...stage, dst: other, dState: rest.nuLog.length, params: rest },
      { kind: "add", name, src: dst, other, dst, width },
    );
  }
  if (lean.length === full.length) return null;
  return {
    lean: { architecture, slots, stages: lean, output },
    full: { architecture, slots: wide, stages: full, output },
  };
}

/** A state, with a narrow one for the lean program beside it. */
interface Passage {
  readonly state: State;
  readonly narrow: State;
  /** What the narrow one has of the state: the same memory in either. */
  readonly shared: readonly (readonly [wide: Uint8Array, narrow: Uint8Array])[];
  /** What pairs are off by. */
  readonly deviations: readonly Float64Array[];
}

/** Runs either program, as the state asks for. */
export class Halved<Part extends Partial<Runner & Stepper>> implements Runner, Stepper {
  readonly #lean: Part;
  readonly #makeFull: () => Part | Promise<Part>;
  #full: Part | Promise<Part> | undefined;
  readonly #layout: StateLayout;
  /** The last step's: most go on with the same state. */
  #stepped: Passage | undefined;

  /** @param makeFull prepares the full program: when first wanted, for few states want it */
  constructor({ lean }: Halves, part: Part, makeFull: () => Part | Promise<Part>) {
    this.#lean = part;
    this.#makeFull = makeFull;
    this.#layout = stateLayout(lean);
  }

  async forward(job: ForwardJob): Promise<void> {
    const passage = this.#begin(job.state);
    if (!passage) return ((await this.#whole()) as Runner).forward(job);
    try {
      await (this.#lean as Runner).forward({ ...job, state: passage.narrow });
    } finally {
      end(passage); // if it has failed, with what is done for good
    }
  }

  step(x: Float32Array, y: Float32Array, state: State, timesteps?: Float32Array): void {
    const passage = this.#begin(state, this.#stepped);
    if (!passage) {
      (this.#whole() as Stepper).step(x, y, state, timesteps);
      return;
    }
    this.#stepped = passage;
    (this.#lean as Stepper).step(x, y, passage.narrow, timesteps);
    end(passage);
  }

  /** The full program's: what is written to it later may be off. */
  async resident(slots: number): Promise<Resident> {
    return (await ((await this.#whole()) as Runner).resident?.(slots)) as Resident;
  }

  dispose(): void {
    this.#lean.dispose?.();
    // One that could not be made has nothing to free.
    Promise.resolve(this.#full).then(
      (full) => full?.dispose?.(),
      () => {},
    );
  }

  #whole(): Part | Promise<Part> {
    this.#full ??= this.#makeFull();
    return this.#full;
  }

  /**
   * The passage of a state from which the lean program can run; undefined if there is a pair in any row that is not
   * conjugate: to the other rows the full program then adds zeros.
   */
  #begin(state: State, last?: Passage): Passage | undefined {
    const passage = last?.state === state ? last : passageOf(state, new State(this.#layout, state.batch));
    for (const values of passage.deviations) {
      // By index: an iterator would take longer than a small layer's step.
      for (let i = 0; i < values.length; i++) if (values[i] !== 0) return undefined;
    }
    const { narrow, shared } = passage;
    narrow.k.set(state.k);
    narrow.count.set(state.count);
    for (const [from, to] of shared) to.set(from);
    return passage;
  }
}

function passageOf(state: State, narrow: State): Passage {
  const shared: [Uint8Array, Uint8Array][] = [];
  const deviations: Float64Array[] = [];
  for (const slot of state.layout.slots) {
    const own = narrow.layout.slots.find(({ stage }) => stage === slot.stage);
    for (let row = 0; row < state.batch; row++) {
      if (own) shared.push([state.block(slot, row), narrow.block(own, row)]);
      else deviations.push(state.carry(slot, row));
    }
  }
  return { state, narrow, shared, deviations };
}

/** Brings what the lean program has made of the narrow state into the other. */
function end({ state, narrow, shared }: Passage): void {
  state.k.set(narrow.k);
  state.count.set(narrow.count);
  for (const [to, from] of shared) to.set(from);
}

/** One LRU's slot, and where what its pairs are off by is: the slot behind it. */
export interface Hidden {
  readonly slot: StateSlot;
  readonly off: StateSlot | undefined;
  /** The layer's dState. */
  readonly size: number;
}

/** The LRUs of a state, in their order. */
export function hiddenSlots({ layout: { slots } }: State): Hidden[] {
  const hidden: Hidden[] = [];
  for (let i = 0; i < slots.length; i++) {
    const slot = slots[i] as StateSlot;
    if (slot.stage.kind !== "lru") continue;
    const off = slot.stage.pairs && slots[++i];
    hidden.push({ slot, off, size: slot.size + (off?.size ?? 0) });
  }
  return hidden;
}

/** h of one LRU and row, re and im [dState] in float64. */
export function readHidden(state: State, { slot, off, size }: Hidden, row: number) {
  const h = state.read(slot, row);
  const { pairs } = slot.stage as LruStage;
  if (!off || !pairs) return h;
  const d = state.read(off, row);
  const [re, im] = [new Float64Array(size), new Float64Array(size)];
  pairs.kept.forEach((n, i) => {
    [re[n], im[n]] = [h.re[i] as number, h.im[i] as number];
  });
  pairs.twins.forEach(([n, m], i) => {
    re[m] = (re[n] as number) + (d.re[i] as number);
    im[m] = (d.im[i] as number) - (im[n] as number);
  });
  return { re, im };
}

/** As `State.write`, of all of an LRU's states. */
export function writeHidden(
  state: State,
  { slot, off }: Hidden,
  row: number,
  re: ArrayLike<number>,
  im: ArrayLike<number>,
): void {
  const { pairs } = slot.stage as LruStage;
  if (!off || !pairs) {
    state.write(slot, row, re, im);
    return;
  }
  const { kept, twins } = pairs;
  const at = (values: ArrayLike<number>) => kept.map((n) => values[n] as number);
  state.write(slot, row, at(re), at(im));
  state.write(
    off,
    row,
    twins.map(([n, m]) => (re[m] as number) - (re[n] as number)),
    twins.map(([n, m]) => (im[m] as number) + (im[n] as number)),
  );
}
