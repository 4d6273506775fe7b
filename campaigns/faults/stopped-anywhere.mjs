// An abort, or the end of the layer or the engine, at every moment at which JavaScript can run during a forward.
import { createHook } from "node:async_hooks";
import { floats, lruParams, sameBits, settled, watchWorkers } from "../support.mjs";
import { countingGpu } from "./lossyGpu.mjs";

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

/** How long a forward takes that nothing stops, what a brief one gives, and the GPU buffers of one and of two layers. */
async function undisturbed(linrec, { params, options, x, buffers }, brief, batch) {
  const engine = await linrec.createEngine(options);
  const other = await engine.lru(params);
  const { y } = await other.forward(brief, { batch });
  const ofOne = buffers();
  const lru = await engine.lru(params);
  const start = performance.now();
  await lru.forward(x, { batch });
  const ms = performance.now() - start;
  const ofTwo = buffers();
  await engine.dispose();
  return { ms, y, ofOne, ofTwo };
}

/**
 * Bytes of the engine's memory after forwards that were aborted, and after four times as many. What ended workers may still write
 * to is free after five seconds.
 */
async function grown(linrec, { params, options, x }, batch, fail) {
  const engine = await linrec.createEngine(options);
  const lru = await engine.lru(params);
  const sizes = [];
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 40; i++) {
      const controller = new AbortController();
      setTimeout(() => controller.abort(), i % 8);
      const outcome = await settled(lru.forward(x, { batch, signal: controller.signal }), 30_000);
      if (outcome === "late" || outcome.error?.code !== "aborted")
        fail(`abort ${i}: ${outcome.error ?? outcome}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 5500));
    const probe = engine.allocate(1);
    sizes.push(probe.buffer.byteLength / 2 ** 20);
    engine.free(probe);
  }
  await engine.dispose();
  return sizes;
}

const endings = {
  abort: { code: "aborted", act: ({ controller }) => controller.abort() },
  "dispose of the layer": { code: "disposed", act: ({ lru }) => lru.dispose?.() },
  "dispose of the engine": { code: "disposed", act: ({ engine }) => engine.dispose() },
};

export default {
  promise:
    "Abort and dispose settle everything at once, whenever they come; the state passed in is unchanged, and the next call works.",
  how: "A forward is ended at its 1st, 2nd, 3rd … promise until it ends before that: by a signal, its layer's end, its engine's end; on the calling thread, on workers, on a GPU (a stand-in that keeps its kernels and counts its buffers) and on the reference.",
  plants: [
    {
      says: "a forward works on the state that was passed in",
      file: "src/layers/forwards.ts",
      find: "return state.state.clone();",
      replace: "return state.state;",
    },
    {
      says: "after an aborted forward the next one is not run",
      file: "src/runtime/queue.ts",
      find: "this.#tail = result.catch(() => {});",
      replace: "this.#tail = result;",
    },
    {
      says: "a layer that is disposed of on the GPU leaves its buffers",
      file: "src/webgpu/runner.ts",
      find: "this.#loaded.destroy();",
      replace: "",
    },
  ],
  async run({ linrec, isFull, fail }) {
    // Few features and many states: much work for little memory.
    const params = lruParams(linrec, 8, 256);
    const [batch, seqLen] = [2, 250_000];
    const whole = floats(batch * seqLen * 8, 1);
    const part = whole.subarray(0, 96_000);
    const brief = whole.subarray(0, 80 * batch * 8);
    const { gpu, buffers } = await countingGpu();
    const alive = watchWorkers();
    const onCpu = { params, x: whole, buffers: () => 0 };
    const places = {
      "0 workers": { ...onCpu, options: { backend: "wasm", threads: 0 } },
      "2 workers": { ...onCpu, options: { backend: "wasm", threads: 2 } },
      // These take longer.
      "the reference": { ...onCpu, x: part, options: { backend: "reference" } },
      "the GPU": { params: lruParams(linrec, 8, 8), x: part, buffers, options: { backend: "webgpu", gpu } },
    };
    const figures = {};
    for (const [on, place] of Object.entries(places)) {
      const { params, options, x, buffers } = place;
      const dState = params.nuLog.length;
      const expected = await undisturbed(linrec, place, brief, batch);
      for (const [name, { code, act }] of Object.entries(endings)) {
        let [moments, slowest] = [0, 0];
        // Each moment of the start, then ever sparser: a long forward has thousands of like ones.
        for (let nth = 1; ; nth += nth < (isFull ? 60 : 15) ? 1 : Math.ceil(nth / (isFull ? 20 : 4))) {
          const engine = await linrec.createEngine(options);
          const [lru, other] = [await engine.lru(params), await engine.lru(params)];
          const controller = new AbortController();
          const state = lru.allocateInferenceCache(batch);
          state.set(floats(batch * dState, 2), floats(batch * dState, 3));
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
          if (code === "aborted" && !sameBits(lru.serializeState(state), before))
            fail(`${what}: the state passed in has changed`);
          const isOver = name === "dispose of the engine";
          // Else the forward was over before that.
          if (!Number.isNaN(at)) {
            const next = await settled((code === "aborted" ? lru : other).forward(brief, { batch }), 30_000);
            if (next === "late" || (isOver ? next.error?.code !== code : next.error))
              fail(`${what}: the next forward gave ${next.error ?? next}`);
            else if (!isOver && !sameBits(next.value.y, expected.y))
              fail(`${what}: the next forward is wrong`);
            const most = isOver ? 0 : code === "aborted" ? expected.ofTwo : expected.ofOne;
            if (buffers() > most) fail(`${what}: ${buffers()} GPU buffers, ${most} without it`);
          }
          await engine.dispose();
          for (let i = 0; i < 500 && alive.length > 0; i++)
            await new Promise((resolve) => setTimeout(resolve, 10));
          if (alive.length + buffers() > 0)
            fail(`${what}: ${alive.length} workers, ${buffers()} GPU buffers stay`);
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
    figures["GPU buffers and workers that stay"] = alive.length + buffers();
    for (const on of isFull ? ["0 workers", "2 workers"] : ["0 workers"]) {
      const [first, ...others] = await grown(linrec, places[on], batch, fail);
      const last = others.at(-1);
      figures[`MB of memory after 40 and 160 aborted forwards, ${on}`] =
        `${first.toFixed(1)}, ${last.toFixed(1)}`;
      if (last > 2 * first) fail(`${on}: memory grew from ${first.toFixed(1)} to ${last.toFixed(1)} MB`);
    }
    return figures;
  },
};
