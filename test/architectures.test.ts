/** The networks of lruun and of lrnnx's language model: their parts, their steps, and what their checkpoints may look like. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createEngine, type Engine, type Tensor, writeSafetensors } from "../src/index.js";
import { buildProgram } from "../src/models/build.js";
import { gammaLogOf } from "../src/params.js";
import { lruStages, type Program } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { type GoldenCase, initialState, loadGolden, relativeError } from "./support/golden.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats } from "./support/problems.js";
import { join, stepThrough } from "./support/sequences.js";

const languageModels = ["lm_01_tied_rms_1layer", "lm_03_tied_rms_mlp_2layer", "lm_05_untied_rms_6layer"];
const seeds = [
  "tf_lru_01_default",
  "tf_lru_03_dhidden_full_phase_state",
  "tf_res_01_default",
  "tf_res_03_state",
];

const f32 = (shape: number[], data: Float32Array): Tensor => ({ dtype: "F32", shape, data });

/** The program as far as a stage. */
function until(program: Program, name: string): Program {
  const index = program.stages.findIndex((stage) => stage.name === name);
  expect(index, `${name} among ${program.stages.map((stage) => stage.name)}`).toBeGreaterThanOrEqual(0);
  const stages = program.stages.slice(0, index + 1);
  return { ...program, stages, output: stages.at(-1)?.dst as number };
}

/** The stage that gives a source's intermediate: "mid.layer0.mixer" is of "backbone.layers.0.mixer". */
function stageOf(key: string): string {
  if (key === "mid.embedding") return "backbone.embedding";
  if (key === "mid.hidden") return "backbone.norm_f";
  const [, layer, part] = /^mid\.layer(\d+)\.(\w+)$/.exec(key) ?? [];
  if (layer === undefined) return key.slice("mid.".length);
  return `backbone.layers.${layer}.${part === "mlp" ? "mlp.fc2" : part}`;
}

describe("every part gives what the source's gives, in float64", () => {
  test.each([...languageModels, ...seeds.slice(2)])("%s", async (name) => {
    const golden = await loadGolden(name);
    const parts = [...golden.tensors].filter(([key]) => key.startsWith("mid."));
    expect(parts.length).toBeGreaterThan(1);
    for (const [key, { data }] of parts) {
      const program = until(golden.program, stageOf(key));
      const state = initialStateOf(golden, program);
      const { y } = runReference(program, { ...golden, ...(state ? { state } : {}) });
      expect(relativeError(y, data as Float64Array), key).toBeLessThanOrEqual(1e-12);
    }
  });

  function initialStateOf(golden: GoldenCase, program: Program) {
    return lruStages(program).length > 0 ? initialState({ ...golden, program }) : undefined;
  }
});

