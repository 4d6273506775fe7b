/** The network reading one image pixel by pixel, and what it held in mind at each. */
import type { Model, ModelCache } from "linrec";
import { CLASSES, PIXELS } from "./data.js";
import { fastest } from "./dom.js";

/** Of the steps, and of forward. */
const MEASURE_MS = 60;

export class Reader {
  readonly #model: Model;
  readonly #pixels: Float32Array;
  readonly #cache: ModelCache;
  /** [784, 10] */
  readonly probabilities = new Float32Array(PIXELS * CLASSES);
  /** Of each layer [784, dState]: |h| */
  readonly sizes: readonly Float32Array[];
  /** How many pixels have been read. */
  at = 0;

  constructor(model: Model, pixels: Float32Array) {
    this.#model = model;
    this.#pixels = pixels;
    this.#cache = model.allocateInferenceCache();
    this.sizes = this.#cache.get().map(({ re }) => new Float32Array(PIXELS * re.length));
  }

  get done(): boolean {
    return this.at === PIXELS;
  }

  /** Reads some pixels more. */
  read(count: number): void {
    for (const end = Math.min(PIXELS, this.at + count); this.at < end; this.at++) {
      const logProbabilities = this.#model.stepSync(this.#pixels.subarray(this.at, this.at + 1), this.#cache);
      this.probabilities.set(logProbabilities.map(Math.exp), this.at * CLASSES);
      for (const [layer, { re, im }] of this.#cache.get().entries()) {
        const sizes = this.sizes[layer] as Float32Array;
        for (let n = 0; n < re.length; n++)
          sizes[this.at * re.length + n] = Math.hypot(re[n] as number, im[n] as number);
      }
    }
  }

  /** [10] after the last pixel that was read; none yet: all alike */
  now(): Float32Array {
    if (this.at === 0) return new Float32Array(CLASSES).fill(1 / CLASSES);
    return this.probabilities.subarray((this.at - 1) * CLASSES, this.at * CLASSES);
  }
}

export interface Comparison {
  readonly stepsMs: number;
  readonly forwardMs: number;
  readonly sameBits: boolean;
  readonly digit: number;
}

/** The image in 784 steps, and at once by `forward`: how long, and whether the answers are the same to the bit. */
export async function compare(model: Model, pixels: Float32Array): Promise<Comparison> {
  const cache = model.allocateInferenceCache();
  const out = new Float32Array(CLASSES);
  const { y } = await model.forward(pixels); // the first one also starts the threads
  const forwardMs = await fastest(() => model.forward(pixels), MEASURE_MS);
  const stepsMs = await fastest(async () => {
    cache.reset();
    for (let i = 0; i < PIXELS; i++) model.stepSync(pixels.subarray(i, i + 1), cache, { out });
  }, MEASURE_MS);
  const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);
  const expected = bits(y);
  const sameBits = bits(out).every((value, i) => value === expected[i]);
  return { stepsMs, forwardMs, sameBits, digit: y.indexOf(Math.max(...y)) };
}
