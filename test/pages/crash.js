// A forward during which `crash()`, which whoever opened the page has put there, is called whenever a GPU has done a piece; and the
// same on the CPU. Shown as JSON: how far they differ, as a share of the largest value, and what was told.
import { createEngine, initLru } from "../../dist/index.js";

async function run() {
  const params = initLru({ dModel: 16, dState: 16, rMin: 0.9, rMax: 0.999, seed: 1 });
  const x = Float32Array.from({ length: 16 * 200_000 }, (_, i) => Math.sin(i * i));
  const told = [];
  const onFallback = ({ from, to, reason }) => told.push(`${from} -> ${to}: ${reason}`);
  const engine = await createEngine({ backend: ["webgpu", "wasm"], threads: 0, onFallback });
  if (!engine.backends.webgpu.available) return { reason: engine.backends.webgpu.reason };
  let crashes = 0;
  const onProgress = () => {
    if (crashes > told.length || crashes === 2) return;
    crashes++;
    globalThis.crash();
  };
  const mine = await (await engine.lru(params)).forward(x, { onProgress });
  const cpu = await createEngine({ backend: "wasm", threads: 0 });
  const theirs = await (await cpu.lru(params)).forward(x);
  const y = deviation(mine.y, theirs.y);
  const h = deviation(mine.state.get().re, theirs.state.get().re);
  return { crashes, told, y, h, webgpu: engine.backends.webgpu };
}

function deviation(a, b) {
  const scale = b.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  return a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i])), 0) / scale;
}

const result = await run().catch((error) => ({ error: String(error) }));
document.body.textContent = JSON.stringify(result);
