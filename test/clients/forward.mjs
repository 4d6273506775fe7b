/** What every client computes with the linrec that it got, on two worker threads and through a model: a line of JSON. */
export async function forward({ createEngine, initLru, writeModel }) {
  const fallbacks = [];
  const onFallback = ({ reason }) => fallbacks.push(reason);
  const engine = await createEngine({ backend: "wasm", threads: 2, onFallback });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 8, seed: 7 }));
  const x = Float32Array.from({ length: 400 }, (_, i) => Math.sin(i));
  const { y } = await lru.forward(x);
  const model = await engine.model(writeModel(lru));
  const same = (await model.forward(x)).y.every((value, i) => value === y[i]);
  if (!same) fallbacks.push("the model of the same layer gives other numbers");
  await engine.dispose();
  return JSON.stringify({ y: [...y], fallbacks });
}
