/** A whole network, ready to run. */
import type { Host, Prepared } from "../engine/host.js";
import { LinrecError } from "../errors.js";
import type { Memory } from "../layers/analysis.js";
import { ModelCache } from "../layers/cache.js";
import { checkInput, startOf } from "../layers/forwards.js";
import { checkGenerateOptions, type GenerateOptions, generate } from "../layers/generate.js";
import { ModelInputs } from "../layers/modelInputs.js";
import { Recurrent } from "../layers/recurrent.js";
import { poolOf, slotWidth } from "../program.js";
import type { State } from "../state.js";

/** One stage of a model, for people to read. */
export interface StageInfo {
  /** "lru", "dense", "layerNorm", ... */
  readonly kind: string;
  /** Where it comes from in the checkpoint. */
  readonly name: string;
  /** Features of a token that it reads. */
  readonly inWidth: number;
  /** Features of a token that it gives. */
  readonly outWidth: number;
}

/** A network of several stages, built from a checkpoint; x [batch, seqLen, inputWidth]. */
export class Model extends Recurrent<ModelCache> {
  /** @internal Use `engine.model`. */
  constructor(host: Host, prepared: Prepared) {
    super(host, prepared, new ModelInputs(prepared.program, host.nonFinite));
  }

  /** The architecture that the checkpoint was read as: "minimal-lru/classification", ... */
  get architecture(): string {
    return this.program.architecture;
  }

  /** What was built, in the order in which a token passes through. */
  get stages(): StageInfo[] {
    return this.program.stages.map(({ kind, name, src, dst }) => ({
      kind,
      name,
      inWidth: slotWidth(this.program, src),
      outWidth: slotWidth(this.program, dst),
    }));
  }

  /**
   * Goes on from prompts, Int32Array [batch, seqLen] of which `lengths` are read, token by token: each result is [batch]
   * ids, -1 for a stream that has ended. The same seed gives the same tokens on any number of threads.
   *
   *     for await (const [id] of model.generate(prompt, { temperature: 0.8, seed: 1, stop: [0] })) write(id);
   *
   * Prompt, state and options are read at the call, which throws `unsupported` for a model that does not read ids and give a
   * logit for each, what `forward` rejects with before any work, and `invalid-argument` for options; a result rejects with what `step` rejects with, and with `non-finite`
   * where the logits name no token.
   */
  generate(prompt: Int32Array, options: GenerateOptions = {}): AsyncGenerator<Int32Array, void> {
    this.checkUsable();
    const width = this.vocabulary;
    if (width === undefined || this.outputWidth !== width || poolOf(this.program)) {
      throw new LinrecError(
        "unsupported",
        `${this.architecture} cannot generate: that takes a model that reads token ids and gives a logit for each id at each token.`,
      );
    }
    checkGenerateOptions(options);
    const checked = checkInput(this.reader, prompt, options);
    const state = options.state && this.wrap(startOf(this.reader, options.state, checked.batch));
    return generate(this, width, { ...checked, ids: prompt, state }, options);
  }

  /** Eigenvalues of each LRU layer, first to last, and how long each state remembers. */
  inspect(): Memory[] {
    return this.memories();
  }

  protected override wrap(state: State): ModelCache {
    return new ModelCache(this, state);
  }
}
