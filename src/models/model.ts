/** A whole network, ready to run. */
import type { Memory } from "../analysis.js";
import { ModelCache } from "../cache.js";
import { slotWidth } from "../program.js";
import { Recurrent } from "../recurrent.js";
import type { State } from "../state.js";

/** One stage of a model, for people to read. */
export interface StageInfo {
  /** "lru", "dense", "layerNorm", ... */
  readonly kind: string;
  /** Where it comes from in the checkpoint. */
  readonly name: string;
  readonly inWidth: number;
  readonly outWidth: number;
}

/** A network of several stages, built from a checkpoint; x [batch, seqLen, inputWidth]. */
export class Model extends Recurrent<ModelCache> {
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

  /** Eigenvalues of each LRU layer, first to last, and how long each state remembers. */
  inspect(): Memory[] {
    return this.memories();
  }

  protected override wrap(state: State): ModelCache {
    return new ModelCache(this, state);
  }
}
