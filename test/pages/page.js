// A forward on two threads, if they can be had; what came of it is shown as JSON. `?worker=URL` is where the worker is served.
import { createEngine, initLru } from "../../dist/index.js";

async function run() {
  const fallbacks = [];
  const engine = await createEngine({
    threads: 2,
    workerUrl: new URLSearchParams(location.search).get("worker") ?? undefined,
    onFallback: ({ reason }) => fallbacks.push(reason),
  });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 8, seed: 7 }));
  const { y } = await lru.forward(Float32Array.from({ length: 2000 }, (_, i) => Math.sin(i)));
  const { backend } = lru;
  const { backends } = engine;
  await engine.dispose();
  return { y: [...y], backend, backends, fallbacks, crossOriginIsolated };
}

document.body.textContent = JSON.stringify(await run().catch((error) => ({ error: String(error) })));
