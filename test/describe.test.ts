import { expect, test } from "vitest";
import { createEngine, initLru, type LruParams, writeSafetensors } from "../src/index.js";
import { describeProgram } from "../src/layers/describe.js";
import { buildProgram } from "../src/models/build.js";
import { countParameters, flopsPerToken } from "../src/program.js";
import { checkpointNames, loadCheckpoint } from "./support/checkpoints.js";
import { loadGolden } from "./support/golden.js";

test("a layer, to the letter", async () => {
  const engine = await createEngine({ threads: 0 });
  const lru = await engine.lru(initLru({ dModel: 8, dState: 16 }));
  expect(lru.describe()).toBe(
    [
      "lrnnx/lru: x [batch, seqLen, 8] -> y [batch, seqLen, 8]",
      "",
      "stage  name  shape         parameters  flops/token",
      "-----  ----  ------------  ----------  -----------",
      "lru    lru   8, dState 16         568        1,168",
      "-----  ----  ------------  ----------  -----------",
      "total                             568        1,168",
    ].join("\n"),
  );
  await engine.dispose();
});

test("a model: a line for each of its stages", async () => {
  const engine = await createEngine({ threads: 0 });
  const { checkpoint, spec, program } = await loadGolden("ml_cls_05_batchnorm_eval");
  const model = await engine.model(writeSafetensors(checkpoint), spec);
  const lines = model.describe().split("\n");
  expect(lines[0]).toMatch(/^minimal-lru\/classification: x \[batch, seqLen, \d+\] -> y \[batch, 5\]$/);
  expect(lines.slice(4, -2).map((line) => line.split(/ {2,}/).slice(0, 2))).toEqual(
    program.stages.map(({ kind, name }) => [kind, name]),
  );
  await engine.dispose();
});

test.each(checkpointNames)("parameters are those of the checkpoint, each counted once: %s", async (name) => {
  const { checkpoint, spec } = await loadCheckpoint(name);
  const held = [...checkpoint.values()].reduce((sum, { data }) => sum + data.length, 0);
  expect(countParameters(buildProgram(checkpoint, {}, spec))).toBe(held);
});

test.each([
  ["a tied head", "lm_01_tied_rms_1layer", "lm_head.weight"],
  ["a locked gamma", "tf_res_01_default", "lru.gamma_log"],
])("%s follows from other parameters, and is none", async (_, name, left) => {
  const { checkpoint, spec } = await loadCheckpoint(name);
  const tensors = new Map([...checkpoint].filter(([tensor]) => tensor !== left));
  expect(tensors.size).toBe(checkpoint.size - 1);
  const held = [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
  const program = buildProgram(tensors, {}, spec);
  expect(countParameters(program)).toBe(held);
  expect(describeProgram(program)).toContain(`  ${held.toLocaleString("en")}  `);
});

test("a bidirectional layer: a line for either direction", async () => {
  const engine = await createEngine({ threads: 0 });
  const [forward, backward] = [8, 16].map((dState) => initLru({ dModel: 8, dState })) as [
    LruParams,
    LruParams,
  ];
  const layer = await engine.bidirectional({ forward, backward });
  expect(layer.describe()).toBe(
    [
      "bidirectional: x [batch, seqLen, 8] -> y [batch, seqLen, 8]",
      "",
      "stage  name      shape         parameters  flops/token",
      "-----  --------  ------------  ----------  -----------",
      "lru    forward   8, dState 8          288          592",
      "lru    backward  8, dState 16         568        1,168",
      "-----  --------  ------------  ----------  -----------",
      "total                                 856        1,760",
    ].join("\n"),
  );
  await engine.dispose();
});

const number = (text: string | undefined) => Number(text?.replaceAll(",", ""));

test.each(checkpointNames)("columns are aligned and add up: %s", async (name) => {
  const { checkpoint, spec } = await loadCheckpoint(name);
  const program = buildProgram(checkpoint, {}, spec);
  const lines = describeProgram(program).split("\n").slice(2);
  expect(new Set(lines.map((line) => line.length)).size).toBe(1);
  const cells = lines.slice(2, -2).map((line) => line.split(/ {2,}/));
  const sum = (column: number) => cells.reduce((total, row) => total + number(row.at(column)), 0);
  expect(sum(-2)).toBe(countParameters(program));
  // Stages that run once for some tokens cost a fraction, and each line is rounded.
  const flops = flopsPerToken(program);
  expect(Math.abs(sum(-1) - flops)).toBeLessThanOrEqual(cells.length / 2);
  expect(lines.at(-1)?.split(/ {2,}/).slice(1).map(number)).toEqual([sum(-2), Math.round(flops)]);
});
