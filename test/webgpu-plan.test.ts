/** How a program is laid out in GPU memory and cut into segments: plain arithmetic, tested without a GPU. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { lruProgram } from "../src/lruParams.js";
import type { Program, Stage } from "../src/program.js";
import { State } from "../src/state.js";
import { Timeline } from "../src/timeline.js";
import type { Dispatch } from "../src/webgpu/dispatches.js";
import { evenPiece, type Part, type Piece, piecesOf, tablesOf } from "../src/webgpu/pieces.js";
import { type Segment, segmentOf, spread } from "../src/webgpu/pipelines.js";
import { areaBytes, makePlan, READBACKS } from "../src/webgpu/plan.js";
import { T } from "../src/webgpu/tiles.js";
import { hardParams } from "./support/problems.js";

const width = 3;
const gelu = (src: number, dst: number): Stage => ({ kind: "gelu", name: "gelu", src, dst, width });
const add = (src: number, other: number, dst: number): Stage => ({
  kind: "add",
  name: "add",
  src,
  other,
  dst,
  width,
});

function planOf(slots: number, stages: Stage[], output: number) {
  const program: Program = { architecture: "", slots: Array(slots).fill(width), stages, output };
  return makePlan(program);
}

test("a stage never reads what it writes, and nothing that is needed later is overwritten", () => {
  const stages = [gelu(0, 1), gelu(1, 1), add(1, 0, 1), gelu(0, 0), add(0, 1, 2), add(2, 2, 0)];
  const plan = planOf(3, stages, 0);
  const everyOutput = plan.dispatches.filter(({ into }) => !into);
  // What each area would hold, as an expression: the same expression must come of it as of the slots.
  const slots = ["x", "", ""];
  const areas = new Map([[plan.input, "x"]]);
  for (const [i, stage] of stages.entries()) {
    const [y, ...reads] = (everyOutput[i] as Dispatch).arrays as number[];
    expect(reads).not.toContain(y);
    const other = stage.kind === "add" ? [stage.other] : [];
    slots[stage.dst] = `${stage.kind}(${[stage.src, ...other].map((slot) => slots[slot])})`;
    areas.set(y as number, `${stage.kind}(${reads.map((area) => areas.get(area))})`);
    expect(areas.get(y as number)).toBe(slots[stage.dst]);
  }
  expect(areas.get(plan.output)).toBe(slots[0]);
  expect(new Set(everyOutput.map(({ arrays }) => arrays[0])).size).toBeLessThanOrEqual(3);
});

test("a scan with timesteps has a workgroup for 64 states of a row", () => {
  const plan = makePlan(lruProgram(hardParams(3, 70, 1)), true);
  const scan = plan.dispatches.find(({ kernel }) => kernel === "timedScan") as Dispatch;
  expect(scan.workgroups(segmentOf(3, 100))).toBe(3 * 2);
});

test("what works element by element becomes a part of the matrix product before it, where nobody else needs that", () => {
  const dense = (src: number, dst: number): Stage => ({
    ...{ kind: "dense", name: "dense", src, dst, inWidth: width, outWidth: width },
    ...{ kernel: new Float32Array(width ** 2), bias: null },
  });
  const glu = (src: number, gate: number, dst: number): Stage => ({
    ...{ kind: "glu", name: "glu", src, gate, dst, width },
  });
  const kernelsOf = (stages: Stage[], output: number) =>
    planOf(4, stages, output).dispatches.flatMap(({ kernel, epilogue, into }) =>
      into ? [] : [[kernel, ...(epilogue ?? [])].join(" ")],
    );
  expect(kernelsOf([dense(0, 1), gelu(1, 1), add(1, 0, 2)], 2)).toEqual([
    "dense v = geluOf(v, false); v = v + other(0);",
  ]);
  expect(kernelsOf([dense(0, 1), dense(0, 2), glu(1, 2, 3), add(0, 3, 0)], 0)).toEqual([
    "dense",
    "dense v = gluOf(other(0), v, false); v = other(1) + v;",
  ]);
  expect(kernelsOf([dense(0, 1), glu(1, 1, 1)], 1)).toEqual(["dense v = gluOf(v, v, false);"]);
  // Read again, or y itself.
  expect(kernelsOf([dense(0, 1), gelu(1, 2), add(1, 2, 1)], 1)).toEqual(["dense", "gelu", "add"]);
  expect(kernelsOf([dense(0, 1), gelu(1, 2)], 1)).toEqual(["dense", "gelu"]);
  const weights = { scale: new Float32Array(width), bias: new Float32Array(width), width, name: "norm" };
  const norm = (src: number, dst: number): Stage => ({
    ...weights,
    kind: "layerNorm",
    epsilon: 0.5,
    src,
    dst,
  });
  const normalized = "norm 2 64 0.5 v = v * parameter(0) + parameter(1);";
  expect(kernelsOf([dense(0, 1), norm(1, 1), add(1, 0, 2)], 2)).toEqual([
    `dense ${normalized} v = v + other(0);`,
  ]);
  // What is normalised is needed, too.
  const kept = [dense(0, 1), norm(1, 2), add(1, 2, 1)];
  expect(kernelsOf(kept, 1)).toEqual([`dense kept(0) = v; ${normalized}`, "add"]);
  const [both, last] = planOf(3, kept, 1).dispatches.filter(({ into }) => !into) as [Dispatch, Dispatch];
  expect(new Set([both.arrays[0], both.arrays[1], both.arrays[4]]).size).toBe(3);
  expect(last.arrays.slice(1)).toEqual([both.arrays[4], both.arrays[0]]);
  // More arrays than a kernel may have.
  const sums = [1, 2, 3, 4, 5].map(() => add(1, 0, 1));
  expect(kernelsOf([dense(0, 1), ...sums], 1)).toHaveLength(2);
  for (const { arrays } of planOf(4, [dense(0, 1), ...sums], 1).dispatches)
    expect(arrays.slice(1)).not.toContain(arrays[0]);
});

/** Rows of a job, without anything in them. */
function rowsOf(lengths: number[], resets?: Int32Array[], every = 1) {
  const layout = { slots: [], rowBytes: 0, parts: [] };
  const timeline = new Timeline({ state: new State(layout, lengths.length), resets, every });
  return { job: { batch: lengths.length, lengths: Int32Array.from(lengths) }, timeline };
}

