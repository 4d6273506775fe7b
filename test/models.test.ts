import { describe, expect, test } from "vitest";
import { initLru } from "../src/init.js";
import { readSafetensors, type Tensor, toFloat32, writeSafetensors } from "../src/io/safetensors.js";
import type { ModelSpec } from "../src/models/architecture.js";
import { buildProgram } from "../src/models/build.js";
import { fromLruParams, lruProgram, toLruParams } from "../src/models/lru.js";
import { countParameters, inputWidth, type LruParams, outputWidth } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { goldenNames, loadExample, loadGolden, relativeError } from "./support/golden.js";

type Tensors = ReadonlyMap<string, Tensor>;
const rename = (tensors: Tensors, change: (name: string) => string): Tensors =>
  new Map([...tensors].map(([name, tensor]) => [change(name), tensor]));
const without = (tensors: Tensors, pattern: RegExp): Tensors =>
  new Map([...tensors].filter(([name]) => !pattern.test(name)));
const f32 = (shape: number[], fill = 0): Tensor => {
  return { dtype: "F32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(fill) };
};

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
    expect(errorOf(() => buildProgram(new Map([["weight", f32([2])]])))).toMatchObject({
      code: "unknown-model",
      message: expect.stringMatching(
        /1 tensors, weight:.*Pass a spec.*lrnnx\/lru.*minimal-lru\/classification/,
      ),
    });
    expect(errorOf(() => buildProgram(new Map()))).toMatchObject({ code: "unknown-model" });
  });

  test("lrnnx/lru with a ninth tensor is not beyond doubt", async () => {
    const { checkpoint } = await loadGolden("lru_01_basic");
    const extra = new Map([...checkpoint, ["extra", f32([1])]]);
    expect(errorOf(() => buildProgram(extra))).toMatchObject({ code: "unknown-model" });
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
    expect(errorOf(bad)).toMatchObject({
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
    expect(errorOf(() => buildProgram(checkpoint, {}, spec))).toMatchObject(expected);
    // In a file it is the file that is at fault for bad JSON only: options are judged alike.
    expect(errorOf(() => buildProgram(checkpoint, { linrec: JSON.stringify(spec) }))).toMatchObject(expected);
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
    expect(errorOf(() => buildProgram(new Map(), {}, spec as unknown as ModelSpec))).toMatchObject(expected);
  });

  test.each(["{", "[1,", "null", "3", "{}", "[".repeat(100_000)])(
    "metadata that holds no spec is refused: %.10s",
    (linrec) => {
      expect(errorOf(() => buildProgram(new Map(), { linrec }))).toMatchObject({
        code: "malformed-file",
        message: expect.stringMatching(/"linrec".*pass a spec/),
      });
    },
  );

  test("metadata of an inherited name is no spec", () => {
    expect(errorOf(() => buildProgram(new Map(), Object.create({ linrec: "{" })))).toMatchObject({
      code: "unknown-model",
    });
  });
});

