import { describe, expect, test } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import { initLru } from "../src/init.js";
import { readSafetensors, type Tensor } from "../src/io/safetensors.js";
import { lruProgram } from "../src/lruParams.js";
import { buildProgram } from "../src/models/build.js";
import { inputWidth, outputWidth, type Program, poolOf } from "../src/program.js";
import { ReferenceBackend, runReference } from "../src/reference.js";
import { State, stateLayout } from "../src/state.js";
import { expectSameBits } from "./support/bits.js";
import { goldenNames, initialState, loadExample, loadGolden, relativeError } from "./support/golden.js";

describe("agrees with the sources in float64", () => {
  test.each(goldenNames)("%s", async (name) => {
    const golden = await loadGolden(name);
    const { y, state } = runReference(golden.program, { ...golden, state: initialState(golden) });
    expect(relativeError(y, golden.y)).toBeLessThanOrEqual(1e-12);
    if (golden.finalState) {
      const h = readRows(state);
      expect(relativeError(h.re, golden.finalState.re)).toBeLessThanOrEqual(1e-12);
      expect(relativeError(h.im, golden.finalState.im)).toBeLessThanOrEqual(1e-12);
    }
  });

  test("the digits network", async () => {
    const { tensors, metadata } = readSafetensors(await loadExample("smnist"));
    const digits = readSafetensors(await loadExample("digits")).tensors;
    const batch = 4;
    const pixels = (digits.get("images") as Tensor).data.subarray(0, batch * 784) as Uint8Array;
    const x = Float32Array.from(pixels, (pixel) => pixel / 255);
    const { y } = runReference(buildProgram(tensors, metadata), { x, batch, seqLen: 784 });
    const expected = (digits.get("log_probs") as Tensor).data.subarray(0, batch * 10) as Float64Array;
    expect(relativeError(y, expected)).toBeLessThanOrEqual(1e-10);
  });
});

describe("carries its state", () => {
  const names = [
    "lru_13_init_state",
    "lru_09_long_r0.9999",
    "ml_seq_04_batchnorm_eval",
    "ml_cls_01_mean_prenorm",
  ];

  test.each(names)("step by step = forward, bit for bit: %s", async (name) => {
    const golden = await loadGolden(name);
    const { program, batch, x } = golden;
    const seqLen = Math.min(golden.seqLen, 60);
    const width = inputWidth(program);
    const rows = Array.from({ length: batch }, (_, row) =>
      x.subarray(row * golden.seqLen * width, (row * golden.seqLen + seqLen) * width),
    );
    const initial = initialState(golden);
    const whole = runReference(program, { x: concat(rows), batch, seqLen, state: initial });
    let state = initial;
    const steps: Float64Array[] = [];
    for (let t = 0; t < seqLen; t++) {
      const token = concat(rows.map((row) => row.subarray(t * width, (t + 1) * width)));
      const step = runReference(program, { x: token, batch, seqLen: 1, state });
      state = step.state;
      steps.push(step.y);
    }
    // A pooled y is about all tokens so far: the last step's is the forward's.
    const outputs = poolOf(program) ? steps.slice(-1) : steps;
    const stepped = rows.flatMap((_, row) => outputs.flatMap((y) => [...rowOf(y, row, batch)]));
    expect(stepped).toEqual([...whole.y]);
    expect(state).toEqual(whole.state);
  });

  test("the given state stays as it was, and so does x", async () => {
    const golden = await loadGolden("lru_13_init_state");
    const state = initialState(golden);
    const before = [state.clone(), golden.x.slice()];
    runReference(golden.program, { ...golden, state });
    expect([state, golden.x]).toEqual(before);
  });
});

describe("ragged rows", () => {
  test.each(["lru_11_batch16", "ml_cls_01_mean_prenorm", "ml_cls_03_last"])("%s", async (name) => {
    const { program, batch, seqLen, x } = await loadGolden(name);
    const lengths = Int32Array.from({ length: batch }, (_, row) => [seqLen, 7, 0][row % 3] as number);
    const start = runReference(program, { x, batch, seqLen });
    const ragged = runReference(program, { x, batch, seqLen, lengths, state: start.state });
    for (let row = 0; row < batch; row++) {
      const length = lengths[row] as number;
      const width = inputWidth(program);
      const own = x.subarray(row * seqLen * width, (row * seqLen + length) * width);
      const alone = runReference(program, {
        x: own,
        batch: 1,
        seqLen: length,
        state: oneRow(start.state, row),
      });
      const actual = rowOf(ragged.y, row, batch);
      expect(actual.subarray(0, alone.y.length)).toEqual(alone.y);
      expect(actual.subarray(alone.y.length).every((value) => value === 0)).toBe(true);
      if (length === 0) expect(actual.every((value) => value === 0)).toBe(true);
      expect(oneRow(ragged.state, row)).toEqual(alone.state);
      expect(ragged.state.count[row]).toBe(seqLen + length);
    }
  });

  test("no rows, no tokens", () => {
    const program = lruProgram(initLru({ dModel: 2, dState: 3 }));
    expect(runReference(program, { x: [], batch: 0, seqLen: 5 }).y).toEqual(new Float64Array(0));
    expect(runReference(program, { x: [], batch: 2, seqLen: 0 }).y).toEqual(new Float64Array(0));
  });

  test("a wrong length of x is refused with both numbers", () => {
    const program = lruProgram(initLru({ dModel: 2, dState: 3 }));
    const run = () => runReference(program, { x: new Float32Array(7), batch: 1, seqLen: 4 });
    expect(run).toThrow(/7 values.*8/);
  });
});