test("pieces keep within their bounds, hold every token once and in order, and as many as they can", () => {
  const plan = planOf(2, [gelu(0, 1), gelu(1, 0), add(0, 1, 1)], 1);
  const row = fc.tuple(fc.integer({ min: 0, max: 1000 }), fc.constantFrom(0, 0.01, 1));
  const check = (rows: [number, number][], every: number, totalBytes: number) => {
    const resets = rows.map(([length, density]) =>
      Int32Array.from(
        [...Array(length).keys()].filter((t) => t > 0 && ((t * 2654435761) % 997) / 997 < density),
      ),
    );
    const { job, timeline } = rowsOf(
      rows.map(([length]) => length),
      resets,
      every,
    );
    const bounds = { areaBytes: totalBytes / 2, totalBytes, flops: 1e12 };
    const bytes = (segment: Segment) =>
      plan.areas.reduce(
        (sum, area, i) => sum + (i === plan.readback ? READBACKS : 1) * areaBytes(area, segment),
        0,
      );
    const read = rows.map(() => 0);
    let previous = 0;
    for (const piece of piecesOf(plan, job, timeline, bounds)) {
      const { parts, segment, isLast } = piece;
      expect(bytes(segment)).toBeLessThanOrEqual(totalBytes);
      for (const area of plan.areas) expect(areaBytes(area, segment)).toBeLessThanOrEqual(bounds.areaBytes);
      expect(parts.length).toBe(segment.rows);
      let tokens = 0;
      for (const { row, start, end } of parts) {
        expect(start).toBe(read[row]);
        expect(isLast).toBe(end === job.lengths[row]);
        read[row] = end;
        tokens += end - start;
      }
      expect(tokens).toBe(segment.tokens);
      const { chunks, rows: table, wanted } = tablesOf(piece, timeline);
      expect([chunks.length, table.length]).toEqual([2 * segment.chunks, 4 * segment.rows]);
      expect(wanted.length).toBe(2 * (every > 1 ? segment.outputs : segment.chunks));
      let at = 0;
      for (let c = 0; c < segment.chunks; c++) {
        expect(chunks[2 * c]).toBe(at);
        at += (chunks[2 * c + 1] as number) % 2 ** 31;
      }
      expect(at).toBe(segment.tokens);
      // Two pieces of whole rows, one after the other, would not have fitted into one.
      if (parts[0]?.start === 0 && isLast && previous > 0)
        expect(previous + bytes(segment)).toBeGreaterThan(totalBytes / 2);
      previous = isLast && parts[0]?.start === 0 ? bytes(segment) : 0;
    }
    expect(read).toEqual(rows.map(([length]) => length));
  };
  const rows = fc.array(row, { minLength: 1, maxLength: 5 });
  fc.assert(fc.property(rows, fc.constantFrom(1, 1, 5), fc.integer({ min: 1000, max: 3e4 }), check), {
    numRuns: 50,
  });
});

test("rows that are all as long are cut as their first piece says", () => {
  const plan = planOf(2, [gelu(0, 1), gelu(1, 0), add(0, 1, 1)], 1);
  const check = (rows: number, tokens: number, totalBytes: number, flops: number) => {
    const bounds = { areaBytes: totalBytes / 2, totalBytes, flops };
    const { job, timeline } = rowsOf(Array(rows).fill(tokens));
    const { parts } = piecesOf(plan, job, timeline, bounds).next().value as Piece;
    const { start, end } = parts[0] as Part;
    expect(evenPiece(plan, rows, tokens, bounds)).toEqual({ rows: parts.length, tokens: end - start });
  };
  const [rows, tokens] = [fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 500 })];
  fc.assert(
    fc.property(rows, tokens, fc.integer({ min: 4000, max: 1e5 }), fc.constantFrom(1, 2e4, 1e12), check),
    {
      numRuns: 100,
    },
  );
});

