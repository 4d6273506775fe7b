// Checkpoints that are no files: objects and Maps of arrays.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEngine,
  type Engine,
  initLru,
  type PlainTensors,
  type Tensor,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { fingerprint } from "../src/io/fingerprint.js";
import { toTensors } from "../src/models/plain.js";
import { expectSameBits } from "./support/bits.js";
import { checkpointNames, loadCheckpoint } from "./support/checkpoints.js";
import { loadGolden } from "./support/golden.js";

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ threads: 0 });
});
afterAll(() => engine.dispose());

type Nested = (number | Nested)[];

/** What a tensor is in JSON. */
function nested({ shape, data }: Tensor, at = 0, axis = 0): Nested {
  const size = shape[axis] as number;
  const inner = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  return Array.from({ length: size }, (_, i) =>
    axis + 1 === shape.length
      ? Number(data[at + i])
      : nested({ shape, data } as Tensor, at + i * inner, axis + 1),
  );
}

describe("a model from plain data is that of its file", () => {
  const forms: [string, (tensors: ReadonlyMap<string, Tensor>) => unknown][] = [
    ["a Map of tensors", (tensors) => tensors],
    ["an object of tensors", (tensors) => Object.fromEntries(tensors)],
    [
      "nested arrays",
      (tensors) => Object.fromEntries([...tensors].map(([name, tensor]) => [name, nested(tensor)])),
    ],
    [
      "nested arrays that were JSON",
      (tensors) =>
        JSON.parse(
          JSON.stringify(Object.fromEntries([...tensors].map(([name, tensor]) => [name, nested(tensor)]))),
        ),
    ],
    [
      "{ shape, data }",
      (tensors) => Object.fromEntries([...tensors].map(([name, { shape, data }]) => [name, { shape, data }])),
    ],
    [
      "flat lists with a shape",
      (tensors) =>
        Object.fromEntries(
          [...tensors].map(([name, { shape, data }]) => [name, { shape, data: [...(data as Float32Array)] }]),
        ),
    ],
  ];
  for (const [form, convert] of forms) {
    test.each(checkpointNames)(`${form}: %s`, async (name) => {
      const { checkpoint, spec } = await loadCheckpoint(name);
      const file = await engine.model(writeSafetensors(checkpoint), spec);
      const plain = await engine.model(convert(checkpoint) as PlainTensors, spec);
      expect(fingerprint(plain.program)).toBe(fingerprint(file.program));
      expectSameBits(writeModel(plain), writeModel(file), name);
    });
  }

  test("doubles and halves keep their dtype, and nothing is kept of the caller's", async () => {
    const { checkpoint, spec } = await loadGolden("ml_cls_01_mean_prenorm");
    const bias = Float64Array.of(1, 2, 3, 4, 5);
    const half = { dtype: "F16", shape: [8], data: new Uint16Array(8).fill(0x3c00) } as const;
    const tensors = {
      ...Object.fromEntries(checkpoint),
      "params.decoder.bias": bias,
      "params.encoder.encoder.bias": half,
    };
    const model = await engine.model(tensors, spec);
    bias.fill(9);
    const decoder = model.program.stages.find(({ name }) => name === "decoder");
    expect(decoder).toMatchObject({ bias: Float32Array.of(1, 2, 3, 4, 5) });
    const encoder = model.program.stages.find(({ name }) => name === "encoder.encoder");
    expect(encoder).toMatchObject({ bias: new Float32Array(8).fill(1) });
  });

  test("missing, misshapen and left over are named together", async () => {
    const { checkpoint, spec } = await loadGolden("ml_cls_01_mean_prenorm");
    const tensors = {
      ...Object.fromEntries(checkpoint),
      "params.encoder.encoder.bias": [1, 2],
      extra: [1],
    } as unknown as Record<string, never>;
    delete tensors["params.decoder.kernel"];
    await expect(engine.model(tensors, spec)).rejects.toMatchObject({
      code: "unknown-model",
      message: expect.stringMatching(
        /missing: decoder\.kernel.*misshapen: encoder\.encoder\.bias.*not part of it: extra/,
      ),
    });
  });
});

