/** The self-test: it passes where all is well, and what it finds wrong is not used again. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { kernelBytes } from "../src/cpu/kernels.js";
import { PooledWorker } from "../src/cpu/pool.js";
import { runSelfTest } from "../src/engine/selfTest.js";
import { createEngine } from "../src/index.js";
import { lruProgram } from "../src/lruParams.js";
import { vocabularyOf } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { builds } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { floats, hardParams } from "./support/problems.js";

const [dModel, dState] = [5, 7];
const params = hardParams(dModel, dState, 1);
const x = floats(2 * 50 * dModel, 2);

test("passes on every backend that is here", async () => {
  const engine = await createEngine({ threads: 2 });
  const report = await engine.selfTest();
  expect(report.results.filter(({ passed }) => !passed)).toEqual([]);
  expect(report.passed).toBe(true);
  const tested = new Set(report.results.map(({ backend }) => backend));
  const here = (["reference", "wasm", "webgpu"] as const).filter((name) => engine.backends[name].available);
  expect([...tested].sort()).toEqual(here);
  expect(report.results.filter(({ backend }) => backend === "wasm").map(({ threads }) => threads)).toContain(
    2,
  );
  for (const { error, limit } of report.results) expect(error).toBeLessThanOrEqual(limit);
  await engine.dispose();
});

test("reads every id that there is", async () => {
  const read = new Set<number>();
  const report = await runSelfTest(
    ["reference"],
    async (program, { x }) => {
      if (vocabularyOf(program) !== undefined) for (const id of new Int32Array(x.buffer)) read.add(id);
    },
    0,
  );
  expect([...read].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  expect(report.passed).toBe(false); // y was left zero
});

describe.each(builds)("finds kernels that are wrong (%s)", (build) => {
  afterEach(() => vi.restoreAllMocks());

  /** The kernels with every f32x4.add made an f32x4.sub. */
  async function wrongKernels(): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = kernelBytes(build, false);
    let found = 0;
    for (let i = 0; i + 2 < bytes.length; i++) {
      if (bytes[i] === 0xfd && bytes[i + 1] === 0xe4 && bytes[i + 2] === 0x01) {
        bytes[i + 1] = 0xe5;
        found++;
      }
    }
    expect(found).toBeGreaterThan(0);
    return bytes;
  }

  async function openWrong(threads = 0) {
    const gpu = { requestAdapter: async () => null };
    vi.spyOn(performance, "now").mockReturnValue(performance.now()); // another rate would be decided on anew
    const engine = await createEngine({ wasm: await wrongKernels(), threads, gpu });
    const before = await engine.lru(params);
    await before.forward(x, { batch: 2 }); // what was decided for it must not stand
    const report = await engine.selfTest();
    return { engine, before, report };
  }

  test("and stops using them for forward, and their workers", async () => {
    const ended = vi.spyOn(PooledWorker.prototype, "terminate");
    const { engine, before, report } = await openWrong(2);
    expect(ended).toHaveBeenCalledTimes(2);
    expect(report.passed).toBe(false);
    expect(report.results.some(({ backend, passed }) => backend === "wasm" && !passed)).toBe(true);
    expect(report.results.every(({ backend, passed }) => backend !== "reference" || passed)).toBe(true);
    expect(engine.backends.wasm).toMatchObject({
      available: false,
      reason: expect.stringMatching(/failed the self-test/),
    });
    const expected = runReference(lruProgram(params), { x, batch: 2, seqLen: 50 }).y;
    for (const lru of [before, await engine.lru(params)]) {
      expect(lru.backend).toBe("reference");
      expect(relativeError((await lru.forward(x, { batch: 2 })).y, expected)).toBeLessThan(1e-6);
    }
    await engine.dispose();
  });

  test.each(["older", "newer"] as const)("and stops using them for stepSync of %s layers", async (age) => {
    const { engine, before } = await openWrong();
    const lru = age === "older" ? before : await engine.lru(params);
    const cache = lru.allocateInferenceCache();
    const xt = x.subarray(0, dModel);
    const expected = runReference(lruProgram(params), { x: xt, batch: 1, seqLen: 1 }).y;
    expect(relativeError(lru.stepSync(xt, cache), expected)).toBeLessThan(1e-6);
    await engine.dispose();
  });
});
