/** What a layer or a model sees of its engine, and the engine of them. */
import type { Backend, ForwardJob, PlainJob, Runner } from "../backend.js";
import type { AnyCache } from "../layers/cache.js";
import type { BackendOption } from "../layers/forwardOptions.js";
import type { CacheOwner, GpuCache } from "../layers/gpuCache.js";
import type { Chain } from "../networks/chain.js";
import type { Network } from "../program.js";
import type { Stop } from "../runtime/signal.js";
import type { Candidate, Hardware, Plan, Preference, Verb, Work } from "../scheduler.js";
import type { State, StateLayout } from "../state.js";
import type { NonFinite } from "./options.js";

/** A program in the hands of an engine. */
export interface Prepared {
  readonly program: Network;
  /** What runs its parts where its rate changes; a bare layer has none. */
  readonly chain?: typeof Chain | undefined;
  /** Of its states. */
  readonly layout: StateLayout;
  /** What runs it, by backend: made when first wanted. */
  readonly runners: Map<Backend, Promise<Runner>>;
  /** Runs single tokens on the calling thread. */
  readonly stepper: Stepper;
  /** What was asked of the scheduler last, and its answer: asking anew takes longer than a step. */
  asked?: Asked | undefined;
  /** Work that has not settled yet, by what stops it. */
  readonly underWay: Map<Stop, Promise<unknown>>;
}

export interface Asked {
  readonly preference: Preference;
  readonly hardware: Hardware;
  readonly work: Work;
  readonly candidate: Candidate | undefined;
}

export interface Stepper {
  /** x [batch, inputWidth], token ids as their bits -> y [batch, outputWidth], advancing `state` in place. */
  step(x: Float32Array, y: Float32Array, state: State, timesteps?: Float32Array): void;
  /** Runs a forward on the calling thread if it is a short and plain one: if not, or if it throws, `state` is as it was. */
  atOnce?(job: PlainJob): boolean | undefined;
}

/** The engine, as far as a layer needs it. */
export interface Host {
  readonly nonFinite: NonFinite;
  checkUsable(): void;
  plan(verb: Verb, program: Network, batch: number, seqLen: number, timed?: number): Plan;
  /**
   * Advances job.state where the plan says, and on what is next if that fails and may. What is returned, if anything, is to be
   * waited for: the work may be done already.
   */
  forward(
    prepared: Prepared,
    job: Omit<ForwardJob, "threads">,
    option: BackendOption | undefined,
  ): Promise<void> | undefined;
  /** A cache of `batch` streams on the GPU. */
  gpuCache<Cache extends AnyCache>(
    prepared: Prepared,
    batch: number,
    own: CacheOwner<Cache>,
  ): Promise<GpuCache<Cache>>;
  /** Rejects the program's work under way, and frees its runners when that has settled. */
  release(prepared: Prepared): void;
}
