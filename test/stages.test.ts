/** Stages that work on one token, by themselves: every backend against the reference in float64. */
import { describe, expect, test } from "vitest";
import type { Program, Stage } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { expectSameBits } from "./support/bits.js";
import { relativeError } from "./support/golden.js";
import { floats } from "./support/problems.js";
import { opened, runWay, ways } from "./support/ways.js";

/** x -> (x, or two copies of it by a dense stage) -> the stage. */
const programs: Record<string, (width: number) => Program> = {
  rmsNorm: (width) =>
    single({ ...at, kind: "rmsNorm", width, scale: floats(width, 1), epsilon: 1e-5 }, width),
  "layerNorm, epsilon 1e-3": (width) => {
    const [scale, bias] = [floats(width, 1), floats(width, 2)];
    return single({ ...at, kind: "layerNorm", width, scale, bias, epsilon: 1e-3 }, width);
  },
  "gelu by erf": (width) => single({ ...at, kind: "gelu", width, exact: true }, width),
  silu: (width) => single({ ...at, kind: "glu", width, gate: 0 }, width),
  "a product gated by silu": (width) => {
    const dense = { kind: "dense", inWidth: width, outWidth: width, bias: null, src: 0 } as const;
    const stages: Stage[] = [
      { ...dense, name: "a", dst: 1, kernel: floats(width * width, 3) },
      { ...dense, name: "g", dst: 2, kernel: floats(width * width, 4) },
      { kind: "glu", name: "product", src: 1, dst: 1, gate: 2, width, silu: true },
    ];
    return { architecture: "test", slots: [width, width, width], stages, output: 1 };
  },
};

const at = { name: "stage", src: 0, dst: 1 };

function single(stage: Stage, width: number): Program {
  return { architecture: "test", slots: [width, width], stages: [stage], output: 1 };
}

/** What the first way on the CPU has given. */
const pooled = new Map<string, Float32Array>();

describe.each(ways)("$name", (way) => {
  const { threads, isGpu } = way;
  const backendOf = opened(way);

  test.for(
    Object.keys(programs).flatMap((name) => [1, 3, 4, 5, 17, 65].map((width) => [name, width] as const)),
  )("%s, width %i", async ([name, width], context) => {
    const backend = backendOf(context);
    const program = (programs[name] as (width: number) => Program)(width);
    for (const [batch, seqLen, magnitude] of [
      [1, 1, 1],
      [2, 5, 30],
      [3, 49, 3],
      [1, 97, 1e-3],
    ] as const) {
      const x = floats(batch * seqLen * width, seqLen, magnitude);
      const { y } = await runWay(backend, threads, program, x, batch, seqLen);
      const expected = runReference(program, { x, batch, seqLen }).y;
      expect(relativeError(y, expected), `${batch} x ${seqLen}`).toBeLessThanOrEqual(isGpu ? 5e-6 : 1e-6);
    }
  });

  test.for(["mean", "max"] as const)("a pool of 40,000 tokens: %s", async (mode, context) => {
    const backend = backendOf(context);
    const [batch, seqLen, width] = [2, 40_000, 3]; // several spans of a worker that has a memory of its own
    const program = single({ ...at, kind: "pool", mode, width }, width);
    const x = floats(batch * seqLen * width, 1);
    const { y } = await runWay(backend, threads, program, x, batch, seqLen);
    const expected = runReference(program, { x, batch, seqLen }).y;
    expect(relativeError(y, expected)).toBeLessThanOrEqual(isGpu ? 5e-6 : 1e-6);
    if (!way.name.startsWith("wasm")) return;
    const first = pooled.get(mode) ?? y;
    pooled.set(mode, first);
    expectSameBits(y, first, "y");
  });

  test("logSoftmax of values whose exp no float32 holds", async (context) => {
    const backend = backendOf(context);
    const [batch, seqLen, width] = [2, 5, 6];
    const program = single({ ...at, kind: "logSoftmax", width, group: 3 }, width);
    const x = floats(batch * seqLen * width, 1, 300);
    const { y } = await runWay(backend, threads, program, x, batch, seqLen);
    const expected = runReference(program, { x, batch, seqLen }).y;
    expect(relativeError(y, expected)).toBeLessThanOrEqual(isGpu ? 5e-6 : 1e-6);
  });

  test("gelu by erf is within 2^-23 max(1, |x|) of the true one, from -200 to 200 and beyond", async (context) => {
    const backend = backendOf(context);
    const x = Float32Array.from({ length: 80_000 }, (_, i) => ((i - 40_000) / 200) * (i % 2 ? 1 : 0.05));
    x.set([0, -0, 1e-30, -1e-30, 1e30, -1e30, 3e38, -3e38]);
    const program = (programs["gelu by erf"] as (width: number) => Program)(1);
    const { y } = await runWay(backend, threads, program, x, 1, x.length);
    const expected = runReference(program, { x, batch: 1, seqLen: x.length }).y;
    let worst = 0;
    for (const [i, value] of expected.entries())
      worst = Math.max(worst, Math.abs((y[i] as number) - value) / Math.max(1, Math.abs(x[i] as number)));
    console.log(`gelu by erf: ${worst.toExponential(2)} of max(1, |x|)`);
    expect(worst).toBeLessThanOrEqual((isGpu ? 8 : 1) * 2 ** -23);
  });
});
