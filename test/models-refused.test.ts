/** Checkpoints whose tensors do not fit: every fault is named. */
import { describe, expect, test } from "vitest";
import type { Tensor } from "../src/io/safetensors.js";
import type { ModelSpec } from "../src/models/architecture.js";
import { buildProgram } from "../src/models/build.js";
import { listed } from "../src/models/lrnnx.js";
import type { TensorReader } from "../src/models/tensors.js";
import { loadGolden } from "./support/golden.js";
import { f32, thrownBy } from "./support/tensors.js";

describe("tensors that do not fit are all named", () => {
  const spec: ModelSpec = { architecture: "minimal-lru/classification", prenorm: true, norm: "layer" };
  const refusal = async (change: (tensors: Map<string, Tensor>) => void, use: ModelSpec = spec) => {
    const { checkpoint } = await loadGolden("ml_cls_01_mean_prenorm");
    const tensors = new Map(checkpoint);
    change(tensors);
    return thrownBy(() => buildProgram(tensors, {}, use));
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
    const left = thrownBy(() => buildProgram(checkpoint, {}, { ...spec, norm: "layer" }));
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
      message: expect.stringMatching(/layers_1\.out1\.kernel\[9\] is NaN/),
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

  test("a file of very many numbered modules is not read a time for each", () => {
    const count = 300;
    let reads = 0;
    const all = Array.from({ length: count }, (_, i) => `blocks.${count - 1 - i}.x`);
    const names = new Proxy(all, {
      get(list, key) {
        reads++;
        return Reflect.get(list, key);
      },
    });
    const reader = { names: () => names } as unknown as TensorReader;
    expect(listed(reader, "blocks.").length).toBe(count);
    expect(reads).toBeLessThan(10 * count);
  });

  test.each([0, "", null, false])("a spec that is %o, for only undefined is none", async (none) => {
    const error = await refusal(() => undefined, none as never);
    const message = expect.stringMatching(/A model spec is \{ architecture/);
    expect(error).toMatchObject({ code: "invalid-argument", message });
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