describe("ReferenceBackend", () => {
  /** Runs longer than a time slice. */
  const program = lruProgram(initLru({ dModel: 48, dState: 64, seed: 3 }));
  const seqLen = 8000;
  const x = Float32Array.from({ length: seqLen * 48 }, (_, i) => Math.sin(i));

  test("y is runReference's, rounded once; the state is the same", async () => {
    const job = makeJob(program, x, seqLen);
    await new ReferenceBackend().prepare(program).forward(job);
    const expected = runReference(program, { x, batch: 1, seqLen });
    expectSameBits(job.y, Float32Array.from(expected.y), "y");
    expect(job.state).toEqual(expected.state);
  });

  test("writes y whole, zeros past a length", async () => {
    const lengths = Int32Array.of(2);
    const job = { ...makeJob(program, x.subarray(0, 240), 5), lengths, y: new Float32Array(240).fill(7) };
    await new ReferenceBackend().prepare(program).forward(job);
    const expected = runReference(program, { x: x.subarray(0, 240), batch: 1, seqLen: 5, lengths });
    expect(job.y).toEqual(Float32Array.from(expected.y));
    expect(job.y.subarray(96)).toEqual(new Float32Array(144));
  });

  test("gives the event loop its turns, and reports progress up to the end", async () => {
    const seen: number[] = [];
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    const job = makeJob(program, x, seqLen, { onProgress: (done) => seen.push(done) });
    await new ReferenceBackend().prepare(program).forward(job);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(0);
    expect(seen.length).toBeGreaterThan(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(seqLen);
  });

  test("jobs run in the order of the calls, and an aborted one does not stop the next", async () => {
    const runner = new ReferenceBackend().prepare(program);
    const controller = new AbortController();
    const order: string[] = [];
    const onProgress = () => controller.abort(new Error("enough"));
    const aborted = runner
      .forward(makeJob(program, x, seqLen, { signal: controller.signal, onProgress }))
      .catch((error: unknown) => {
        order.push("first");
        return error;
      });
    const next = makeJob(program, x.subarray(0, 480), 10);
    const second = runner.forward(next).then(() => order.push("second"));
    expect(await aborted).toMatchObject({ code: "aborted", cause: { message: "enough" } });
    await second;
    expect(order).toEqual(["first", "second"]);
    expect(next.y).toEqual(
      Float32Array.from(runReference(program, { x: x.subarray(0, 480), batch: 1, seqLen: 10 }).y),
    );
  });

  test("a signal that has fired already means no work", async () => {
    const job = makeJob(program, x, seqLen, { signal: AbortSignal.abort() });
    await expect(new ReferenceBackend().prepare(program).forward(job)).rejects.toMatchObject({
      code: "aborted",
    });
    expect(job.y.every((value) => value === 0)).toBe(true);
  });

  test.each(["runner", "backend"] as const)(
    "work under way rejects when the %s is disposed of",
    async (which) => {
      const backend = new ReferenceBackend();
      const runner = backend.prepare(program);
      const target = which === "runner" ? runner : backend;
      const job = makeJob(program, x, seqLen, { onProgress: () => void target.dispose() });
      await expect(runner.forward(job)).rejects.toMatchObject({ code: "disposed" });
      target.dispose();
      await expect(runner.forward(makeJob(program, x, seqLen))).rejects.toMatchObject({ code: "disposed" });
    },
  );

  test("keeps no reference to the program's arrays", async () => {
    const own = lruProgram(initLru({ dModel: 2, dState: 3 }));
    const runner = new ReferenceBackend().prepare(own);
    const expected = runReference(own, { x: [1, 2], batch: 1, seqLen: 1 }).y;
    if (own.stages[0]?.kind === "lru") own.stages[0].params.D.fill(99);
    const job = makeJob(own, Float32Array.of(1, 2), 1);
    await runner.forward(job);
    expect(job.y).toEqual(Float32Array.from(expected));
  });
});

function makeJob(
  program: Program,
  x: Float32Array,
  seqLen: number,
  extra: Partial<Pick<ForwardJob, "signal" | "onProgress">> = {},
): ForwardJob {
  return {
    batch: 1,
    seqLen,
    lengths: Int32Array.of(seqLen),
    x,
    y: new Float32Array(seqLen * outputWidth(program)),
    state: new State(stateLayout(program), 1),
    threads: 0,
    signal: undefined,
    onProgress: undefined,
    ...extra,
  };
}

function readRows(state: State): { re: number[]; im: number[] } {
  const slot = state.layout.slots[0];
  const rows = Array.from({ length: state.batch }, (_, row) => slot && state.read(slot, row));
  return { re: rows.flatMap((h) => [...(h?.re ?? [])]), im: rows.flatMap((h) => [...(h?.im ?? [])]) };
}

function oneRow(state: State, row: number): State {
  const single = new State(state.layout, 1);
  const { rowBytes } = state.layout;
  single.bytes.set(state.bytes.subarray(row * rowBytes, (row + 1) * rowBytes));
  single.k.set(state.k.subarray(row, row + 1));
  single.count.set(state.count.subarray(row, row + 1));
  return single;
}

function rowOf(values: Float64Array, row: number, batch: number): Float64Array {
  const width = values.length / batch;
  return values.subarray(row * width, (row + 1) * width);
}

function concat(parts: readonly Float32Array[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => [...part]));
}