test("a device too slow for a chunk takes a chunk at a time, not a token", () => {
  const plan = planOf(2, [gelu(0, 1)], 1);
  const { job, timeline } = rowsOf([3 * T]);
  const pieces = [...piecesOf(plan, job, timeline, { areaBytes: 1e6, totalBytes: 1e6, flops: 1 })];
  expect(pieces.map(({ segment }) => segment.tokens)).toEqual([T, T, T]);
});

test("rows of different lengths cost their tokens, not those of the longest", () => {
  const plan = planOf(2, [gelu(0, 1)], 1);
  const { job, timeline } = rowsOf([10_000, ...Array(1000).fill(10)]);
  const bounds = { areaBytes: 1e6, totalBytes: 1.1e6, flops: 1e12 };
  const pieces = [...piecesOf(plan, job, timeline, bounds)];
  expect(pieces).toHaveLength(1);
  expect(pieces[0]?.segment).toMatchObject({
    rows: 1001,
    tokens: 20_000,
    chunks: Math.ceil(10_000 / T) + 1000,
  });
});

test("what comes after a pool takes room for rows, not for tokens, and so does what is kept of it", () => {
  const dense = (src: number, dst: number): Stage => ({
    ...{ kind: "dense", name: "dense", src, dst, inWidth: width, outWidth: width },
    ...{ kernel: new Float32Array(width ** 2), bias: null },
  });
  const weights = { scale: new Float32Array(width), bias: new Float32Array(width) };
  const norm: Stage = { ...weights, kind: "layerNorm", name: "", epsilon: 0.5, src: 1, dst: 2, width };
  const pool: Stage = { kind: "pool", name: "pool", src: 0, dst: 0, width, mode: "mean" };
  const plan = planOf(3, [pool, dense(0, 1), norm, add(1, 2, 1)], 1);
  const own = plan.dispatches
    .slice(1)
    .flatMap(({ arrays }) => arrays.filter((array) => typeof array === "number"));
  expect(own.length).toBeGreaterThan(3);
  for (const area of own)
    expect(plan.areas[area]).toMatchObject({ perToken: 0, perChunk: 0, perOutput: 0, perRow: 4 * width });
});

test("a layer as wide as the device binds runs there", () => {
  const plan = planOf(2, [gelu(0, 1)], 1);
  const { job, timeline } = rowsOf([1]);
  const widest = Math.max(...plan.areas.map((area) => areaBytes(area, segmentOf(1, 1))));
  const run = (bytes: number) => [
    ...piecesOf(plan, job, timeline, { areaBytes: bytes, totalBytes: 1e6, flops: 1e12 }),
  ];
  expect(run(widest)).toHaveLength(1);
  expect(() => run(widest - 1)).toThrow(/too wide/);
});

test("a layer too wide for the device is refused", () => {
  const bounds = { areaBytes: 8, totalBytes: 1e6, flops: 1e12 };
  const { job, timeline } = rowsOf([1]);
  expect(() => [...piecesOf(planOf(2, [gelu(0, 1)], 1), job, timeline, bounds)]).toThrow(/too wide/);
});

test("a row that states read from both ends is not cut", () => {
  const [dModel, dState] = [3, 4];
  const params = hardParams(dModel, dState, 1);
  const lru: Stage = { kind: "lru", name: "", src: 0, dst: 1, dModel, dState, params, backward: 2 };
  const plan = planOf(2, [lru], 1);
  const { job, timeline } = rowsOf([300, 40]);
  const run = (totalBytes: number) => [
    ...piecesOf(plan, job, timeline, { areaBytes: 1e6, totalBytes, flops: 1e12 }),
  ];
  expect(run(1e6)).toHaveLength(1);
  expect(() => run(2e4)).toThrow(/300 tokens.*both ends/);
});

test("a literal among the u32s of a builtin says that it is one: compilers were seen to take it for an i32", () => {
  const bare = /\b(?:select|min|max|clamp)\((?:[^()]|\([^()]*\))*?(?<=[(,]\s*)\d+(?=\s*[,)])/;
  expect("max(1, ROW / LANES)").toMatch(bare);
  const all = import.meta.glob("../src/webgpu/**/*.wgsl", { query: "?raw", import: "default", eager: true });
  expect(Object.keys(all).length).toBeGreaterThan(20);
  for (const [name, text] of Object.entries(all)) expect(text, name).not.toMatch(bare);
});

test("workgroups are spread over two dimensions", () => {
  expect(spread(0)).toEqual([0, 0]);
  expect(spread(65535)).toEqual([65535, 1]);
  for (const count of [1, 65536, 10_000_019]) {
    const [x, y] = spread(count);
    expect(x).toBeLessThanOrEqual(65535);
    expect(x * y).toBeGreaterThanOrEqual(count);
    expect(x * y).toBeLessThan(count + 200);
  }
});
