/** The checks of what a model is given beyond those of a layer: ids, pools, what it can and cannot do. */
import type { NonFinite } from "../engine/options.js";
import { LinrecError } from "../errors.js";
import { isUntimed } from "../networks/links.js";
import { type Input, type Network, poolOf, vocabularyOf } from "../program.js";
import { ratesOf, shortestOf } from "../rates.js";
import type { State } from "../state.js";
import { checkInt32, viewOf } from "../validate.js";
import { Inputs } from "./inputs.js";

export class ModelInputs extends Inputs {
  override readonly vocabulary: number | undefined;
  readonly #network: Network;

  constructor(network: Network, nonFinite: NonFinite) {
    super(network, nonFinite);
    this.#network = network;
    this.vocabulary = vocabularyOf(network);
  }

  override get oneRowPerToken(): boolean {
    return !poolOf(this.#network) && !ratesOf(this.#network);
  }

  /** The bits of ids are those of a Float32Array. */
  protected override array(name: string, x: Input): Float32Array {
    if (this.vocabulary === undefined) return super.array(name, x);
    checkInt32(name, x, "an Int32Array of token ids");
    return viewOf(x);
  }

  /** Throws for ids that are none, in what is read of each row. */
  override checkValues(name: string, x: Input, seqLen: number, lengths?: Int32Array): void {
    const ids = this.vocabulary;
    if (ids === undefined) {
      super.checkValues(name, x, seqLen, lengths);
      return;
    }
    for (let i = 0; i < x.length; i++) {
      const id = x[i] as number;
      if (id >= 0 && id < ids) continue;
      const [row, t] = [Math.floor(i / seqLen), i % seqLen];
      if (lengths && t >= (lengths[row] as number)) continue;
      throw new LinrecError(
        "invalid-argument",
        `${name}[${i}] (row ${row}, token ${t}) is ${id}; token ids are 0 to ${ids - 1}.`,
      );
    }
  }

  override checkPooled(lengths: Int32Array): void {
    if (!poolOf(this.#network)) return;
    const empty = lengths.indexOf(0);
    if (empty < 0) return;
    throw new LinrecError(
      "invalid-argument",
      `row ${empty} has no token, and this model pools over time: there is nothing to pool. Give every row at least one token.`,
    );
  }

  /** A network that joins rows to one and takes them apart again gives nothing until it has read all of them. */
  override checkStreams(what: string): void {
    if (!this.#network.stages.some(({ kind }) => kind === "reshape")) return;
    throw new LinrecError(
      "unsupported",
      `${this.#network.architecture} cannot ${what}: its outputs depend on tokens that come later. Pass whole sequences to forward.`,
    );
  }

  /** Throws where a row, or what is left of it after its last reset, is too short to pool. */
  override checkWindows(initial: State, seqLen: number, resets: readonly Int32Array[] | undefined): void {
    const least = shortestOf(this.#network);
    if (seqLen === 0 || least === 1) return;
    for (let row = 0; row < initial.batch; row++) {
      const reset = resets?.[row]?.at(-1);
      const before = reset === undefined ? (initial.count[row] as number) : 0;
      const tokens = seqLen - (reset ?? 0);
      if (before + tokens >= least) continue;
      const after = before > 0 ? `, after ${before} before` : "";
      const what = reset === undefined ? `a row${after}` : `from the reset at token ${reset} on`;
      throw new LinrecError(
        "invalid-argument",
        `x has ${tokens} tokens ${what} (row ${row}); this model pools windows of windows, and needs ${least} for its first output. Give longer sequences, or read these with step.`,
      );
    }
  }

  /** Throws within a window whose tokens so far were some time apart: how far apart its slower token is would be wrong. */
  override checkUntimed(state: State, streams: number, rowOf: (stream: number) => number): void {
    const links = ratesOf(this.#network)?.links ?? [];
    for (const [i, link] of links.entries()) {
      if (link.kind !== "window") continue;
      for (let stream = 0; stream < streams; stream++) {
        const row = rowOf(stream);
        if (row < 0 || isUntimed(link, state.parts[i] as State, row)) continue;
        throw new LinrecError(
          "invalid-argument",
          `The tokens before these had integrationTimesteps, and are in a window that is not full yet (row ${row}). Pass integrationTimesteps for these, too: 1 where tokens are 1 apart.`,
        );
      }
    }
  }

  override checkOneProgram(what: string): void {
    if (!ratesOf(this.#network)) return;
    throw new LinrecError(
      "unsupported",
      `${this.#network.architecture} with these options changes the rate of its tokens, between programs of its own, and cannot take ${what}. Leave it out.`,
    );
  }

  override checkEvery(every: number): void {
    super.checkEvery(every);
    if (every > 1 && poolOf(this.#network)) {
      throw new LinrecError(
        "unsupported",
        `every is ${every}, and this model pools over time: it has one output for each row. Leave \`every\` out.`,
      );
    }
  }

  override outputs(state: State, seqLen: number, every: number): number {
    return poolOf(this.#network) ? 1 : super.outputs(state, seqLen, every);
  }
}
