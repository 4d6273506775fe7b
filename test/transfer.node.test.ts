/** Spans that go to workers with memories of their own: the room that they have here, and the messages that they take. */
import { expect, test, vi } from "vitest";
import { PooledWorker } from "../src/cpu/pool.js";
import { LANES } from "../src/cpu/protocol.js";
import type { Tensor } from "../src/index.js";
import { damage } from "./support/checkedArena.js";
import { createPrivateEngine } from "./support/engines.js";
import { loadGolden } from "./support/golden.js";
import { floats, hardParams } from "./support/problems.js";

// Guards stand around what the calling thread has in memory.
vi.mock("../src/cpu/arena.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedArena(await original()),
);

test("a pool whose result is wider than all else of a span, on workers with memories of their own", async () => {
  const { checkpoint, spec } = await loadGolden("ml_cls_01_mean_prenorm");
  const width = (checkpoint.get("params.decoder.kernel") as Tensor).shape[0] as number;
  const classes = 5000;
  const tensor = (seed: number, ...shape: number[]): Tensor => ({
    ...{
      dtype: "F32",
      shape,
      data: floats(
        shape.reduce((a, b) => a * b),
        seed,
      ),
    },
  });
  const tensors = new Map(checkpoint)
    .set("params.decoder.kernel", tensor(1, width, classes))
    .set("params.decoder.bias", tensor(2, classes));
  // What finds a guard broken throws, and is run again on the calling thread.
  const told: string[] = [];
  const engine = await createPrivateEngine("baseline", {
    threads: 2,
    onFallback: ({ reason }) => told.push(reason),
  });
  const model = await engine.model(tensors, spec);
  const { y } = await model.forward(floats(2 * 3000 * model.inputWidth, 3), { batch: 2 });
  expect(y.length).toBe(2 * classes);
  expect([damage(), told]).toEqual([undefined, []]);
  await engine.dispose();
});

test("a span takes one message to a worker and one back: its carries bring the next", async () => {
  const [dModel, seqLen] = [64, 60_000];
  const engine = await createPrivateEngine("baseline", { threads: 2 });
  const lru = await engine.lru(hardParams(dModel, dModel, 1));
  const x = floats(seqLen * dModel, 2);
  await lru.forward(x); // loads the program
  const calls = vi.spyOn(PooledWorker.prototype, "call");
  let spans = 0;
  await lru.forward(x, { onProgress: () => spans++ });
  expect(spans).toBeGreaterThan(30);
  expect(calls.mock.calls.length).toBeGreaterThanOrEqual(spans);
  expect(calls.mock.calls.length).toBeLessThanOrEqual(spans + 2 * LANES);
  calls.mockRestore();
  await engine.dispose();
});
