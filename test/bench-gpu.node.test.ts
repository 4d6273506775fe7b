// What bench/gpu stands on: a GPU that times every dispatch, and leaves what is computed alone.
import { afterAll, expect, test } from "vitest";
import { timedGpu } from "../bench/gpu/timed.mjs";
import { createEngine, type Engine, initLru } from "../src/index.js";

const engines: Engine[] = [];
afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

async function forward(options: object) {
  const engine = await createEngine({ backend: ["webgpu", "reference"], threads: 0, ...options });
  engines.push(engine);
  const layer = await engine.lru(initLru({ dModel: 5, dState: 7, seed: 1 }));
  const x = Float32Array.from({ length: 5 * 70 }, (_, i) => Math.sin(i));
  const run = async () => (await layer.forward(x)).y;
  return { run, status: engine.backends.webgpu };
}

test.for([
  { timestamps: true, method: /timestamp queries|wall time/ },
  { timestamps: false, method: /wall time around submits/ },
])("every dispatch is timed, and its result is the same: %o", async ({ timestamps, method }, context) => {
  const plain = await forward({});
  if (!plain.status.available) context.skip(plain.status.reason);
  const { create } = await import("webgpu");
  const { gpu, timer } = timedGpu(create([]), { timestamps });
  const { run } = await forward({ gpu });
  let y: Float32Array = new Float32Array();
  const records = await timer.during(async () => {
    y = await run();
  });
  expect(y).toEqual(await plain.run());
  expect(timer.method).toMatch(method);
  const names = records.map(({ name }: { name: string }) => name);
  expect(names.length).toBeGreaterThan(0);
  expect(names).not.toContain("?");
  for (const { start, end, groups } of records) {
    expect(end).toBeGreaterThanOrEqual(start);
    expect(groups).toBeGreaterThan(0);
  }
  await run(); // not timed any more
  expect(await timer.during(async () => {})).toEqual([]);
});