describe("tensors that do not fit are all named", () => {
  const spec: ModelSpec = { architecture: "minimal-lru/classification", prenorm: true, norm: "layer" };
  const refusal = async (change: (tensors: Map<string, Tensor>) => void, use: ModelSpec = spec) => {
    const { checkpoint } = await loadGolden("ml_cls_01_mean_prenorm");
    const tensors = new Map(checkpoint);
    change(tensors);
    return errorOf(() => buildProgram(tensors, {}, use));
  };
  const out1 = "params.encoder.layers_1.out1.kernel";

  const cases: [string, (tensors: Map<string, Tensor>) => void, RegExp][] = [
    ["missing", (t) => t.delete(out1), /missing: encoder\.layers_1\.out1\.kernel\.$/],
    [
      "a missing decoder",
      (t) => {
        t.delete("params.decoder.kernel");
        t.delete("params.decoder.bias");
      },
      /missing: decoder\.kernel, decoder\.bias\.$/,
    ],
    ["left over", (t) => t.set("opt.mu", f32([1])), /not part of it: opt\.mu\.$/],
    [
      "misshapen",
      (t) => t.set(out1, f32([8, 9])),
      /layers_1\.out1\.kernel has shape \[8, 9\], expected \[8, 8\]/,
    ],
    [
      "transposed",
      (t) => t.set("params.decoder.kernel", f32([5, 8])),
      /decoder\.kernel has shape \[5, 8\], expected \[8, 5\]/,
    ],
    [
      "of a wrong rank",
      (t) => t.set("params.decoder.bias", f32([5, 1])),
      /decoder\.bias has shape \[5, 1\], expected \[5\]/,
    ],
    [
      "integers",
      (t) => t.set(out1, { dtype: "I32", shape: [8, 8], data: new Int32Array(64) }),
      /out1\.kernel has dtype I32/,
    ],
    [
      "empty",
      (t) => t.set("params.encoder.encoder.kernel", f32([0, 8])),
      /encoder\.encoder\.kernel is empty/,
    ],
    [
      "a layer of another width",
      (t) => t.set("params.encoder.layers_0.seq.D", f32([7])),
      /layers_0\.seq\.D has shape \[7\], expected \[8\]/,
    ],
    [
      "a layer far away",
      (t) => t.set("params.encoder.layers_999999999.seq.D", f32([8])),
      /not part of it: encoder\.layers_999999999/,
    ],
    [
      "all three at once",
      (t) => {
        t.delete(out1);
        t.set("extra", f32([1]));
        t.set("params.encoder.layers_0.seq.B_re", f32([12, 7]));
      },
      /missing: .*out1\.kernel\. misshapen: .*B_re has shape \[12, 7\], expected \[12, 8\]\. not part of it: extra/,
    ],
  ];
  test.each(cases)("%s", async (_, change, message) => {
    const expected = { code: "unknown-model", message: expect.stringMatching(message) };
    expect(await refusal(change)).toMatchObject(expected);
  });

  test("a missing layer 0 makes the others homeless", async () => {
    const error = await refusal((tensors) => {
      for (const name of [...tensors.keys()]) if (name.includes("layers_0")) tensors.delete(name);
    });
    expect(error).toMatchObject({
      message: expect.stringMatching(/missing: encoder\.layers_0\..*not part of it: encoder\.layers_1\./),
    });
  });

  test("batch statistics that are missing suggest the other norm, and so do those that are left over", async () => {
    const missing = await refusal(() => undefined, { ...spec, norm: "batch" });
    expect(missing).toMatchObject({
      message: expect.stringMatching(/missing: batch_stats.*norm is "batch".*norm: "layer"/),
    });
    const { checkpoint } = await loadGolden("ml_cls_05_batchnorm_eval");
    const left = errorOf(() => buildProgram(checkpoint, {}, { ...spec, norm: "layer" }));
    expect(left).toMatchObject({
      message: expect.stringMatching(/not part of it: batch_stats.*norm is "layer".*norm: "batch"/),
    });
  });

  test("one name in two spellings", async () => {
    const error = await refusal((tensors) => tensors.set("params/decoder/bias", f32([5])));
    expect(error).toMatchObject({
      code: "unknown-model",
      message: expect.stringMatching(/Two tensors.*decoder\.bias/),
    });
  });

  test("several layers where one is wanted", async () => {
    const { checkpoint } = await loadGolden("ml_cls_01_mean_prenorm");
    expect(() => buildProgram(checkpoint, {}, { architecture: "lrnnx/lru" })).toThrow(
      /several.*layers_0\.seq\..*toLruParams/,
    );
  });

  test("values that are not finite, by name and index", async () => {
    const kernel = f32([8, 8]);
    kernel.data[9] = Number.NaN;
    expect(await refusal((tensors) => tensors.set(out1, kernel))).toMatchObject({
      code: "non-finite",
      message: expect.stringMatching(/layers_1\.out1\.kernel.*NaN.*index 9/),
    });
    const large: Tensor = { dtype: "F64", shape: [5], data: new Float64Array(5).fill(1e39) };
    expect(await refusal((tensors) => tensors.set("params.decoder.bias", large))).toMatchObject({
      code: "non-finite",
    });
  });

  test("a layer with |lambda| = 1, by name and state", async () => {
    const error = await refusal((tensors) => {
      const nuLog = f32([12]);
      nuLog.data[5] = -40;
      tensors.set("params.encoder.layers_1.seq.nu_log", nuLog);
    });
    expect(error).toMatchObject({
      code: "unstable",
      message: expect.stringMatching(/layers_1\.seq\.nuLog\[5\] is -40/),
    });
  });

  test("a variance below 0", async () => {
    const { checkpoint, spec: batch } = await loadGolden("ml_seq_04_batchnorm_eval");
    const tensors = new Map(checkpoint).set("batch_stats.normalization.var", f32([6], -1));
    expect(() => buildProgram(tensors, {}, batch)).toThrow(/normalization\.var\[0\] is -1/);
  });

  test("half precision is widened, and the tensors stay the caller's", async () => {
    const { checkpoint } = await loadGolden("ml_cls_01_mean_prenorm");
    const half: Tensor = { dtype: "BF16", shape: [5], data: Uint16Array.of(0x3f80, 0, 0, 0, 0xc000) };
    const tensors = new Map(checkpoint).set("params.decoder.bias", half);
    const program = buildProgram(tensors, {}, spec);
    const expected = { bias: Float32Array.of(1, 0, 0, 0, -2) };
    for (const { data } of checkpoint.values()) (data as Float32Array).fill(9);
    const decoder = program.stages.find(({ name }) => name === "decoder");
    expect(decoder).toMatchObject(expected);
    expect((decoder as unknown as { kernel: Float32Array }).kernel).not.toContain(9);
  });
});

