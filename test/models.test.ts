/** From a checkpoint's names and options to a program. What does not fit is in models-refused.test.ts. */
import { describe, expect, test } from "vitest";
import { readSafetensors } from "../src/io/safetensors.js";
import type { ModelSpec } from "../src/models/architecture.js";
import { buildProgram } from "../src/models/build.js";
import { countParameters, inputWidth, type LruStage, outputWidth } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { goldenNames, loadExample, loadGolden, relativeError } from "./support/golden.js";
import { f32, type Tensors, thrownBy } from "./support/tensors.js";

const rename = (tensors: Tensors, change: (name: string) => string): Tensors =>
  new Map([...tensors].map(([name, tensor]) => [change(name), tensor]));
const without = (tensors: Tensors, pattern: RegExp): Tensors =>
  new Map([...tensors].filter(([name]) => !pattern.test(name)));
const dataOf = (tensors: Tensors, name: string) => tensors.get(name)?.data as Float64Array;

describe("the architecture", () => {
  test.each(goldenNames)("is read off the names: %s", async (name) => {
    const { checkpoint, program, spec } = await loadGolden(name);
    const inferred = buildProgram(checkpoint);
    expect(inferred.architecture).toBe(spec.architecture);
    const norms = (kinds: readonly { kind: string }[]) =>
      kinds.map(({ kind }) => kind).filter((kind) => /Norm/.test(kind));
    expect(norms(inferred.stages)).toEqual(norms(program.stages));
  });

  test.each([
    ["slashes", (name: string) => name.replaceAll(".", "/")],
    ["no params in front", (name: string) => name.replace(/^params\./, "")],
  ])("with %s in the names", async (_, change) => {
    const { checkpoint, program, spec } = await loadGolden("ml_cls_05_batchnorm_eval");
    expect(buildProgram(rename(checkpoint, change), {}, spec).stages).toEqual(program.stages);
    expect(buildProgram(rename(checkpoint, change)).architecture).toBe("minimal-lru/classification");
  });

  test.each(["layers.3.mixer.", "a/b/", "x."])("lrnnx/lru under the prefix %s", async (prefix) => {
    const { checkpoint, program } = await loadGolden("lru_08_H_gt_N");
    const prefixed = buildProgram(rename(checkpoint, (name) => prefix + name));
    expect(prefixed.stages[0]).toEqual({ ...program.stages[0], name: prefix.slice(0, -1) });
    const angles = buildProgram(rename(checkpoint, (name) => prefix + name.replace("theta_log", "theta")));
    const { thetaLog, ...rest } = (program.stages[0] as LruStage).params;
    expect(angles.stages[0]).toMatchObject({ params: { ...rest, theta: thetaLog } });
  });

  test("comes from the metadata, with the options; a spec goes before it", async () => {
    const { tensors, metadata } = readSafetensors(await loadExample("smnist"));
    const program = buildProgram(tensors, metadata);
    expect(program.architecture).toBe("minimal-lru/classification");
    expect(program.stages[1]?.kind).toBe("layerNorm");
    expect(countParameters(program)).toBe(76_042);
    expect([inputWidth(program), outputWidth(program)]).toEqual([1, 10]);
    const other = buildProgram(tensors, metadata, {
      architecture: "minimal-lru/classification",
      norm: "layer",
      pooling: "last",
    });
    expect(other.stages[1]?.kind).toBe("lru");
    expect(other.stages.find(({ kind }) => kind === "pool")).toMatchObject({ mode: "last" });
  });

  test("few slots, whatever the depth", async () => {
    const { program } = await loadGolden("ml_cls_07_6layers");
    expect(program.slots).toEqual([1, 32, 32, 32, 32, 32, 10]);
  });

  test("is not guessed: the error lists names and architectures", () => {
    expect(thrownBy(() => buildProgram(new Map([["weight", f32([2])]])))).toMatchObject({
      code: "unknown-model",
      message: expect.stringMatching(
        /1 tensors, weight:.*Pass a spec.*lrnnx\/lru.*minimal-lru\/classification/,
      ),
    });
    expect(thrownBy(() => buildProgram(new Map()))).toMatchObject({ code: "unknown-model" });
  });

  test("lrnnx/lru with a ninth tensor is not beyond doubt", async () => {
    const { checkpoint } = await loadGolden("lru_01_basic");
    const extra = new Map([...checkpoint, ["extra", f32([1])]]);
    expect(thrownBy(() => buildProgram(extra))).toMatchObject({ code: "unknown-model" });
  });
});

