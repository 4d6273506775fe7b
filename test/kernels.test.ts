// Every kernel of the CPU by itself. And a kernel has the same name and the same first line on both backends, so that the
// two read as one algorithm.
import { describe, expect, test } from "vitest";
import { kernelBytes } from "../src/cpu/kernels.js";
import { Bench } from "./support/bench.js";
import { builds } from "./support/engines.js";
import { kernelChecks } from "./support/kernelChecks.js";

const assembly = import.meta.glob<string>("../assembly/*.ts", {
  query: "?raw",
  import: "default",
  eager: true,
});
const shaders = import.meta.glob<string>("../src/webgpu/kernels/*.wgsl", {
  query: "?raw",
  import: "default",
  eager: true,
});

/** In assembly/ alone: what the kernels share, and what other kernels do on the way on a GPU. */
const cpuOnly = [
  "activate",
  "addCarry",
  "addRows",
  "carry",
  "core",
  "finish",
  "index",
  "multiply",
  "multiplyRow",
  "projectHidden",
  "realScan",
  "scanPair",
  "simd",
  "stepScan",
  "tiles",
  "timedLambda",
  "wide",
];

/** In webgpu/kernels/ alone: a step's, whose streams are slots there, two kernels as one, and what is within others. */
const gpuOnly = ["normalize", "oneChunk", "skip", "slotPool", "slotScan", "window"];

const named = (files: Record<string, string>) =>
  new Map(
    Object.entries(files).map(([path, text]) => [path.replace(/^.*\/|\.\w+$/g, ""), text.split("\n")[0]]),
  );

test("assembly/ and src/webgpu/kernels/ hold the same kernels", () => {
  const [cpu, gpu] = [named(assembly), named(shaders)];
  for (const name of cpuOnly) expect(cpu.delete(name), name).toBe(true);
  for (const name of gpuOnly) expect(gpu.delete(name), name).toBe(true);
  expect([...cpu.keys()].sort()).toEqual([...gpu.keys()].sort());
  for (const [name, line] of gpu) expect(`${name}: ${cpu.get(name)}`).toBe(`${name}: ${line}`);
});

describe.each(builds)("%s SIMD", (build) => {
  test.each(Object.keys(kernelChecks))("%s", async (name) => {
    kernelChecks[name]?.(await Bench.open(kernelBytes(build, false)));
  });
});
