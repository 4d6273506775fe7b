/** What only Node can do to workers: end them from outside at any moment. And what only Node does: exit by itself. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import threads from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { workerSource } from "../src/cpu/embedded.gen.js";
import { startWorkers } from "../src/cpu/pool.js";
import { createEngine, type Engine, type EngineOptions, type Lru } from "../src/index.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { createPrivateEngine } from "./support/engines.js";
import { moduleUrl } from "./support/faultyWorker.js";
import { floats, hardParams } from "./support/problems.js";

/** Every worker that was started, the newest last. */
const started: threads.Worker[] = [];
/** Those that keep this process from exiting. */
const awake = new Set<threads.Worker>();
const RealWorker = threads.Worker;

beforeAll(() => {
  threads.Worker = class extends RealWorker {
    constructor(...args: ConstructorParameters<typeof RealWorker>) {
      super(...args);
      started.push(this);
      awake.add(this);
    }
    override ref() {
      awake.add(this);
      super.ref();
    }
    override unref() {
      awake.delete(this);
      super.unref();
    }
  };
  syncBuiltinESMExports();
});
afterAll(() => {
  threads.Worker = RealWorker;
  syncBuiltinESMExports();
});

/** A function of it pollutes. */
const code = { type: "RAW", value: "Object.prototype.polluted = 1" };

const params = hardParams(6, 9, 1);
const batch = 2;
const x = floats(batch * 100_000 * 6, 2);

describe.each(["shared memory", "private memories"])("%s: a worker is ended from outside", (memory) => {
  let alone: { engine: Engine; lru: Lru };
  let expected: Awaited<ReturnType<Lru["forward"]>>;
  let engine: Engine;
  let lru: Lru;
  const told: string[] = [];

  beforeAll(async () => {
    const own = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
    alone = { engine: own, lru: await own.lru(params) };
    expected = await alone.lru.forward(x, { batch });
    const onFallback: EngineOptions["onFallback"] = ({ reason }) => told.push(reason);
    engine = await (memory === "shared memory"
      ? createEngine({ backend: "wasm", simd: "baseline", threads: 2, onFallback })
      : createPrivateEngine("baseline", { threads: 2, onFallback }));
    lru = await engine.lru(params);
  });
  afterAll(() => Promise.all([alone.engine.dispose(), engine.dispose()]));

  async function expectRight(forward: ReturnType<Lru["forward"]>): Promise<void> {
    const { y, state } = await forward;
    expectSameBits(y, expected.y, "y");
    expectSameState([lru, state], [alone.lru, expected.state], "state");
  }

  test("between forwards", async () => {
    await expectRight(lru.forward(x, { batch }));
    await started.at(-1)?.terminate();
    told.length = 0;
    await expectRight(lru.forward(x, { batch }));
    expect(told).toEqual([expect.stringMatching(/exited.*run again/)]);
  });

  test("by a message that could not be read", async () => {
    await expectRight(lru.forward(x, { batch }));
    started.at(-1)?.emit("messageerror", new Error("it was not cloned"));
    told.length = 0;
    await expectRight(lru.forward(x, { batch }));
    expect(told).toEqual([expect.stringMatching(/not cloned.*run again/)]);
  });

  test.each([0, 1, 3, 6, 10, 15, 25, 40])("%i ms into a forward", async (ms) => {
    const forward = lru.forward(x, { batch });
    await sleep(ms);
    await started.at(ms % 2 === 0 ? -1 : -2)?.terminate();
    await expectRight(forward);
    await expectRight(lru.forward(x, { batch }));
  });

  test("at each report of progress, and the retry's workers too", async () => {
    let reports = 0;
    const onProgress = () => {
      reports++;
      if (reports < 4) started.at(-1)?.terminate();
    };
    await expectRight(lru.forward(x, { batch, onProgress }));
    await expectRight(lru.forward(x, { batch }));
  });

  test("every worker of the pool, with ten forwards waiting", async () => {
    const forwards = Array.from({ length: 10 }, () => lru.forward(x, { batch }));
    for (const worker of started.slice(-2)) worker.terminate();
    for (const forward of forwards) await expectRight(forward);
  });
});

test("workers that cannot be started: the error has what kept them as its cause", async () => {
  const init = { module: undefined as never, memory: null };
  const error = await startWorkers(1, init, "file:///no/such/worker.js").catch((error) => error);
  expect(error).toMatchObject({
    code: "worker-failed",
    cause: { message: expect.stringMatching(/no\/such/) },
  });
});

