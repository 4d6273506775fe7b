// An abort, or the end of the layer or the engine, at every moment at which JavaScript can run during a forward.
import { createHook } from "node:async_hooks";
import { floats, lruParams, sameBits, settled } from "../support.mjs";

/** Calls `act` once, after the `nth` promise made from now on; returns how to stop counting. */
function afterPromise(nth, act) {
  let made = 0;
  const hook = createHook({
    init(_id, type) {
      if (type === "PROMISE" && ++made === nth) queueMicrotask(act);
    },
  });
  hook.enable();
  return () => {
    hook.disable();
    return made;
  };
}

/** How long a forward takes that nothing stops, and what a brief one gives. */
async function undisturbed(linrec, params, options, x, brief, batch) {
  const engine = await linrec.createEngine(options);
  const lru = await engine.lru(params);
  const { y } = await lru.forward(brief, { batch });
  const start = performance.now();
  await lru.forward(x, { batch });
  const ms = performance.now() - start;
  await engine.dispose();
  return { ms, y };
}

const endings = {
  abort: { code: "aborted", act: ({ controller }) => controller.abort() },
  "dispose of the layer": { code: "disposed", act: ({ lru }) => lru.dispose?.() },
  "dispose of the engine": { code: "disposed", act: ({ engine }) => engine.dispose() },
};

export default {
  promise:
    "Abort and dispose settle everything at once, whenever they come; the state passed in is unchanged, and the next call works.",
  how: "A forward is ended at its 1st, 2nd, 3rd … promise until it ends before that: by a signal, its layer's end, its engine's end; on the calling thread and on workers. By a signal on the GPU and on the reference, too.",
  plants: [
    {
      says: "a forward works on the state that was passed in",
      file: "src/recurrent.ts",
      find: "return state.state.clone();",
      replace: "return state.state;",
    },
    {
      says: "after an aborted forward the next one is not run",
      file: "src/queue.ts",
      find: "this.#tail = result.catch(() => {});",
      replace: "this.#tail = result;",
    },
  ],
  async run({ linrec, isFull, fail }) {
    // Few features and many states: much work for little memory.
    const params = lruParams(linrec, 8, 256);
    const [batch, seqLen] = [2, 250_000];
    const whole = floats(batch * seqLen * 8, 1);
    const brief = whole.subarray(0, 80 * batch * 8);
    const { create } = await import("webgpu");
    const places = [
      { on: "0 workers", options: { backend: "wasm", threads: 0 }, x: whole, names: Object.keys(endings) },
      { on: "2 workers", options: { backend: "wasm", threads: 2 }, x: whole, names: Object.keys(endings) },
      // These take longer.
      {
        on: "the reference",
        options: { backend: "reference" },
        x: whole.subarray(0, 96_000),
        names: ["abort"],
      },
      {
        on: "the GPU",
        options: { backend: "webgpu", gpu: create([]) },
        x: whole.subarray(0, 96_000),
        names: ["abort"],
      },
    ];
    const figures = {};
    for (const { on, options, x, names } of places) {
      const expected = await undisturbed(linrec, params, options, x, brief, batch);
      for (const name of names) {
        const { code, act } = endings[name];
        let [moments, slowest] = [0, 0];
        // Each moment of the start, then ever sparser: a long forward has thousands of like ones.
        for (let nth = 1; ; nth += nth < (isFull ? 60 : 15) ? 1 : Math.ceil(nth / 4)) {
          const engine = await linrec.createEngine(options);
          const lru = await engine.lru(params);
          const controller = new AbortController();
          const state = lru.allocateInferenceCache(batch);
          state.set(floats(batch * 256, 2), floats(batch * 256, 3));
          const before = lru.serializeState(state);
          let at = Number.NaN;
          const stopCounting = afterPromise(nth, () => {
            at = performance.now();
            act({ controller, lru, engine });
          });
          const outcome = await settled(lru.forward(x, { batch, state, signal: controller.signal }), 30_000);
          const end = performance.now();
          const made = stopCounting();
          const what = `${name} at promise ${nth}, ${on}`;
          if (outcome === "late") fail(`${what}: the forward never settled`);
          else if (outcome.error && outcome.error.code !== code) fail(`${what}: ${outcome.error}`);
          if (code === "aborted") {
            if (!sameBits(lru.serializeState(state), before))
              fail(`${what}: the state passed in has changed`);
            const next = await settled(lru.forward(brief, { batch }), 30_000);
            if (next === "late" || next.error) fail(`${what}: the next forward gave ${next.error ?? next}`);
            else if (!sameBits(next.value.y, expected.y)) fail(`${what}: the next forward is wrong`);
          }
          await engine.dispose();
          if (outcome !== "late" && outcome.error) {
            moments++;
            slowest = Math.max(slowest, end - at);
          }
          if (made < nth || (outcome !== "late" && !outcome.error)) break;
        }
        figures[`moments of ${name}, ${on}`] = `${moments}, settled within ${slowest.toFixed(1)} ms`;
        if (slowest > expected.ms / 2) {
          const times = `${slowest.toFixed(0)} ms to settle, of ${expected.ms.toFixed(0)} that the whole forward takes`;
          fail(`${name}, ${on}: it took ${times}`);
        }
        if (moments === 0) fail(`${name}, ${on}: no forward was reached`);
      }
    }
    return figures;
  },
};
