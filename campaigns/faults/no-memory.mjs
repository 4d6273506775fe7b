// Memory that is not to be had: the Nth allocation of the library fails, for every N.
import { floats, isTyped, lruParams, sameResult, settled, undisturbed } from "../support.mjs";

const makers = [
  "ArrayBuffer",
  "SharedArrayBuffer",
  "Float32Array",
  "Float64Array",
  "Int32Array",
  "Uint8Array",
];

/** The `nth` allocation from now on throws what an engine throws; returns how many there were when it is undone. */
function failNth(nth) {
  let count = 0;
  const refuse = () => {
    if (++count === nth) throw new RangeError("Array buffer allocation failed");
  };
  const grow = WebAssembly.Memory.prototype.grow;
  WebAssembly.Memory.prototype.grow = function (pages) {
    refuse();
    return grow.call(this, pages);
  };
  const real = makers.map((name) => [name, globalThis[name]]);
  for (const [name, Real] of real) {
    globalThis[name] = new Proxy(Real, {
      construct(target, args, newTarget) {
        // A view of memory that is there allocates nothing.
        if (typeof args[0] === "number" && args[0] > 0) refuse();
        return Reflect.construct(target, args, newTarget === globalThis[name] ? target : newTarget);
      },
    });
  }
  return () => {
    WebAssembly.Memory.prototype.grow = grow;
    for (const [name, Real] of real) globalThis[name] = Real;
    return count;
  };
}

export default {
  promise:
    "When memory is not to be had, a call gives the right result or an error from the list; the engine stays usable.",
  how: "The 1st, 2nd, 3rd … allocation (typed arrays, growth of the kernels' memory) of making a layer and of a forward fails, until a run has none left; on the calling thread and on two workers.",
  plants: [
    {
      says: "what is thrown for want of memory is passed on as it is",
      file: "src/errors.ts",
      find: "if (!(error instanceof RangeError)) return error;",
      replace: "return error;",
    },
  ],
  async run({ linrec, fail }) {
    const params = lruParams(linrec, 8, 64);
    const batch = 3;
    const x = floats(batch * 20_000 * 8, 1); // enough for workers to be asked
    const {
      oracle,
      expected: [expected],
      ...alone
    } = await undisturbed(linrec, params, [x], { batch });
    const figures = {};
    for (const threads of [0, 2]) {
      let [tried, typed, recovered] = [0, 0, 0];
      for (let nth = 1; nth < 5000; nth++) {
        const engine = await linrec.createEngine({ backend: "wasm", threads, onFallback: () => {} });
        const undo = failNth(nth);
        const outcome = await settled(
          (async () => {
            const lru = await engine.lru(params);
            return { lru, result: await lru.forward(x, { batch }) };
          })(),
          30_000,
        );
        const made = undo();
        tried++;
        const what = `allocation ${nth}, ${threads} workers`;
        if (outcome === "late") fail(`${what}: never settled`);
        else if (outcome.error) {
          if (isTyped(linrec, outcome.error)) typed++;
          else fail(`${what}: ${outcome.error?.stack ?? outcome.error}`);
        } else if (!sameResult(outcome.value.lru, outcome.value.result, oracle, expected)) {
          fail(`${what}: other bits`);
        } else if (made >= nth) recovered++;
        // The engine must have survived it.
        const lru = await engine.lru(params);
        if (!sameResult(lru, await lru.forward(x, { batch }), oracle, expected))
          fail(`after ${what} failed: other bits`);
        await engine.dispose();
        if (made < nth) break;
      }
      figures[`allocations that failed, ${threads} workers`] = tried - 1;
      figures[`errors from the list, right results, ${threads} workers`] = `${typed}, ${recovered}`;
    }
    await alone.dispose();
    return figures;
  },
};