test.each([
  ["Comlink's SET, by a path", { type: "SET", path: ["__proto__", "__proto__", "polluted"] }],
  [
    "by a path through a call",
    { type: "SET", path: ["run", "constructor", "__proto__", "__proto__", "polluted"] },
  ],
  ["CONSTRUCT", { type: "CONSTRUCT", path: ["run", "constructor"], argumentList: [code] }],
  ["APPLY of what a call has", { type: "APPLY", path: ["run", "constructor"], argumentList: [code] }],
  ["APPLY of what is inherited", { type: "APPLY", path: ["__defineGetter__"], argumentList: [] }],
  ["arguments that are none", { type: "APPLY", path: "run", argumentList: 5 }],
  ["Comlink's farewell", { type: "RELEASE", path: [] }],
  ["a number", 5],
  ["null", null],
])("a message that is no call does nothing in a worker: %s", async (_, message) => {
  const first = started.length;
  const told: string[] = [];
  const onFallback: EngineOptions["onFallback"] = ({ reason }) => told.push(reason);
  const workerUrl = moduleUrl(`
    { const { parentPort } = await import("node:worker_threads");
      parentPort.on("message", (message) => {
        if (message === "polluted?") parentPort.postMessage({ polluted: "polluted" in {} });
      }); }
    ${workerSource}`);
  const engine = await createEngine({ backend: "wasm", threads: 1, workerUrl, onFallback });
  const lru = await engine.lru(params);
  const { y } = await lru.forward(x, { batch });
  const worker = started[first] as threads.Worker;
  worker.postMessage(
    message && Object.assign(Object(message), { id: "1", value: { type: "RAW", value: 1 } }),
  );
  const answers: unknown[] = [];
  // Comlink's answer to the forward's own call may still come.
  worker.on("message", (answer) => {
    if (Object(answer).id === "1" || "polluted" in Object(answer)) answers.push(answer);
  });
  worker.postMessage("polluted?");
  await vi.waitUntil(() => answers.length > 0);
  expect(answers).toEqual([{ polluted: false }]);
  expectSameBits((await lru.forward(x, { batch })).y, y, "y");
  expect([told, started.length]).toEqual([[], first + 1]);
  await engine.dispose();
});

test("workers keep Node from exiting while a forward needs them, and not after", async () => {
  const first = started.length;
  const engine = await createEngine({ backend: "wasm", threads: 2 });
  const lru = await engine.lru(params);
  const awakeNow = () => started.slice(first).filter((worker) => awake.has(worker)).length;
  for (const turn of ["first", "second"]) {
    let most = 0;
    const onProgress = () => {
      most = Math.max(most, awakeNow());
    };
    await lru.forward(x, { batch, onProgress });
    expect(most, turn).toBeGreaterThan(0);
    expect(awakeNow(), turn).toBe(0);
  }
  await engine.dispose();
});

test("no worker outlives its engine", async () => {
  const first = started.length;
  const engine = await createEngine({ backend: "wasm", threads: 3 });
  const lru = await engine.lru(params);
  await lru.forward(x, { batch });
  const own = started.slice(first);
  expect(own).toHaveLength(3);
  const exits = own.map((worker) => new Promise((resolve) => worker.once("exit", resolve)));
  await engine.dispose();
  await Promise.all(exits);
});

describe("Node exits by itself when the user's code is done", () => {
  const dist = new URL("../dist/index.js", import.meta.url);

  // Nothing is disposed of in any of these.
  const programs: [string, string][] = [
    ["an idle engine", "await createEngine();"],
    ["threads", 'await run({ backend: "wasm", threads: 2 });'],
    ["all that is here", "await run({});"],
    ["a calling thread alone", 'await run({ backend: "wasm", threads: 0 });'],
    ["a GPU, or none", 'await run({ backend: ["webgpu", "wasm"], threads: 1 });'],
    [
      "workers that cannot start",
      'await run({ backend: "wasm", threads: 2, workerUrl: "file:///no/such.js" });',
    ],
  ];

  test.each(programs)("%s", async (_, program) => {
    expect(existsSync(dist), "dist/index.js is missing: npm run build").toBe(true);
    const source = `
      import { createEngine, initLru } from ${JSON.stringify(dist.href)};
      async function run(options) {
        const engine = await createEngine(options);
        const lru = await engine.lru(initLru({ dModel: 8, dState: 8 }));
        for (let i = 0; i < 3; i++) await lru.forward(new Float32Array(8 * 5000).fill(0.1));
      }
      ${program}
      console.log("done");`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", source], { timeout: 30_000 });
    let done = Number.NaN;
    let errors = "";
    child.stdout.on("data", (text) => {
      if (String(text).includes("done")) done = performance.now();
    });
    child.stderr.on("data", (text) => {
      errors += text;
    });
    const code = await new Promise((resolve) => child.on("close", resolve));
    expect(code, errors).toBe(0);
    expect(performance.now() - done).toBeLessThan(2000);
  });
});
