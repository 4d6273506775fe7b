/** How a program is laid out in GPU memory and cut into segments: plain arithmetic, tested without a GPU. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Program, Stage } from "../src/program.js";
import type { Dispatch } from "../src/webgpu/dispatches.js";
import { segmentOf, spread } from "../src/webgpu/pipelines.js";
import { areaBytes, cut, makePlan } from "../src/webgpu/plan.js";

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
  // What each area would hold, as an expression: the same expression must come of it as of the slots.
  const slots = ["x", "", ""];
  const areas = new Map([[plan.input, "x"]]);
  for (const [i, stage] of stages.entries()) {
    const [y, ...reads] = (plan.dispatches[i] as Dispatch).arrays as number[];
    expect(reads).not.toContain(y);
    const other = stage.kind === "add" ? [stage.other] : [];
    slots[stage.dst] = `${stage.kind}(${[stage.src, ...other].map((slot) => slots[slot])})`;
    areas.set(y as number, `${stage.kind}(${reads.map((area) => areas.get(area))})`);
    expect(areas.get(y as number)).toBe(slots[stage.dst]);
  }
  expect(areas.get(plan.output)).toBe(slots[0]);
  expect(new Set(plan.dispatches.map(({ arrays }) => arrays[0])).size).toBeLessThanOrEqual(3);
});

test("segments keep within their bounds, and are as long as they can be", () => {
  const plan = planOf(2, [gelu(0, 1), gelu(1, 0), add(0, 1, 1)], 1);
  const positive = fc.integer({ min: 1, max: 5000 });
  fc.assert(
    fc.property(positive, positive, fc.integer({ min: 1000, max: 1e6 }), (batch, seqLen, totalBytes) => {
      const bounds = { areaBytes: totalBytes / 2, totalBytes, flops: 1e12 };
      const size = cut(plan, batch, seqLen, bounds);
      expect(size.rows >= 1 && size.rows <= batch && size.seqLen >= 1 && size.seqLen <= seqLen).toBe(true);
      const bytes = (rows: number, length: number): number =>
        plan.areas.reduce((sum, area) => sum + areaBytes(area, segmentOf(rows, length)), 0);
      expect(bytes(size.rows, size.seqLen)).toBeLessThanOrEqual(totalBytes);
      for (const area of plan.areas) {
        expect(areaBytes(area, segmentOf(size.rows, size.seqLen))).toBeLessThanOrEqual(bounds.areaBytes);
      }
      if (size.seqLen < seqLen) expect(bytes(1, seqLen)).toBeGreaterThan(totalBytes / 2);
    }),
  );
});

test("a layer too wide for the device is refused", () => {
  const bounds = { areaBytes: 8, totalBytes: 1e6, flops: 1e12 };
  expect(() => cut(planOf(2, [gelu(0, 1)], 1), 1, 1, bounds)).toThrow(/too wide/);
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