describe("lruProgram", () => {
  const params = initLru({ dModel: 3, dState: 4, seed: 5 });

  test("is one stage over two slots, with arrays of its own", () => {
    const own = structuredClone(params);
    const program = lruProgram(own);
    for (const values of Object.values(own)) (values as Float32Array).fill(0);
    expect(program).toEqual({
      architecture: "lrnnx/lru",
      slots: [3, 3],
      stages: [{ kind: "lru", name: "lru", src: 0, dst: 1, dModel: 3, dState: 4, params }],
      output: 1,
    });
  });

  test("takes theta, which may be negative, for thetaLog", () => {
    const { thetaLog, ...rest } = params;
    const theta = Float32Array.from(thetaLog as Float32Array, Math.exp);
    const x = [1, 2, 3, 4, 5, 6];
    const expected = runReference(lruProgram(params), { x, batch: 1, seqLen: 2 }).y;
    expect(
      relativeError(runReference(lruProgram({ ...rest, theta }), { x, batch: 1, seqLen: 2 }).y, expected),
    ).toBeLessThan(1e-6);
    expect(() => lruProgram({ ...rest, theta: theta.map((value) => -value) })).not.toThrow();
  });

  const change = (part: Record<string, unknown>) => ({ ...params, ...part }) as unknown as LruParams;
  const gone = new Float32Array(4);
  structuredClone(gone.buffer, { transfer: [gone.buffer] });
  const at = (name: "nuLog" | "CIm" | "thetaLog" | "gammaLog", index: number, value: number) => {
    return change({ [name]: params[name]?.map((old, i) => (i === index ? value : old)) });
  };

  const cases: [string, unknown, string, RegExp][] = [
    ["null", null, "invalid-argument", /object with nuLog.*got null/],
    ["both phases", change({ theta: new Float32Array(4) }), "invalid-argument", /both thetaLog and theta/],
    ["no phase", change({ thetaLog: undefined }), "invalid-argument", /neither thetaLog nor theta/],
    ["an array missing", change({ BIm: undefined }), "wrong-dtype", /BIm must be a Float32Array.*undefined/],
    ["a plain array", change({ D: [1, 2, 3] }), "wrong-dtype", /D must be a Float32Array.*Array/],
    ["float64", change({ nuLog: new Float64Array(4) }), "wrong-dtype", /nuLog.*got Float64Array/],
    ["a buffer", change({ D: new ArrayBuffer(12) }), "wrong-dtype", /D must.*got ArrayBuffer/],
    ["detached memory", change({ gammaLog: gone }), "detached", /gammaLog is detached/],
    [
      "BRe too short",
      change({ BRe: new Float32Array(11) }),
      "shape-mismatch",
      /BRe has 11.*\[dState, dModel\] needs 12: dState is 4.*dModel is 3/,
    ],
    [
      "CIm too long",
      change({ CIm: new Float32Array(13) }),
      "shape-mismatch",
      /CIm has 13.*\[dModel, dState\] needs 12/,
    ],
    [
      "thetaLog too short",
      change({ thetaLog: new Float32Array(3) }),
      "shape-mismatch",
      /thetaLog has 3.*\[dState\] needs 4/,
    ],
    ["no states", change({ nuLog: new Float32Array(0) }), "shape-mismatch", /dState is 0.*at least 1/],
    ["a NaN", at("CIm", 7, Number.NaN), "non-finite", /CIm\[7\] is NaN/],
    ["an infinity", at("nuLog", 1, Infinity), "non-finite", /nuLog\[1\] is Infinity/],
    [
      "a phase beyond float32",
      at("thetaLog", 2, 100),
      "non-finite",
      /thetaLog\[2\] is 100.*pass the phases as `theta`/,
    ],
    ["a gamma beyond float32", at("gammaLog", 3, 90), "non-finite", /gammaLog\[3\] is 90.*logarithm/],
    ["|lambda| = 1", at("nuLog", 3, -38), "unstable", /nuLog\[3\] is -38.*state 3/],
  ];
  test.each(cases)("refuses %s", (_, given, code, message) => {
    const expected = { code, message: expect.stringMatching(message) };
    expect(errorOf(() => lruProgram(given as LruParams))).toMatchObject(expected);
  });

  test("takes the slowest and the fastest decay there is", () => {
    expect(() => lruProgram(at("nuLog", 0, -37))).not.toThrow();
    expect(() => lruProgram(at("nuLog", 0, 100))).not.toThrow();
  });
});

