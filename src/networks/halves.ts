/**
 * Layers whose states come in conjugate pairs, or are real, run at half their cost.
 *
 * Where state m is the conjugate of state n to the bit (lambda and B_norm), h_m = conj(h_n) + d with d[t] = lambda_m d[t-1]:
 * whatever x is, d only decays from what the initial states were off by, and is 0 where they were conjugate as well. And
 *
 *   Re(C_n h_n + C_m h_m) = Re((C_n + conj(C_m)) h_n) + Re(C_m d).
 *
 * Where lambda_n and its B_norm are real, h_n = r + i d with d[t] = lambda_n d[t-1], likewise, and Re(C_n h_n) = Re(C_n) r - Im(C_n) d.
 * Two such r are the real and the imaginary part of one complex state, and two such d of another.
 *
 * So the `lean` program has one state of each pair and half a state for a real one, and gives y while every d is 0. The `full` one
 * has the d beside them, as layers that read nothing. A state holds h_n, r and d, as the full program lays them out; its owner
 * sees the layer's own.
 */
import type { ForwardJob, PlainJob, Resident, Runner } from "../backend.js";
import type { Stepper } from "../engine/host.js";
import type { LruStage, Network, Program, Share, Stage, StageParams } from "../program.js";
import { ratesOf } from "../rates.js";
import { State, type StateLayout, stateLayout } from "../state.js";
import type { Halves } from "./hidden.js";
import { splitPairs, splitReals } from "./split.js";

/** Undefined for a network without such layers, or whose rate changes. */
export function halve(network: Network): Halves | undefined {
  return ratesOf(network) ? undefined : halveProgram(network as Program);
}

function halveProgram({ architecture, slots, stages, output }: Program): Halves | undefined {
  const wide = [...slots];
  /** For what a second part of a layer gives, by its width. */
  const others = new Map<number, number>();
  const [lean, full]: [Stage[], Stage[]] = [[], []];
  for (const stage of stages) {
    const parts = stage.kind === "lru" ? partsOf(stage) : [stage];
    const { name, dst } = stage;
    for (const [i, part] of parts.entries()) {
      const all: Stage[] = [part];
      if (i > 0) {
        const { dModel: width } = part as LruStage;
        const other = others.get(width) ?? wide.push(width) - 1;
        others.set(width, other);
        all.splice(0, 1, { ...part, dst: other }, { kind: "add", name, src: dst, other, dst, width });
      }
      full.push(...all);
      if (!isOff(part)) lean.push(...all);
    }
  }
  if (lean.length === full.length) return undefined;
  const isWide = lean.some(({ dst }) => dst >= slots.length);
  return {
    lean: { architecture, slots: isWide ? wide : slots, stages: lean, output },
    full: { architecture, slots: wide, stages: full, output },
    Halved,
  };
}

function isOff(part: Stage): boolean {
  const as = part.kind === "lru" && part.share?.as;
  return as === "im" || as === "deviation";
}

/** Layers whose sum is this one: itself, if it has neither pairs nor real states. */
function partsOf(layer: LruStage): LruStage[] {
  const pairs = splitPairs(layer.params);
  const { kept = [...layer.params.nuLog.keys()], merged = layer.params } = pairs ?? {};
  const reals = splitReals(merged);
  if (!pairs && !reals) return [layer];
  const parts: LruStage[] = [];
  const add = (params: StageParams | undefined, as: Share["as"], states: number[], of?: number[]) => {
    const share: Share = { layer, as, states, ...(of && { of }) };
    if (params) parts.push({ ...layer, dState: params.nuLog.length, params, share });
  };
  const whole = (states: readonly number[]) => states.map((n) => kept[n] as number);
  add(reals ? reals.complex : merged, "state", reals ? whole(reals.others) : kept);
  if (reals) {
    add(reals.parts, "re", whole(reals.reals));
    add(reals.rest, "im", whole(reals.reals));
  }
  if (pairs) add(pairs.rest, "deviation", pairs.dropped, pairs.of);
  return parts;
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

  atOnce(job: PlainJob): boolean | undefined {
    const passage = this.#begin(job.state);
    const done = passage && (this.#lean as Stepper).atOnce?.({ ...job, state: passage.narrow });
    if (done) end(passage);
    return done;
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
    if (this.#full) return this.#full;
    const full = this.#makeFull();
    this.#full = full;
    if (full instanceof Promise) full.catch(() => (this.#full = undefined)); // there may be memory for it later
    return full;
  }

  /**
   * The passage of a state from which the lean program can run; undefined if there is a pair in any row that is not
   * conjugate: to the other rows the full program then adds zeros.
   */
  #begin(state: State, last?: Passage): Passage | undefined {
    const passage = last?.state === state ? last : passageOf(state, new State(this.#layout, state.batch));
    settle(passage);
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

/** A passage has views of both states' bytes, which a stepper may have taken. */
function settle({ state, narrow }: Passage): void {
  state.settle();
  narrow.settle();
}

/** Brings what the lean program has made of the narrow state into the other. */
function end(passage: Passage): void {
  settle(passage);
  const { state, narrow, shared } = passage;
  state.k.set(narrow.k);
  state.count.set(narrow.count);
  for (const [to, from] of shared) to.set(from);
}