describe("a layer", () => {
  const params = initLru({ dModel: 3, dState: 4, seed: 5 });
  const shapes: Record<string, [number, number]> = { BRe: [4, 3], BIm: [4, 3], CRe: [3, 4], CIm: [3, 4] };
  const snake = (name: string) => name.replace(/(?!^)[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const map = (change: (name: string, values: Float32Array) => [string, unknown]) =>
    Object.fromEntries(Object.entries(params).map(([name, values]) => change(name, values)));
  const rows = (name: string, values: Float32Array) =>
    nested({ dtype: "F32", shape: shapes[name] ?? [values.length], data: values });

  const forms: [string, unknown][] = [
    ["nested, camelCase", map((name, values) => [name, rows(name, values)])],
    ["nested, snake_case", map((name, values) => [snake(name), rows(name, values)])],
    [
      "rows that are typed arrays",
      map((name, values) => [
        name,
        shapes[name]
          ? [...Array(shapes[name][0]).keys()].map((i) =>
              values.subarray(i * shapes[name]![1], (i + 1) * shapes[name]![1]),
            )
          : values,
      ]),
    ],
    ["flat, snake_case", map((name, values) => [snake(name), values])],
    ["flat doubles, snake_case", map((name, values) => [snake(name), Float64Array.from(values)])],
    ["flat lists", map((name, values) => [name, [...values]])],
    ["with shapes", map((name, data) => [name, { shape: shapes[name] ?? [data.length], data }])],
    [
      "a Map under a prefix",
      new Map(Object.entries(params).map(([name, values]) => [`a.seq.${snake(name)}`, rows(name, values)])),
    ],
    ["with what is undefined", { ...map((name, values) => [name, rows(name, values)]), theta: undefined }],
  ];
  test.each(forms)("%s", async (_, source) => {
    const exact = await engine.lru(params);
    const lru = await engine.lru(source as typeof params);
    const x = Float32Array.from({ length: 30 }, Math.sin);
    expect((await lru.forward(x)).y).toEqual((await exact.forward(x)).y);
    // States go from one to the other: they are the same layer.
    const cache = exact.allocateInferenceCache();
    exact.stepSync(x.subarray(0, 3), cache);
    expect(lru.deserializeState(exact.serializeState(cache)).get()).toEqual(cache.get());
  });

  test("flat doubles under camelCase names are no parameters, as their type says", async () => {
    const doubles = Float64Array.from(params.nuLog);
    // @ts-expect-error: a Float32Array, as of LruParams, or nested
    await expect(engine.lru({ ...params, nuLog: doubles })).rejects.toMatchObject({ code: "wrong-dtype" });
    await engine.lru({ ...params, nuLog: [...doubles] });
    await engine.lru({ ...params, nuLog: { shape: [4], data: doubles } });
  });

  const plain = (part: object) => ({ ...map((name, values) => [name, rows(name, values)]), ...part });
  const refused: [string, object, string, RegExp][] = [
    [
      "every fault at once",
      plain({ BRe: [[1, 2]], CIm: undefined, Bre: [1] }),
      "unknown-model",
      /missing: C_im.*misshapen: B_re has shape \[1, 2\], expected \[4, 3\].*not part of it: Bre/,
    ],
    ["one under two names", plain({ nu_log: [1, 1, 1, 1] }), "invalid-argument", /nu_log is there twice/],
    [
      "a matrix the wrong way round",
      plain({ BRe: { shape: [3, 4], data: params.BRe } }),
      "unknown-model",
      /B_re has shape \[3, 4\], expected \[4, 3\]/,
    ],
    ["a NaN", plain({ D: [1, Number.NaN, 2] }), "non-finite", /D\[1\] is NaN/],
    ["|lambda| = 1", plain({ nuLog: [0, 0, -40, 0] }), "unstable", /nuLog\[2\] is -40/],
  ];
  test.each(refused)("refuses %s", async (_, source, code, message) => {
    await expect(engine.lru(source as typeof params)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
  });
});

describe("what is no tensor is refused, by name and place", () => {
  const self: unknown[] = [];
  self.push(self);
  const gone = new Float32Array(4);
  structuredClone(gone.buffer, { transfer: [gone.buffer] });
  const cases: [string, unknown, RegExp][] = [
    ["ragged", [[1, 2], [3]], /a\[1\] has 1 values, the first of its axis 2/],
    ["a number among rows", [[1], 2], /a\[1\] is 2/],
    ["a row among numbers", [1, [2]], /a\[1\] is Array/],
    ["null", [[1, null]], /a\[0\]\[1\] is null/],
    ["text", "1, 2", /a is "1, 2"/],
    ["text among numbers", ["1"], /a\[0\] is "1"/],
    ["an array that holds itself", self, /a has more than 8 axes/],
    ["detached memory", gone, /a is detached/],
    ["integers", new Int32Array(2), /a is a Int32Array without dtype/],
    [
      "a shape that does not fit",
      { shape: [2, 2], data: [1, 2, 3] },
      /a has 3 values; shape \[2, 2\] needs 4/,
    ],
    ["a shape that is none", { shape: [-1], data: [1] }, /a\.shape is no list/],
    ["no shape", { data: [1] }, /a\.shape is no list/],
    ["no data", { shape: [1] }, /a is Object/],
    ["an unknown dtype", { dtype: "float32", shape: [1], data: [1] }, /a\.dtype is "float32"/],
    [
      "data of another dtype",
      { dtype: "F16", shape: [1], data: new Float32Array(1) },
      /a is F16, whose data is a Uint16Array; got Float32Array/,
    ],
    ["a nested tree", { b: { c: [1] } }, /a is Object/],
  ];
  test.each(cases)("%s", (_, value, message) => {
    const read = () => toTensors({ a: value, fine: [1] } as PlainTensors);
    const expected = { code: "invalid-argument", message: expect.stringMatching(message) };
    expect(read).toThrow(expect.objectContaining(expected));
  });

  test("a Map's keys that are no strings are names by what they are written as", () => {
    const read = (entries: [unknown, unknown][]) => toTensors(new Map(entries) as never);
    expect([...read([[7, [1]]]).keys()]).toEqual(["7"]);
    const message = expect.stringMatching(/Symbol\(a\) is null/);
    const expected = { code: "invalid-argument", message };
    expect(() => read([[Symbol("a"), null]])).toThrow(expect.objectContaining(expected));
  });

  test("all of them in one error", () => {
    const tensors = Object.fromEntries([..."abcdefgh"].map((name) => [name, null])) as never;
    expect(() => toTensors(tensors)).toThrow(/a is null, b is null.*f is null, and 2 more/);
  });

  test("no prototype is polluted, and inherited names are none", () => {
    const tensors = toTensors(JSON.parse('{ "__proto__": [1], "constructor": [2] }'));
    expect([...tensors.keys()]).toEqual(["__proto__", "constructor"]);
    expect(toTensors(Object.create({ a: [1] })).size).toBe(0);
  });

  test.each([[null], [undefined], [7], [[1, 2]]])("no checkpoint at all: %s", async (source) => {
    await expect(engine.model(source as never)).rejects.toMatchObject({
      code: "wrong-dtype",
      message: expect.stringMatching(/object or Map of arrays/),
    });
  });
});
