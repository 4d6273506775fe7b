// What every campaign needs: problems to run, comparisons bit for bit, and workers that can be reached from outside.
import { syncBuiltinESMExports } from "node:module";
import threads from "node:worker_threads";

export * from "./random.mjs";

/** Layer parameters of ordinary size with |lambda| in [rMin, rMax]. */
export function lruParams(linrec, dModel, dState, seed = 1) {
  return linrec.initLru({ dModel, dState, seed, rMin: 0.9, rMax: 0.9999 });
}

/** True if both arrays hold the same bits. */
export function sameBits(a, b) {
  return Buffer.compare(bytes(a), bytes(b)) === 0;
}

function bytes({ buffer, byteOffset, byteLength }) {
  return Buffer.from(buffer, byteOffset, byteLength);
}

/** True if two results of a forward are the same in every bit: y, and the state as its owner would save it. */
export function sameResult(owner, result, otherOwner, expected) {
  return (
    sameBits(result.y, expected.y) &&
    sameBits(owner.serializeState(result.state), otherOwner.serializeState(expected.state))
  );
}

/** What a layer gives of each x undisturbed, on the calling thread alone: `oracle` is the layer there. */
export async function undisturbed(linrec, params, inputs, options, simd = "auto") {
  const engine = await linrec.createEngine({ backend: "wasm", threads: 0, simd });
  const oracle = await engine.lru(params);
  const expected = await Promise.all(inputs.map((x) => oracle.forward(x, options)));
  return { oracle, expected, dispose: () => engine.dispose() };
}

/** What every object inherits, in one text: to be the same before and after. */
export const inherited = () => String(Object.getOwnPropertyNames(Object.prototype).sort());

/** True for the library's own error with a code from its list. */
export function isTyped(linrec, error) {
  return linrec.isLinrecError(error) && error.code in linrec.errorCodes;
}

/** Fulfils with "late" if the promise has not settled after `ms`: what must never happen. */
export async function settled(promise, ms) {
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms, "late");
  });
  try {
    return await Promise.race([
      promise.then(
        (value) => ({ value }),
        (error) => ({ error }),
      ),
      late,
    ]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * From now on, all worker threads of this process, the newest last; those that have exited are taken out.
 * @param options that they are made with, beside their maker's
 * @param onMessage is shown what each says
 */
export function watchWorkers(options = {}, onMessage = () => {}) {
  const alive = [];
  const Real = threads.Worker;
  threads.Worker = class extends Real {
    constructor(url, given) {
      super(url, { ...given, ...options });
      alive.push(this);
      this.on("message", (message) => onMessage(message, this));
      this.once("exit", () => alive.splice(alive.indexOf(this), 1));
    }
  };
  syncBuiltinESMExports();
  return alive;
}

/** The value below which the share `q` of the numbers lies. */
export function quantile(numbers, q) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}
