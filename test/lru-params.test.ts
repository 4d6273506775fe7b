/** A layer's own parameters: from arrays to a program, and to and from the names of a checkpoint. */
import { describe, expect, test } from "vitest";
import { initLru } from "../src/init.js";
import { readSafetensors, type Tensor, toFloat32, writeSafetensors } from "../src/io/safetensors.js";
import { lruProgram } from "../src/lruParams.js";
import { fromLruParams, toLruParams } from "../src/models/lru.js";
import type { LruParams } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { loadGolden, relativeError } from "./support/golden.js";
import { thrownBy } from "./support/tensors.js";

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
    ["null", null, "invalid-argument", /\(nuLog.*\) must be an object; got null/],
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
    expect(thrownBy(() => lruProgram(given as LruParams))).toMatchObject(expected);
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
    expect(thrownBy(() => toLruParams(checkpoint, "params.encoder.layers_2.seq."))).toMatchObject({
      code: "unknown-model",
      message: expect.stringMatching(/missing: params\.encoder\.layers_2\.seq\.nu_log/),
    });
  });
});
