/** The WebGPU backend by itself: accuracy against the float64 reference, segments, and what happens when the GPU fails. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Resident } from "../src/backend.js";
import { Chain } from "../src/networks/chain.js";
import { withRates } from "../src/networks/rateChanges.js";
import type { Program, Stage } from "../src/program.js";
import { outputWidth } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu, type WebgpuBackend } from "../src/webgpu/backend.js";
import {
  classifier,
  compare,
  deviation,
  lruProgram,
  makeJob,
  normed,
  signed,
  values,
} from "./support/gpuJobs.js";
import { changedGpu, poison } from "./support/gpus.js";

let backend: WebgpuBackend | undefined;
let reason = "";

beforeAll(async () => {
  const poisoned = await changedGpu((handle) => poison(handle));
  const opened = "gpu" in poisoned ? await openWebgpu(poisoned.gpu) : poisoned;
  if ("reason" in opened) reason = opened.reason;
  else backend = opened.backend;
});
afterAll(() => backend?.dispose());

/** A test that shows as skipped, with the reason, where there is no GPU. */
function gpuTest(name: string, body: (backend: WebgpuBackend) => Promise<void>): void {
  test(name, async (context) => {
    if (!backend) return context.skip(reason);
    await body(backend);
  });
}

describe("a bare layer", () => {
  for (const [batch, seqLen, dModel, dState] of [
    [1, 1, 1, 1],
    [2, 33, 3, 5],
    [3, 100, 17, 9],
    [1, 3, 130, 203],
    [5, 32, 64, 130],
    [3, 9, 64, 64],
    [2, 31, 65, 7],
    [2, 1000, 5, 4],
    [1, 40000, 2, 9],
  ] as const) {
    gpuTest(`batch ${batch} seqLen ${seqLen} dModel ${dModel} dState ${dState}`, async (gpu) => {
      const { y, h } = await compare(gpu, lruProgram(dModel, dState), { batch, seqLen });
      // A sum of 2 x 203 products has roundings of its own, in whatever order it is taken.
      expect(y).toBeLessThan(dState > 200 ? 1e-6 : 5e-7);
      expect(h).toBeLessThan(5e-7);
    });
  }

  for (const [width, dState] of [
    [3, 5],
    [17, 70],
    [64, 9],
    [65, 9],
  ] as const) {
    gpuTest(`norms behind products, dModel ${width}`, async (gpu) => {
      for (const setting of [
        { batch: 3, seqLen: 32, lengths: [32, 1, 9] },
        { batch: 3, seqLen: 100, lengths: [100, 0, 33] },
        { batch: 2, seqLen: 70, lengths: [70, 31], every: 3 },
      ]) {
        const { y, h } = await compare(gpu, normed(width, dState), setting);
        expect(y).toBeLessThan(5e-5);
        expect(h).toBeLessThan(5e-5);
      }
    });
  }

  gpuTest("ragged rows", async (gpu) => {
    const setting = { batch: 9, seqLen: 100, lengths: [100, 0, 1, 31, 32, 33, 64, 99, 0] };
    const { y, h } = await compare(gpu, lruProgram(6, 10), setting);
    expect(y).toBeLessThan(5e-7);
    expect(h).toBeLessThan(5e-7);
  });

  gpuTest("ragged rows of one chunk, that start anew or go on", async (gpu) => {
    const setting = {
      batch: 6,
      seqLen: 32,
      lengths: [32, 0, 1, 31, 8, 9],
      resets: [[0], [], [0], [], [], []],
    };
    const { y, h } = await compare(gpu, lruProgram(6, 70), setting);
    expect(y).toBeLessThan(5e-7);
    expect(h).toBeLessThan(5e-7);
  });

  gpuTest("segments of a long sequence, and parts of a large batch", async (gpu) => {
    const program = lruProgram(7, 12);
    for (const scratchBytes of [4000, 20_000, 200_000]) {
      for (const setting of [
        { batch: 2, seqLen: 333, lengths: [333, 130] },
        { batch: 7, seqLen: 64, lengths: [1, 0, 64, 33, 0, 12, 64] },
      ]) {
        const { y, h } = await compare(gpu, program, { ...setting, scratchBytes });
        expect(y).toBeLessThan(1e-6);
        expect(h).toBeLessThan(1e-6);
      }
    }
  });

  gpuTest("timesteps, ragged, in segments and in parts of a batch", async (gpu) => {
    const program = lruProgram(7, 70);
    for (const scratchBytes of [2 ** 26, 400_000, 100_000]) {
      for (const setting of [
        { batch: 2, seqLen: 333, lengths: [333, 130] },
        { batch: 7, seqLen: 64, lengths: [1, 0, 64, 33, 0, 12, 64] },
      ]) {
        const next = signed(8);
        const all = values(setting.batch * setting.seqLen, next).map((v) => 2 * (v + 1));
        for (const timesteps of [all, all.map((v) => Math.round(10 * v) / 10)]) {
          const { y, h } = await compare(gpu, program, { ...setting, scratchBytes, timesteps });
          // One token after the other in float32, lambda rounded once: |lambda| of 0.9999 multiplies what that is off by.
          expect(y).toBeLessThan(5e-6);
          expect(h).toBeLessThan(5e-6);
        }
      }
    }
  });

  gpuTest("rows that start anew, outputs that are left out, in pieces", async (gpu) => {
    const everyToken = Array.from({ length: 332 }, (_, t) => t + 1);
    const resets = [[1, 31, 32, 33, 95, 200, 201], [], everyToken, [99]];
    for (const scratchBytes of [4000, 20_000, undefined]) {
      for (const every of [1, 2, 45]) {
        const setting = { batch: 4, seqLen: 333, lengths: [333, 0, 333, 100], resets, every, scratchBytes };
        const { y, h } = await compare(gpu, lruProgram(6, 10), setting);
        expect(y).toBeLessThan(1e-6);
        expect(h).toBeLessThan(1e-6);
      }
    }
  });

  gpuTest("a NaN ends at a reset", async (gpu) => {
    const program = lruProgram(3, 4);
    const job = { ...makeJob(program, { batch: 1, seqLen: 200, resets: [[70]] }) };
    job.x[5] = Number.NaN;
    const runner = await gpu.prepare(program);
    await runner.forward(job);
    expect(job.y.subarray(6, 70 * 3).every(Number.isNaN)).toBe(true);
    expect(job.y.subarray(70 * 3).some(Number.isNaN)).toBe(false);
    runner.dispose();
  });

  gpuTest("no tokens at all", async (gpu) => {
    await compare(gpu, lruProgram(4, 4), { batch: 2, seqLen: 0 });
    await compare(gpu, lruProgram(4, 4), { batch: 2, seqLen: 5, lengths: [0, 0] });
  });

  gpuTest("a sequence in shared memory, and y in the memory of x", async (gpu) => {
    const program = lruProgram(4, 6);
    const job = makeJob(program, { batch: 2, seqLen: 50, lengths: [50, 20] });
    const expected = runReference(program, job);
    const shared = new Float32Array(new SharedArrayBuffer(job.x.byteLength));
    shared.set(job.x);
    const runner = await gpu.prepare(program, 3000);
    await runner.forward({ ...job, x: shared, y: shared });
    expect(deviation(shared, expected.y)).toBeLessThan(1e-6);
    runner.dispose();
  });
});

