/** What every client computes with the linrec that it got, on two worker threads: a line of JSON. */
export async function forward({ createEngine, initLru }) {
  const fallbacks = [];
  const onFallback = ({ reason }) => fallbacks.push(reason);
  const engine = await createEngine({ backend: "wasm", threads: 2, onFallback });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 8, seed: 7 }));
  const { y } = await lru.forward(Float32Array.from({ length: 400 }, (_, i) => Math.sin(i)));
  await engine.dispose();
  return JSON.stringify({ y: [...y], fallbacks });
}
