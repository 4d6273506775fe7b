/** An LRU that reads each row from both ends. */
import { LinrecError } from "../errors.js";
import type { Lru } from "../lru.js";
import { type Ways, waysOf } from "../networks/hidden.js";
import { type BackendName, type LruStage, lruStages, type Network } from "../program.js";
import { portsOf } from "../runtime/gpuBuffer.js";
import type { Plan } from "../scheduler.js";
import { checkOptions } from "../validate.js";
import { type Memory, memoryOf } from "./analysis.js";
import { describeProgram } from "./describe.js";
import type { ForwardOptions, ProblemSize } from "./forwardOptions.js";

const optionNames = [
  "batch",
  "lengths",
  "integrationTimesteps",
  "reset",
  "out",
  "backend",
  "signal",
  "transfer",
  "onProgress",
] as const;

/** Those of a layer's forward that mean something from either end. */
export type BidirectionalOptions<Y = Float32Array> = Pick<
  ForwardOptions<never, Y>,
  (typeof optionNames)[number]
>;

/**
 * y[t] = Re(Cf hf[t] + Cb hb[t]) + (Df + Db) x[t], with hf[t] = lambda_f hf[t-1] + Bf x[t] from each row's first token on and
 * hb[t] = lambda_b hb[t+1] + Bb x[t] from its last real token back; x, y [batch, seqLen, dModel].
 *
 * On the CPU each direction is a layer on its own, and y their sum, rounded once: bit for bit what reversing the rows by hand
 * gives. A GPU has the states of both side by side, and one output product over them.
 * It needs whole sequences: there is no `step`, and no `state` to go on from.
 */
export class BidirectionalLru {
  readonly #lru: Lru;

  /** @internal Use `engine.bidirectional`. */
  constructor(lru: Lru) {
    this.#lru = lru;
  }

  /** H: features of a token of x and of y. */
  get dModel(): number {
    return this.#lru.dModel;
  }

  /** dModel, as of every layer. */
  get inputWidth(): number {
    return this.dModel;
  }

  /** dModel, as of every layer. */
  get outputWidth(): number {
    return this.dModel;
  }

  /** As of a layer. */
  get backend(): BackendName {
    return this.#lru.backend;
  }

  /** What would run a forward, and why. Throws as a layer's `explain` does, and `unsupported` for any other verb. */
  explain(verb: "forward", problem: ProblemSize = {}): Plan {
    if (verb !== "forward") throw unsupported(`${verb}`);
    return this.#lru.explain(verb, problem);
  }

  /** @internal */
  get directions(): { readonly forward: Network; readonly backward: Network } {
    const { forward, backward } = waysOf.get(this.#lru.program) as Ways;
    return { forward, backward };
  }

  /** What it is made of, as a table for a console: a line for either direction, and their sums. */
  describe(): string {
    const stages = Object.entries(this.directions).flatMap(([name, { stages }]) =>
      stages.map((stage) => ({ ...stage, name })),
    );
    return describeProgram({ ...this.#lru.program, architecture: "bidirectional", stages });
  }

  /** Eigenvalues, and how long each state remembers, of either direction. */
  inspect(): { readonly forward: Memory; readonly backward: Memory } {
    const { forward, backward } = this.directions;
    const [there, back] = [forward, backward].map((way) => memoryOf(lruStages(way)[0] as LruStage));
    return { forward: there as Memory, backward: back as Memory };
  }

  /**
   * Reads whole sequences, as a layer's `forward` does and with its errors; `unsupported` for `state` and `every`. A token's
   * timestep is its own in both directions; a reset parts what is before it from what is after it, for both.
   */
  async forward<Y extends Float32Array = Float32Array<ArrayBuffer>>(
    x: Float32Array,
    options: BidirectionalOptions<Y> = {},
  ): Promise<{ readonly y: Y }> {
    for (const name of ["state", "every"]) if (name in Object(options)) throw unsupported(name);
    checkOptions("forward's options", options, optionNames);
    if (portsOf(x, options.out)) throw unsupported("way to reverse a GPUBuffer");
    const { y } = await this.#lru.forward(x, options);
    return { y };
  }

  /** @throws `unsupported`: the backward direction starts at a token that has not come yet */
  step(): never {
    throw unsupported("step");
  }

  /** @throws `unsupported` */
  stepSync(): never {
    throw unsupported("stepSync");
  }

  /** @throws `unsupported` */
  allocateInferenceCache(): never {
    throw unsupported("inference cache");
  }

  /** Frees what the engine holds for it. Work under way rejects with `disposed`. Idempotent. */
  dispose(): void {
    this.#lru.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}

function unsupported(what: string): LinrecError {
  return new LinrecError(
    "unsupported",
    `A bidirectional layer has no ${what}: it needs the whole sequence. Use forward, or a layer that reads one way.`,
  );
}