describe("a stack", () => {
  for (const mode of ["mean", "last", "max"] as const) {
    for (const scratchBytes of [2 ** 26, 40_000]) {
      gpuTest(`pooled by ${mode}, ${scratchBytes} bytes of scratch`, async (gpu) => {
        const setting = { batch: 4, seqLen: 150, lengths: [150, 0, 1, 77], scratchBytes };
        const timesteps = Float32Array.from({ length: 600 }, (_, i) => (i % 11) / 5);
        for (const given of [setting, { ...setting, timesteps }]) {
          const { y, h } = await compare(gpu, classifier(20, 12, mode), given);
          expect(y).toBeLessThan(5e-5);
          expect(h).toBeLessThan(5e-5);
        }
      });
    }
  }

  gpuTest("a maximum is NaN where a token is, and Infinity beside -Infinity", async (gpu) => {
    const { NaN: none, NEGATIVE_INFINITY: low, POSITIVE_INFINITY: high } = Number;
    const rows = [
      [1, none, 2, 0],
      [-1, -2, -3, none],
      [none, -1, -2, -3],
      [low, 3, high, low],
      [5, low, -1, -2],
    ];
    const largest = [none, none, none, high, 5];
    const [batch, seqLen] = [5, 4];
    const x = Float32Array.from(rows.flat());
    const pool = { kind: "pool", name: "pool", width: 1 } as const;
    const program: Program = {
      ...{ architecture: "", slots: [1, 1], output: 1 },
      stages: [{ ...pool, src: 0, dst: 1, mode: "max" }],
    };
    const runner = await gpu.prepare(program);
    const job = { ...makeJob(program, { batch, seqLen }), x };
    await runner.forward({ ...job, state: new State(stateLayout(program), batch) });
    expect([...job.y], "a forward").toEqual(largest);

    const resident = (await runner.resident?.(batch)) as Resident;
    const y = new Float32Array(batch * seqLen);
    await resident.step({
      ...{ steps: seqLen, streams: batch, rows: Int32Array.of(0, 1, 2, 3, 4), y },
      ...{ ports: undefined, timesteps: undefined },
      x: x.map((_, i) => x[(i % batch) * seqLen + Math.floor(i / batch)] as number),
      fresh: Uint8Array.from(x, (_, i) => Number(i < batch)),
      counts: Float32Array.from(x, (_, i) => 1 + Math.floor(i / batch)),
    });
    expect([...y.subarray(-batch)], "steps").toEqual(largest);
    runner.dispose();

    const network = withRates({
      ...{ architecture: "", slots: [1, 1, 1], output: 2 },
      stages: [
        { kind: "window", name: "window", src: 0, dst: 1, width: 1, mode: "max", factor: 4 },
        { ...pool, src: 1, dst: 2, mode: "last" },
      ],
    });
    const linked = await gpu.prepareLinked(network);
    const state = new State(stateLayout(network), batch);
    job.y.fill(0);
    await new Chain(network, [], false, linked).forward({ ...job, state });
    expect([...job.y], "windows").toEqual(largest);
    linked.dispose();
  });

  gpuTest("not pooled", async (gpu) => {
    const program = classifier(20, 12, "mean");
    const stages = program.stages.filter(({ kind }) => kind !== "pool");
    for (const every of [1, 4]) {
      const setting = { batch: 3, seqLen: 70, lengths: [70, 3, 50], resets: [[20], [], [1, 2, 45]], every };
      const { y } = await compare(gpu, { ...program, stages }, setting);
      expect(y).toBeLessThan(5e-5);
    }
  });

  gpuTest("more elements than a dispatch has threads in one dimension", async (gpu) => {
    const stages: Stage[] = [{ kind: "add", name: "double", src: 0, other: 0, dst: 1, width: 1 }];
    const program = { architecture: "", slots: [1, 1], stages, output: 1 };
    const { y } = await compare(gpu, program, { batch: 1, seqLen: 64 * 65535 + 1000 });
    expect(y).toBe(0);
  });

  gpuTest("log softmax of one value each", async (gpu) => {
    const stages: Stage[] = [{ kind: "logSoftmax", name: "softmax", src: 0, dst: 1, width: 1, group: 1 }];
    const program = { architecture: "", slots: [1, 1], stages, output: 1 };
    expect(await compare(gpu, program, { batch: 2, seqLen: 5 })).toEqual({ y: 0, h: 0 });
  });

  gpuTest("gelu and glu of values large and small", async (gpu) => {
    const width = 8;
    const stages: Stage[] = [
      { kind: "gelu", name: "gelu", src: 0, dst: 1, width },
      { kind: "glu", name: "glu", src: 1, gate: 0, dst: 1, width },
    ];
    const job = makeJob(
      { architecture: "", slots: [width, width], stages, output: 1 },
      { batch: 1, seqLen: 2 },
    );
    job.x.set([-3e38, -1e20, -100, -13, -5, -1, -1e-10, 0, 3e38, 1e20, 100, 13, 5, 1, 1e-10, 1e-30]);
    const program = { architecture: "", slots: [width, width], stages, output: 1 };
    const runner = await gpu.prepare(program);
    await runner.forward(job);
    const expected = runReference(program, job).y;
    for (let i = 0; i < expected.length; i++) {
      const wanted = expected[i] as number;
      expect(Math.abs((job.y[i] as number) - wanted), `${job.x[i]}`).toBeLessThanOrEqual(
        1e-5 * Math.abs(wanted) + 1e-6,
      );
    }
    runner.dispose();
  });
});