describe("on the CPU", () => {
  let engine: Engine;

  beforeAll(async () => {
    engine = await createEngine({ backend: "wasm", threads: 0 });
  });
  afterAll(() => engine.dispose());

  test.each(languageModels)("steps of %s are the source's steps", async (name) => {
    const { checkpoint, spec, tensors, input, batch } = await loadGolden(name);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const steps = stepThrough(model, input, model.allocateInferenceCache(batch));
    const expected = tensors.get("logits_step")?.data as Float64Array;
    expect(relativeError(join(steps, batch), expected)).toBeLessThanOrEqual(1e-5);
  });

  test.each(seeds)("the cell form of %s", async (name) => {
    const { checkpoint, spec, y, x, batch, h0 } = await loadGolden(name);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const cache = model.allocateInferenceCache(batch);
    if (h0) cache.set([h0]);
    expect(relativeError(join(stepThrough(model, x, cache), batch), y)).toBeLessThanOrEqual(1e-5);
  });

  test("a language model may leave out the head that is the embedding, and have norms with a bias", async () => {
    const { checkpoint, input, batch } = await loadGolden(languageModels[0] as string);
    const tied = new Map([...checkpoint].filter(([name]) => name !== "lm_head.weight"));
    const [whole, headless] = await Promise.all(
      [checkpoint, tied].map((t) => engine.model(writeSafetensors(t))),
    );
    const expected = (await whole?.forward(input, { batch }))?.y as Float32Array;
    expect((await headless?.forward(input, { batch }))?.y).toEqual(expected);

    const withBias = new Map(tied);
    for (const [name, { shape }] of tied) {
      if (/norm(_f)?\.weight$/.test(name))
        withBias.set(name.replace("weight", "bias"), f32([...shape], floats(8, 1)));
    }
    const model = await engine.model(writeSafetensors(withBias));
    expect(model.stages.map(({ kind }) => kind)).toEqual([
      "embedding",
      "layerNorm",
      "lru",
      "add",
      "layerNorm",
      "dense",
    ]);
    const { y } = await model.forward(input, { batch });
    const oracle = runReference(buildProgram(withBias), { x: input, batch, seqLen: input.length / batch });
    expect(relativeError(y, oracle.y)).toBeLessThanOrEqual(1e-5);
  });

  test("a language model's layers may have MLPs of different widths", async () => {
    const { checkpoint } = await loadGolden("lm_03_tied_rms_mlp_2layer");
    const mlp = "backbone.layers.1.mlp";
    const [width] = (checkpoint.get(`${mlp}.fc2.weight`) as Tensor).shape as [number];
    const narrow = new Map(checkpoint)
      .set(`${mlp}.fc1.weight`, f32([6, width], floats(6 * width, 1)))
      .set(`${mlp}.fc2.weight`, f32([width, 3], floats(3 * width, 2)));
    const model = await engine.model(writeSafetensors(narrow));
    const x = Int32Array.from({ length: 1000 }, (_, i) => i % 7);
    const { y } = runReference(buildProgram(narrow), { x, batch: 1, seqLen: x.length });
    expect(relativeError((await model.forward(x)).y, y)).toBeLessThanOrEqual(1e-5);
  });

  test.each(["tf_lru_01_default", "tf_res_01_default"])(
    "%s with an adapter, and a locked gamma",
    async (name) => {
      const { checkpoint, x, batch, seqLen } = await loadGolden(name);
      const n = x.length / batch / seqLen;
      const adapted = new Map([...checkpoint].filter(([key]) => !key.endsWith("gamma_log")));
      const eye = Float32Array.from({ length: 2 * n * n }, (_, i) => (i % n === Math.floor(i / n) ? 1 : 0));
      adapted.set("adapter.kernel", f32([2 * n, n], eye)).set("adapter.bias", f32([n], new Float32Array(n)));
      const wide = Float32Array.from({ length: 2 * x.length }, (_, i) => {
        const [token, j] = [Math.floor(i / (2 * n)), i % (2 * n)];
        return j < n ? (x[token * n + j] as number) : 7;
      });
      const model = await engine.model(writeSafetensors(adapted));
      expect(model.stages[0]).toMatchObject({ kind: "dense", name: "adapter", inWidth: 2 * n, outWidth: n });
      const locked = new Map(checkpoint);
      const prefix = name.startsWith("tf_res") ? "lru." : "";
      const nu = checkpoint.get(`${prefix}lambda_nu`)?.data as Float32Array;
      locked.set(`${prefix}gamma_log`, f32([nu.length], gammaLogOf(nu)));
      const expected = await (await engine.model(writeSafetensors(locked))).forward(x, { batch });
      expect((await model.forward(wide, { batch })).y).toEqual(expected.y);
    },
  );

  test("Keras' own spelling of names, and names without a spec", async () => {
    const { checkpoint, x, batch, y } = await loadGolden("tf_res_01_default");
    const keras = new Map(
      [...checkpoint].map(([name, tensor]) => [`${name.replaceAll(".", "/")}:0`, tensor]),
    );
    const model = await engine.model(writeSafetensors(keras));
    expect(model.architecture).toBe("lruun/res-lru");
    expect(relativeError((await model.forward(x, { batch })).y, y)).toBeLessThanOrEqual(1e-5);
  });

  test.each([
    ["lm_03_tied_rms_mlp_2layer", "backbone.layers.1.mlp.fc1.weight", /shape \[3\], expected \[256, 12\]/],
    ["lm_03_tied_rms_mlp_2layer", "backbone.layers.0.norm2.weight", /shape \[3\], expected \[12\]/],
    ["lm_05_untied_rms_6layer", "lm_head.weight", /shape \[3\], expected \[40, 16\]/],
    ["tf_res_01_default", "glu.w_1.kernel", /shape \[3\], expected \[8, 8\]/],
    ["tf_lru_01_default", "C_im", /shape \[3\], expected \[10, 5\]/],
  ])("%s with a misshapen %s is refused", async (name, tensor, says) => {
    const { checkpoint, spec } = await loadGolden(name);
    const broken = new Map(checkpoint).set(tensor, f32([3], floats(3, 1)));
    expectLinrecError(
      await errorOf(() => engine.model(writeSafetensors(broken), spec)),
      "unknown-model",
      says,
    );
  });

  test.each(["lm_03_tied_rms_mlp_2layer", "tf_res_01_default", "tf_lru_01_default"])(
    "%s names each tensor that is missing",
    async (name) => {
      const { checkpoint, spec } = await loadGolden(name);
      for (const key of checkpoint.keys()) {
        // These may be left out.
        if (key === "lm_head.weight" || (name.startsWith("tf") && key.endsWith("gamma_log"))) continue;
        const rest = new Map([...checkpoint].filter(([other]) => other !== key));
        const error = await errorOf(() => engine.model(writeSafetensors(rest), spec));
        expect((error as Error).message, key).toMatch(/do not make up/);
      }
    },
  );
});