describe("names of a checkpoint", () => {
  const params = initLru({ dModel: 3, dState: 4, seed: 6 });

  test("there and back, through a file, under any prefix", () => {
    for (const prefix of ["", "block.0.seq."]) {
      const { tensors } = readSafetensors(writeSafetensors(fromLruParams(params, prefix)));
      expect([...tensors.keys()].sort()).toEqual(
        ["B_im", "B_re", "C_im", "C_re", "D", "gamma_log", "nu_log", "theta_log"].map(
          (name) => prefix + name,
        ),
      );
      expect(tensors.get(`${prefix}B_re`)?.shape).toEqual([4, 3]);
      expect(tensors.get(`${prefix}C_im`)?.shape).toEqual([3, 4]);
      expect(toLruParams(tensors, prefix)).toEqual(params);
    }
  });

  test("theta stays theta", () => {
    const { thetaLog, ...rest } = params;
    const unlogged = { ...rest, theta: thetaLog as Float32Array };
    expect(toLruParams(fromLruParams(unlogged))).toEqual(unlogged);
  });

  test("one layer out of many; what is missing is named", async () => {
    const { checkpoint } = await loadGolden("ml_cls_01_mean_prenorm");
    const layer = toLruParams(checkpoint, "params.encoder.layers_1.seq.");
    expect(layer.BRe).toEqual(toFloat32(checkpoint.get("params.encoder.layers_1.seq.B_re") as Tensor));
    expect(errorOf(() => toLruParams(checkpoint, "params.encoder.layers_2.seq."))).toMatchObject({
      code: "unknown-model",
      message: expect.stringMatching(/missing: params\.encoder\.layers_2\.seq\.nu_log/),
    });
  });
});

function dataOf(tensors: Tensors, name: string): Float64Array {
  return tensors.get(name)?.data as Float64Array;
}

function errorOf(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error;
  }
}