describe("jobs", () => {
  gpuTest("run in the order of the calls, whatever program they belong to", async (gpu) => {
    const programs = [lruProgram(3, 4), classifier(8, 4, "mean")];
    const runners = await Promise.all(programs.map((program) => gpu.prepare(program)));
    const order: number[] = [];
    const jobs = Array.from({ length: 6 }, (_, i) =>
      makeJob(programs[i % 2] as Program, { batch: 2, seqLen: 40 + i }, i),
    );
    const expected = jobs.map((job, i) => runReference(programs[i % 2] as Program, job).y);
    await Promise.all(jobs.map((job, i) => runners[i % 2]?.forward(job).then(() => order.push(i))));
    expect(order).toEqual([0, 1, 2, 3, 4, 5]);
    for (const [i, job] of jobs.entries()) {
      expect(deviation(job.y, expected[i] as Float64Array)).toBeLessThan(5e-5);
    }
    for (const runner of runners) runner.dispose();
  });

  gpuTest("streams of an odd width that are pooled and start anew", async (gpu) => {
    const width = 5;
    for (const mode of ["mean", "max"] as const) {
      const stages: Stage[] = [{ kind: "pool", name: "pool", src: 0, dst: 1, width, mode }];
      const runner = await gpu.prepare({ architecture: "", slots: [width, width], stages, output: 1 });
      const resident = (await runner.resident?.(3)) as Resident;
      const x = values(2 * 2 * width, signed(3));
      const y = new Float32Array(x.length);
      const step = (t: number) =>
        resident.step({
          ...{ steps: 1, streams: 2, rows: Int32Array.of(2, 0), ports: undefined, timesteps: undefined },
          ...{ fresh: Uint8Array.of(1 - t, 1 - t), counts: Float32Array.of(t + 1, t + 1) },
          x: x.subarray(t * 2 * width, (t + 1) * 2 * width),
          y: y.subarray(t * 2 * width, (t + 1) * 2 * width),
        });
      await step(0);
      await step(1);
      const pooled = (a: number, b: number) => (mode === "mean" ? (a + b) / 2 : Math.max(a, b));
      const last = x.subarray(2 * width).map((value, i) => pooled(x[i] as number, value));
      expect(deviation(y, Float32Array.of(...x.subarray(0, 2 * width), ...last))).toBeLessThan(1e-6);
      runner.dispose();
    }
  });

  gpuTest("report progress and can be aborted between submits", async (gpu) => {
    const program = lruProgram(7, 12);
    const runner = await gpu.prepare(program, 20_000);
    const job = makeJob(program, { batch: 2, seqLen: 333 });
    await runner.forward(job);
    expect(job.progress.length).toBeGreaterThan(3);
    expect(job.progress).toEqual([...job.progress].sort((a, b) => a - b));
    expect(job.progress.at(-1)).toBe(666);

    const abort = new AbortController();
    const aborted = makeJob(program, { batch: 2, seqLen: 333, signal: abort.signal });
    const done = new Int32Array(2);
    const result = runner.forward({ ...aborted, done, onProgress: () => abort.abort("enough") });
    await expect(result).rejects.toMatchObject({ code: "aborted", cause: "enough" });
    // What was done is whole: its outputs are there, and its state is the one to go on from.
    const at = done[0] as number;
    expect(at).toBeGreaterThan(0);
    expect(at).toBeLessThan(333);
    const width = outputWidth(program);
    expect(deviation(aborted.y.subarray(0, at * width), job.y.subarray(0, at * width))).toBeLessThan(1e-6);
    const seqLen = 333 - at;
    const rest = makeJob(program, { batch: 1, seqLen });
    await runner.forward({
      ...rest,
      x: aborted.x.subarray(at * 7, 333 * 7),
      state: aborted.state.pick(Int32Array.of(0)),
    });
    expect(deviation(rest.y, job.y.subarray(at * width, 333 * width))).toBeLessThan(1e-6);
    runner.dispose();
  });

  gpuTest("measure gives a cost model its numbers", async (gpu) => {
    const rates = await gpu.measure();
    for (const [name, rate] of Object.entries(rates)) expect(rate, name).toBeGreaterThanOrEqual(0);
    for (const name of ["roundTripMs", "uploadBytesPerMs", "readbackBytesPerMs"] as const)
      expect(rates[name], name).toBeGreaterThan(0);
    // Which of them a busy machine's few runs tell apart is chance; work is not free.
    expect(rates.flopMs + rates.threadMs + rates.loadMs).toBeGreaterThan(0);
    expect(Object.values(rates).every(Number.isFinite)).toBe(true);
  });
});
