/** A bare LRU layer, ready to run. */
import { allocating } from "./errors.js";
import {
  type Complex,
  type Discretized,
  discretize,
  impulseResponse,
  type Memory,
  vandermonde,
} from "./layers/analysis.js";
import { LruCache } from "./layers/cache.js";
import { errorBound } from "./layers/errorBound.js";
import { checkInput, startOf } from "./layers/forwards.js";
import { Recurrent } from "./layers/recurrent.js";
import { type Hidden, hiddenSlots, readHidden } from "./networks/hidden.js";
import type { LruStage } from "./program.js";
import type { State } from "./state.js";
import { checkCount, checkFloat32, checkOptions } from "./validate.js";

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
    return this.#stage.dState;
  }

  get #stage(): LruStage {
    return this.program.stages[0] as LruStage;
  }

  /** lambda [dState], BNorm [dState, dModel] and C [dModel, dState] in float64: what the recurrence runs with. Copies. Throws `out-of-memory`. */
  discretize(): Discretized {
    return allocating("the system", () => discretize(this.#stage.params));
  }

  /**
   * lrnnx's `compute_kernel`: K [dState, length] with K[n, t] = lambda_n^t, and BNorm [dState, dModel]; float64.
   * Throws `invalid-argument` for a length that is no integer of at least 0, and `out-of-memory`.
   */
  kernel(length: number): { readonly K: Complex; readonly BNorm: Complex } {
    checkCount("length", length, 0);
    const K = allocating("K", () => vandermonde(this.#stage.params, length));
    return { K, BNorm: this.discretize().BNorm };
  }

  /**
   * The layer as a real convolution, y[p] = sum over t of R[t] x[p - t]: R [length, dModel (of y), dModel (of x)] float64,
   * R[t] = Re(C lambda^t BNorm), and D on the diagonal of R[0]. Throws `invalid-argument` for a length that is no integer of
   * at least 0, and `out-of-memory`.
   */
  impulseResponse(length: number): Float64Array {
    checkCount("length", length, 0);
    return allocating("R", () => impulseResponse(this.#stage.params, length));
  }

  /**
   * lrnnx's `generate` for bare layers: from a state of zeros, each y is the next x. x0 [batch, dModel] -> y [batch, steps,
   * dModel], x0 not among them. Throws `invalid-argument` for steps, and for an x0 that is no whole number of rows, and what
   * `stepSync` throws.
   */
  generate(x0: Float32Array, steps: number): Float32Array<ArrayBuffer> {
    checkFloat32("x0", x0);
    checkCount("steps", steps, 0);
    const { dModel } = this;
    const cache = this.allocateInferenceCache(x0.length / dModel);
    const y = allocating("y", () => new Float32Array(steps * x0.length));
    for (let t = 0, x: Float32Array = x0; t < steps && y.length > 0; t++) {
      x = this.stepSync(x, cache);
      for (let row = 0; row < cache.batch; row++)
        y.set(x.subarray(row * dModel, (row + 1) * dModel), (row * steps + t) * dModel);
    }
    return y;
  }

  /**
   * How far y of a forward of x [batch, seqLen, dModel] can be from what float64 gives, value by value, on any backend:
   * [batch, seqLen, dModel] float64. A bound from the analysis of rounding errors, not an estimate: usually 10 to 1000
   * times the error. Takes about as long as the reference. (A GPU may take products below 2^-126 for 0, so that x of 1e-36 lose
   * precision there: that is not counted.) It holds for inputs that repeat too, of which the README says that they can exceed
   * the bound on max|y|.
   *
   * Throws `shape-mismatch`, `wrong-dtype`, `detached`, `invalid-argument`, `non-finite` for x and options, `foreign-cache`
   * and `cache-busy` for the state, and `out-of-memory`.
   */
  errorBound(
    x: Float32Array,
    options: { batch?: number | undefined; state?: LruCache | undefined } = {},
  ): Float64Array {
    checkOptions("errorBound's options", options, ["batch", "state"]);
    const { values, batch } = checkInput(this.reader, x, options);
    const start = startOf(this.reader, options.state, batch);
    const slot = hiddenSlots(start)[0] as Hidden;
    return allocating("the bound", () =>
      errorBound(this.#stage.params, values, batch, (row) => readHidden(start, slot, row)),
    );
  }

  /** Eigenvalues, and how long each state remembers. */
  inspect(): Memory {
    return this.memories()[0] as Memory;
  }

  protected override wrap(state: State): LruCache {
    return new LruCache(this, state);
  }
}
