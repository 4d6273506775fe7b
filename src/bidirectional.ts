/** An LRU that reads each row from both ends. */
import type { Memory } from "./analysis.js";
import { describeProgram } from "./describe.js";
import { LinrecError } from "./errors.js";
import type { ForwardOptions, ProblemSize, Progress } from "./forwardOptions.js";
import { portsOf } from "./gpuBuffer.js";
import type { Lru } from "./lru.js";
import type { BackendName, Network } from "./program.js";
import { turnRows } from "./reversed.js";
import type { Plan } from "./scheduler.js";
import { checkFunction, checkOptions } from "./validate.js";

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
export type BidirectionalOptions = Pick<ForwardOptions<never>, (typeof optionNames)[number]>;

/**
 * y[t] = Re(Cf hf[t] + Cb hb[t]) + (Df + Db) x[t], with hf[t] = lambda_f hf[t-1] + Bf x[t] from each row's first token on and
 * hb[t] = lambda_b hb[t+1] + Bb x[t] from its last real token back; x, y [batch, seqLen, dModel].
 *
 * Each direction is a layer on its own, and y their sum, rounded once: bit for bit what reversing the rows by hand gives.
 * It needs whole sequences: there is no `step`, and no `state` to go on from.
 */
export class BidirectionalLru {
  readonly #forward: Lru;
  readonly #backward: Lru;

  /** @internal Use `engine.bidirectional`. */
  constructor(forward: Lru, backward: Lru) {
    this.#forward = forward;
    this.#backward = backward;
    if (forward.dModel === backward.dModel) return;
    this.dispose();
    throw new LinrecError(
      "shape-mismatch",
      `forward has dModel ${forward.dModel}, backward ${backward.dModel}: both read the same x. Give layers of one dModel.`,
    );
  }

  /** H: features of a token of x and of y. */
  get dModel(): number {
    return this.#forward.dModel;
  }

  /** As of a layer: the one that reads forward. */
  get backend(): BackendName {
    return this.#forward.backend;
  }

  /** What would run a forward, and why; the costs are one direction's. */
  explain(verb: "forward", problem: ProblemSize = {}): Plan {
    if (verb !== "forward") throw unsupported(`${verb}`);
    return this.#forward.explain(verb, problem);
  }

  /** @internal */
  get directions(): { readonly forward: Network; readonly backward: Network } {
    return { forward: this.#forward.program, backward: this.#backward.program };
  }

  /** What it is made of, as a table for a console: a line for either direction, and their sums. */
  describe(): string {
    const stages = Object.entries(this.directions).flatMap(([name, { stages }]) =>
      stages.map((stage) => ({ ...stage, name })),
    );
    return describeProgram({ ...this.#forward.program, architecture: "bidirectional", stages });
  }

  /** Eigenvalues, and how long each state remembers, of either direction. */
  inspect(): { readonly forward: Memory; readonly backward: Memory } {
    return { forward: this.#forward.inspect(), backward: this.#backward.inspect() };
  }

  /**
   * Reads whole sequences, as a layer's `forward` does and with its errors; `unsupported` for `state` and `every`. A token's
   * timestep is its own in both directions; a reset parts what is before it from what is after it, for both.
   */
  async forward(x: Float32Array, options: BidirectionalOptions = {}): Promise<{ readonly y: Float32Array }> {
    for (const name of ["state", "every"]) if (name in Object(options)) throw unsupported(name);
    checkOptions("forward's options", options, optionNames);
    if (portsOf(x, options.out)) throw unsupported("way to reverse a GPUBuffer");
    const { onProgress, ...rest } = options;
    checkFunction("onProgress", onProgress);
    const half = (start: number) =>
      onProgress && (({ done, total }: Progress) => onProgress({ done: (start * total + done) / 2, total }));
    const { y: onto } = await this.#forward.forward(x, { ...rest, onProgress: half(0) });

    const { batch = 1, integrationTimesteps: times, reset, out } = rest;
    const seqLen = x.length / (batch * this.dModel || 1);
    const lengths = rest.lengths ?? new Int32Array(batch).fill(seqLen);
    const parted = reset && new Uint8Array(reset.length);
    for (let i = 0; parted && i < parted.length; i++) {
      const [row, t] = [Math.floor(i / seqLen), i % seqLen];
      const length = lengths[row] as number;
      if (reset[i] && t > 0 && t < length) parted[row * seqLen + length - t] = 1;
    }
    const y = await this.#backward.forwardOnto(onto, x, {
      ...rest,
      reset: parted,
      integrationTimesteps: times && turnRows(times, lengths, 1, seqLen),
      out: undefined,
      onProgress: half(1),
    });
    out?.set(y);
    return { y: out ?? y };
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
    this.#forward.dispose();
    this.#backward.dispose();
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
