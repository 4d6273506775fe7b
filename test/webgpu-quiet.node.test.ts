/** Nothing is printed: not by the library, and not by the GPU's driver about what the library does. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { openDevice } from "../src/webgpu/device.js";

const dist = new URL("../dist/index.js", import.meta.url);

const program = `
import { createEngine, initLru } from ${JSON.stringify(dist.href)};
import { create } from "webgpu";
const real = create([]);
let device;
const requestAdapter = async () => {
  const adapter = await real.requestAdapter();
  const requestDevice = async (descriptor) => (device = await adapter.requestDevice(descriptor));
  return { limits: adapter.limits, info: adapter.info, requestDevice };
};
const told = [];
const onFallback = ({ to }) => told.push(to);
const engine = await createEngine({ backend: ["webgpu", "wasm"], threads: 0, gpu: { requestAdapter }, onFallback });
const lru = await engine.lru(initLru({ dModel: 3, dState: 5 }));
const x = new Float32Array(2 * 500 * 3).fill(0.1);
const cache = lru.allocateInferenceCache(2);
for (let i = 0; i < 3; i++) {
  await lru.forward(x, { batch: 2, every: i + 1, lengths: [500, i] });
  await lru.step(x.subarray(0, 6), cache);
  if (i === 1) device.destroy();
}
lru.dispose();
await engine.dispose();
console.log(told.join());
`;

test("a forward, steps, a loss and the end leave no line behind", async (context) => {
  const opened = await openDevice();
  if ("reason" in opened) return context.skip(opened.reason);
  opened.device.dispose();
  expect(existsSync(dist), "dist/index.js is missing: npm run build").toBe(true);
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8" });
  expect(child).toMatchObject({ status: 0, stdout: "webgpu\n", stderr: "" });
});
