/** A bare LRU layer, ready to run. */
import { LruCache } from "./cache.js";
import type { LruStage } from "./program.js";
import { Recurrent } from "./recurrent.js";
import type { State } from "./state.js";

/**
 * One Linear Recurrent Unit (arXiv 2303.06349, section 2 and eq. 6):
 * h[t] = lambda h[t-1] + B_norm x[t], y[t] = Re(C h[t]) + D x[t]; x, y [batch, seqLen, dModel].
 */
export class Lru extends Recurrent<LruCache> {
  /** H: features of a token of x and of y. */
  get dModel(): number {
    return this.inputWidth;
  }

  /** N: complex states. */
  get dState(): number {
    return (this.program.stages[0] as LruStage).dState;
  }

  protected override wrap(state: State): LruCache {
    return new LruCache(this, state);
  }
}
