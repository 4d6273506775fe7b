// writeModel: every architecture's checkpoints come back as they were, bit for bit.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEngine,
  type Engine,
  initLru,
  type Model,
  readSafetensors,
  type Tensor,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { fingerprint } from "../src/io/fingerprint.js";
import { buildProgram } from "../src/models/build.js";
import { TensorReader } from "../src/models/tensors.js";
import { permute, toFloat32 } from "../src/tensor.js";
import { expectSameBits } from "./support/bits.js";
import { checkpointNames, loadCheckpoint } from "./support/checkpoints.js";
import { loadExample, loadGolden } from "./support/golden.js";

type Tensors = ReadonlyMap<string, Tensor>;

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ threads: 0 });
});
afterAll(() => engine.dispose());

/** Fails unless names, dtypes, shapes and bits are the same. */
function expectSameTensors(actual: Tensors, expected: Tensors): void {
  const forms = (tensors: Tensors) =>
    Object.fromEntries([...tensors].map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
  expect(forms(actual)).toEqual(forms(expected));
  const bytesOf = ({ data }: Tensor) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  for (const [name, tensor] of expected) {
    expectSameBits(bytesOf(actual.get(name) as Tensor), bytesOf(tensor), name);
  }
}

const read = (bytes: Uint8Array<ArrayBuffer>) => readSafetensors(bytes);

describe("a checkpoint, read and written", () => {
  test.each(checkpointNames)("is the same: %s", async (name) => {
    const { checkpoint, spec } = await loadCheckpoint(name);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const bytes = writeModel(model);
    const { tensors, metadata } = read(bytes);
    expectSameTensors(tensors, checkpoint);
    expect(JSON.parse(metadata["linrec"] as string)).toMatchObject(spec);
    // And it needs no spec any more.
    expect(fingerprint(buildProgram(tensors, metadata))).toBe(fingerprint(model.program));
    const again = await engine.model(bytes);
    expectSameBits(writeModel(again), bytes, "written twice");
    model.dispose();
    again.dispose();
  });

  test("is byte for byte the file that writeSafetensors makes, with its own metadata", async () => {
    const source = read(new Uint8Array(await loadExample("smnist")));
    const model = await engine.model(
      writeSafetensors(source.tensors, { ...source.metadata, format: "flax" }),
    );
    const { tensors, metadata } = read(writeModel(model, { metadata: { epoch: "7" } }));
    expectSameTensors(tensors, source.tensors);
    expect(metadata).toMatchObject({ format: "flax", epoch: "7" });
    model.dispose();
  });

  test("metadata that are no object are refused", async () => {
    const lru = await engine.lru(initLru({ dModel: 1, dState: 1 }));
    for (const metadata of [null, "text", ["text"], new Map([["key", "text"]])]) {
      const write = () => writeModel(lru, { metadata: metadata as unknown as Record<string, string> });
      expect(write).toThrow(/writeModel's metadata must be an object; got/);
    }
    lru.dispose();
  });

  test("keeps what stands under the name of an object's prototype", async () => {
    const source = read(new Uint8Array(await loadExample("smnist")));
    const strange = JSON.parse('{ "__proto__": "a" }');
    const model = await engine.model(writeSafetensors(source.tensors, { ...source.metadata, ...strange }));
    expect(Object.entries(read(writeModel(model)).metadata)).toContainEqual(["__proto__", "a"]);
    model.dispose();
  });

  test("keeps the spelling of names", async () => {
    const { checkpoint, spec } = await loadGolden("ml_cls_05_batchnorm_eval");
    const flax = new Map([...checkpoint].map(([name, tensor]) => [name.replaceAll(".", "/"), tensor]));
    const model = await engine.model(writeSafetensors(flax), spec);
    expect([...read(writeModel(model)).tensors.keys()].sort()).toEqual([...flax.keys()].sort());
    model.dispose();
  });

  const bits = new Uint32Array(1);
  const float = new Float32Array(bits.buffer);
  /** The upper half of a float32's bits. */
  const bf16 = (value: number) => {
    float[0] = value;
    return (bits[0] as number) >>> 16;
  };
  // 1, -2, 0.5, the largest, the smallest normal, three below it, 0, -0, -1/3
  const halves = [0x3c00, 0xc000, 0x3800, 0x7bff, 0x0400, 0x03ff, 0x0001, 0x8155, 0, 0x8000, 0xb555];
  const dtypes: [string, (tensor: Tensor) => Tensor][] = [
    [
      "F16",
      ({ shape, data }) => ({
        dtype: "F16",
        shape,
        data: Uint16Array.from(data as Float32Array, (_, i) => halves[i % halves.length] as number),
      }),
    ],
    [
      "BF16",
      ({ shape, data }) => ({ dtype: "BF16", shape, data: Uint16Array.from(data as Float32Array, bf16) }),
    ],
    ["F64", ({ shape, data }) => ({ dtype: "F64", shape, data: Float64Array.from(data as Float32Array) })],
    [
      "F64 that no float32 holds",
      ({ shape, data }) => ({
        dtype: "F64",
        shape,
        data: Float64Array.from(data as Float32Array, (value) => value / 3),
      }),
    ],
  ];
  test.each(dtypes)("keeps the dtype: %s", async (_, convert) => {
    const { checkpoint, spec } = await loadGolden("ml_cls_01_mean_prenorm");
    // nu_log stays as it is: most halves would be |lambda| = 1 or 0.
    const converted = new Map(
      [...checkpoint].map(([name, tensor]) => [name, /_log/.test(name) ? tensor : convert(tensor)]),
    );
    const model = await engine.model(writeSafetensors(converted), spec);
    expectSameTensors(read(writeModel(model)).tensors, converted);
    model.dispose();
  });

  test("all the bits of a half that are a number", () => {
    const data = Uint16Array.from({ length: 0x10000 }, (_, i) => (((i >> 10) & 31) === 31 ? 0 : i));
    const reader = new TensorReader(new Map([["a", { dtype: "F16", shape: [data.length], data } as Tensor]]));
    expect(reader.take("a", [undefined])).toEqual(toFloat32({ dtype: "F16", shape: [data.length], data }));
    const program = {
      architecture: "any",
      slots: [],
      stages: [],
      output: 0,
      checkpoint: { metadata: { linrec: "{}" }, tensors: reader.origins },
    };
    expect(read(writeModel({ program } as unknown as Model)).tensors.get("a")?.data).toEqual(data);
  });

  test("turns axes back", () => {
    const data = Float32Array.from({ length: 24 }, (_, i) => i);
    const tensor: Tensor = { dtype: "F32", shape: [2, 3, 4], data };
    const reader = new TensorReader(new Map([["a", tensor]]));
    const turned = reader.take("a", [2, 3, undefined], [2, 0, 1]);
    // turned [4, 2, 3]: element (k, o, c) is data's (o, c, k).
    expect(turned[2 * 6 + 1 * 3 + 2]).toBe(data[1 * 12 + 2 * 4 + 2]);
    expect(permute(turned, [4, 2, 3], [1, 2, 0])).toEqual(data);
    const program = {
      architecture: "any",
      slots: [],
      stages: [],
      output: 0,
      checkpoint: { metadata: { linrec: "{}" }, tensors: reader.origins },
    };
    expectSameTensors(read(writeModel({ program } as unknown as Model)).tensors, new Map([["a", tensor]]));
  });
});

describe("a layer of plain parameters", () => {
  test("is written under the names of lrnnx", async () => {
    const params = initLru({ dModel: 3, dState: 5, seed: 1 });
    const lru = await engine.lru(params);
    const bytes = writeModel(lru);
    const again = await engine.lru(bytes);
    expect([...read(bytes).tensors.keys()].sort()).toEqual([
      "B_im",
      "B_re",
      "C_im",
      "C_re",
      "D",
      "gamma_log",
      "nu_log",
      "theta_log",
    ]);
    expect(again.program.stages).toEqual(lru.program.stages);
    expect((await engine.model(bytes)).architecture).toBe("lrnnx/lru");
  });
});

test.each(["lru", "model"] as const)(
  "engine.%s reads bytes before it returns: they are the caller's again",
  async (verb) => {
    const bytes = writeModel(await engine.lru(initLru({ dModel: 3, dState: 4, seed: 1 })));
    const given = bytes.slice();
    const made = engine[verb](given);
    structuredClone(given, { transfer: [given.buffer] });
    expectSameBits(writeModel((await made) as Model), bytes, "written again");
  },
);

test("no copy is kept of what a stage holds", async () => {
  const { program } = await loadGolden("ml_cls_05_batchnorm_eval");
  const arrays = new Set<unknown>();
  for (const stage of program.stages) {
    for (const value of Object.values(stage.kind === "lru" ? stage.params : stage)) arrays.add(value);
  }
  expect(program.checkpoint?.tensors.every(({ data }) => arrays.has(data))).toBe(true);
});

test.each([[null], [{}], ["model"]])("what is no model is refused: %s", (given) => {
  expect(() => writeModel(given as unknown as Model)).toThrow(/layer or a model/);
});

test("an unknown option is refused", async () => {
  const lru = await engine.lru(initLru({ dModel: 1, dState: 1 }));
  expect(() => writeModel(lru, { meta: {} } as object)).toThrow(/no option "meta"/);
});