describe("options", () => {
  test("stacked-encoder is the classifier's encoder", async () => {
    const { checkpoint, tensors, x, batch, seqLen } = await loadGolden("ml_cls_01_mean_prenorm");
    const encoder = rename(without(checkpoint, /decoder/), (name) =>
      name.replace("params.encoder.", "params."),
    );
    const spec: ModelSpec = { architecture: "minimal-lru/stacked-encoder", prenorm: true, norm: "layer" };
    const { y } = runReference(buildProgram(encoder, {}, spec), { x, batch, seqLen });
    expect(relativeError(y, dataOf(tensors, "mid.encoder"))).toBeLessThan(1e-10);
    expect(buildProgram(encoder).architecture).toBe("minimal-lru/stacked-encoder");
  });

  test("pooling none: one output for each token, the last of them that of pooling last", async () => {
    const { checkpoint, spec, x, y, batch, seqLen } = await loadGolden("ml_cls_03_last");
    const each = runReference(buildProgram(checkpoint, {}, { ...spec, pooling: "none" }), {
      x,
      batch,
      seqLen,
    }).y;
    expect(each.length).toBe(batch * seqLen * 3);
    for (let row = 0; row < batch; row++) {
      const end = (row + 1) * seqLen * 3;
      expect(relativeError(each.subarray(end - 3, end), y.subarray(row * 3, row * 3 + 3))).toBeLessThan(
        1e-12,
      );
    }
  });

  test("multidim: log-softmax over groups of so many columns", async () => {
    const { checkpoint, spec, tensors, x } = await loadGolden("ml_cls_07_6layers");
    const logits = dataOf(tensors, "logits");
    const { y } = runReference(buildProgram(checkpoint, {}, { ...spec, multidim: 2 }), {
      x,
      batch: 1,
      seqLen: 256,
    });
    const expected = logits.map(
      (value, j) => value - Math.log(Math.exp(value) + Math.exp(logits[j ^ 1] as number)),
    );
    expect(relativeError(y, expected)).toBeLessThan(1e-10);
    const bad = () => buildProgram(checkpoint, {}, { ...spec, multidim: 3 });
    expect(thrownBy(bad)).toMatchObject({
      code: "invalid-argument",
      message: expect.stringMatching(/multidim is 3.*10/),
    });
  });

  test("the table's defaults: prenorm false, norm batch, pooling mean", async () => {
    const { checkpoint, spec, program } = await loadGolden("ml_cls_05_batchnorm_eval");
    expect(spec).toMatchObject({ prenorm: false, norm: "batch", pooling: "mean", multidim: 1 });
    expect(buildProgram(checkpoint, {}, { architecture: spec.architecture })).toEqual(program);
  });

  test("one that is undefined is one left out", async () => {
    const { checkpoint, spec, program } = await loadGolden("ml_cls_05_batchnorm_eval");
    expect(buildProgram(checkpoint, {}, { ...spec, pooling: undefined } as unknown as ModelSpec)).toEqual(
      program,
    );
  });

  test.each([
    [
      "an unknown one",
      { nrom: "batch" },
      /no option "nrom"; its options are prenorm, norm, pooling, multidim/,
    ],
    ["a wrong norm", { norm: "rms" }, /norm must be "batch" or "layer"; got "rms"/],
    ["a wrong pooling", { pooling: "max" }, /pooling must be "mean" or "last" or "none"/],
    ["a wrong prenorm", { prenorm: "yes" }, /prenorm must be true or false; got "yes"/],
    ["half a multidim", { multidim: 1.5 }, /multidim must be an integer/],
    ["one of Object's", { constructor: 1 }, /no option "constructor"/],
  ])("%s is refused", async (_, options, message) => {
    const { checkpoint } = await loadGolden("ml_cls_05_batchnorm_eval");
    const spec = { architecture: "minimal-lru/classification", ...options } as ModelSpec;
    const expected = { code: "invalid-argument", message: expect.stringMatching(message) };
    expect(thrownBy(() => buildProgram(checkpoint, {}, spec))).toMatchObject(expected);
    // In a file it is the file that is at fault for bad JSON only: options are judged alike.
    expect(thrownBy(() => buildProgram(checkpoint, { linrec: JSON.stringify(spec) }))).toMatchObject(
      expected,
    );
  });

  test("an architecture without options says so", async () => {
    const { checkpoint } = await loadGolden("lru_01_basic");
    const spec: ModelSpec = { architecture: "lrnnx/lru", norm: "layer" };
    expect(() => buildProgram(checkpoint, {}, spec)).toThrow(
      /lrnnx\/lru has no option "norm"; it has no options/,
    );
  });

  test.each([
    [
      "an unknown architecture",
      { architecture: "mamba" },
      /"mamba"; known are lrnnx\/lru, minimal-lru\/classification/,
    ],
    ["no architecture", { norm: "layer" }, /architecture is undefined/],
    ["text", "lrnnx/lru", /got string/],
  ])("%s as spec is refused", (_, spec, message) => {
    const expected = { code: "invalid-argument", message: expect.stringMatching(message) };
    expect(thrownBy(() => buildProgram(new Map(), {}, spec as unknown as ModelSpec))).toMatchObject(expected);
  });

  test.each(["{", "[1,", "null", "3", "{}", "[".repeat(100_000)])(
    "metadata that holds no spec is refused: %.10s",
    (linrec) => {
      expect(thrownBy(() => buildProgram(new Map(), { linrec }))).toMatchObject({
        code: "malformed-file",
        message: expect.stringMatching(/"linrec".*pass a spec/),
      });
    },
  );

  test("metadata of an inherited name is no spec", () => {
    expect(thrownBy(() => buildProgram(new Map(), Object.create({ linrec: "{" })))).toMatchObject({
      code: "unknown-model",
    });
  });
});
