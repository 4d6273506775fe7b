// What a stream should have given: every token of it stepped by itself, on the calling thread and in the float64 reference.

/** One stream of a cache, from its origin on. */
export class Stream {
  /** Whether its bits are known: not after a GPU. */
  exact = true;

  /** @param models of the calling thread, and of the reference */
  constructor(models, caches = models.map((model) => model.allocateInferenceCache())) {
    this.models = models;
    this.caches = caches;
  }

  clone() {
    const copy = new Stream(
      this.models,
      this.caches.map((cache) => cache.clone()),
    );
    copy.exact = this.exact;
    return copy;
  }

  reset() {
    for (const cache of this.caches) cache.reset();
    this.exact = true;
  }

  /** Starts afresh from h of each layer. */
  set(h) {
    for (const cache of this.caches) setTo(cache, h);
    this.exact = true;
  }

  get tokens() {
    return this.caches[0].tokens[0];
  }

  get h() {
    return this.caches[0].get();
  }

  /** The next token -> what comes of it, as one and as the other says. */
  read(x, timestep, isReset = false) {
    if (isReset) this.reset();
    const options = timestep === undefined ? {} : { integrationTimesteps: Float32Array.of(timestep) };
    return this.models.map((model, i) => model.stepSync(x, this.caches[i], options));
  }
}

/** What `get` gave, of a layer's cache or of a model's. */
export function setTo(cache, h) {
  if (Array.isArray(h)) cache.set(h);
  else cache.set(h.re, h.im);
}

/** Of max|y|, beside float64. Norms, as far as rows of five features and more can be trusted, are within it. */
const ON_CPU = 1e-3;
const ON_GPU = 5e-3;

/** Compares what came with what should have. */
export class Judge {
  /** What was not as it should be, in words. */
  wrong = [];
  compared = 0;
  /** How far anything was from the reference at most, by max|y| so far. */
  furthest = { cpu: 0, gpu: 0 };
  #scale = 0;

  /** @param given an output, beside that of the stream by itself and that of the reference */
  output(what, given, [bits, near], isExact, where) {
    this.compared++;
    const kind = where === "webgpu" || !isExact ? "gpu" : "cpu";
    const tolerance = kind === "gpu" ? ON_GPU : ON_CPU;
    for (const value of near)
      if (Number.isFinite(value)) this.#scale = Math.max(this.#scale, Math.abs(value));
    for (const [i, value] of given.entries()) {
      if (isExact && !Object.is(value, bits[i]))
        return this.wrong.push(`${what}: [${i}] is ${value}, stepped alone ${bits[i]}`);
      if (Object.is(value, near[i])) continue; // NaN, too
      const error = Math.abs(value - near[i]) / (this.#scale || 1);
      if (!(error <= tolerance)) return this.wrong.push(`${what}: [${i}] is ${value}, in float64 ${near[i]}`);
      this.furthest[kind] = Math.max(this.furthest[kind], error);
    }
  }

  /** A cache beside its streams. */
  cache(what, cache, streams) {
    this.compared++;
    const { tokens } = cache;
    const layers = [cache.get()].flat();
    for (const [row, stream] of streams.entries()) {
      if (tokens[row] !== stream.tokens)
        this.wrong.push(`${what}: row ${row} has read ${tokens[row]} tokens, not ${stream.tokens}`);
      if (!stream.exact) continue;
      for (const [layer, expected] of [stream.h].flat().entries()) {
        for (const part of ["re", "im"]) {
          const size = expected[part].length;
          const own = layers[layer][part].subarray(row * size, (row + 1) * size);
          const n = own.findIndex((value, i) => !Object.is(value, expected[part][i]));
          if (n < 0) continue;
          const said = `${part} of row ${row}, layer ${layer}, state ${n}`;
          this.wrong.push(`${what}: ${said} is ${own[n]}, stepped alone ${expected[part][n]}`);
        }
      }
    }
  }
}
