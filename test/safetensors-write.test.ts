/** What writeSafetensors refuses, and toFloat32. */
import { describe, expect, test } from "vitest";
import { type Dtype, type Tensor, toFloat32, writeSafetensors } from "../src/io/safetensors.js";
import { thrownBy } from "./support/tensors.js";

describe("writing refuses", () => {
  const data = Float32Array.of(1, 2);
  const cases: [string, unknown, string, RegExp][] = [
    [
      "a length that does not fit",
      { a: { dtype: "F32", shape: [3], data } },
      "shape-mismatch",
      /"a" has 2.*\[3\] needs 3/,
    ],
    [
      "data of another type",
      { a: { dtype: "F64", shape: [2], data } },
      "wrong-dtype",
      /Float64Array; got Float32Array/,
    ],
    [
      "data that is no typed array",
      { a: { dtype: "F32", shape: [2], data: [1, 2] } },
      "wrong-dtype",
      /Float32Array; got Array/,
    ],
    [
      "an unknown dtype",
      { a: { dtype: "F8_E5M2", shape: [2], data } },
      "invalid-argument",
      /F8_E5M2.*expected U64/,
    ],
    ["no tensor", { a: null }, "invalid-argument", /"a"/],
    ["no tensors at all", null, "invalid-argument", /tensors must be an object; got null/],
    ["an entry that is no pair", [5], "invalid-argument", /an entry of tensors must be an object; got 5/],
    [
      "a shape that is no array",
      { a: { dtype: "F32", shape: 2, data } },
      "invalid-argument",
      /shape of tensor "a"/,
    ],
    [
      "a negative size",
      { a: { dtype: "F32", shape: [-1, -2], data } },
      "invalid-argument",
      /shape of tensor "a"/,
    ],
    [
      "the name __metadata__",
      { __metadata__: { dtype: "F32", shape: [2], data } },
      "invalid-argument",
      /__metadata__/,
    ],
    [
      "a name twice",
      [
        ["a", { dtype: "F32", shape: [2], data }],
        ["a", { dtype: "F32", shape: [2], data }],
      ],
      "invalid-argument",
      /"a" is there twice/,
    ],
    [
      "a name with half a surrogate pair",
      { "\ud800": { dtype: "F32", shape: [2], data } },
      "invalid-argument",
      /surrogate/,
    ],
  ];

  test.each(cases)("%s", (_, tensors, code, message) => {
    const error = thrownBy(() => writeSafetensors(tensors as Record<string, Tensor>));
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  test.each([[null], [["text"]], [new Map([["key", "text"]])]])(
    "metadata that is no object: %s",
    (metadata) => {
      const write = () => writeSafetensors([], metadata as unknown as Record<string, string>);
      expect(thrownBy(write)).toMatchObject({
        code: "invalid-argument",
        message: expect.stringMatching(/metadata must be an object/),
      });
    },
  );

  test("metadata that is not text", () => {
    const write = () => writeSafetensors([], { k: 1 } as unknown as Record<string, string>);
    expect(thrownBy(write)).toMatchObject({
      code: "invalid-argument",
      message: expect.stringMatching(/"k".*number/),
    });
  });

  test("detached data", () => {
    const gone = Float32Array.of(1);
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    const write = () => writeSafetensors({ a: { dtype: "F32", shape: [0], data: gone } });
    expect(thrownBy(write)).toMatchObject({ code: "detached" });
  });
});

describe("toFloat32", () => {
  const widen = (dtype: Dtype, data: unknown) => [
    ...toFloat32({ dtype, shape: [], data } as unknown as Tensor),
  ];

  test("F16 exactly", () => {
    const bits = Uint16Array.of(
      0x3c00,
      0xc000,
      0x3555,
      0x0001,
      0x83ff,
      0x0400,
      0x7bff,
      0x8000,
      0x7c00,
      0xfc00,
      0x7e00,
    );
    const expected = [
      1,
      -2,
      0.333251953125,
      2 ** -24,
      -1023 * 2 ** -24,
      2 ** -14,
      65504,
      -0,
      Infinity,
      -Infinity,
      Number.NaN,
    ];
    expect(widen("F16", bits)).toEqual(expected);
  });

  test("BF16 exactly", () => {
    const bits = Uint16Array.of(0x3f80, 0xc000, 0x3eab, 0x0001, 0x8000, 0x7f80, 0x7fc0);
    expect(widen("BF16", bits)).toEqual([1, -2, 0.333984375, 2 ** -133, -0, Infinity, Number.NaN]);
  });

  test("F64 to nearest, F32 as it is, always in memory of its own", () => {
    const data = Float32Array.of(1, 2);
    expect(widen("F64", Float64Array.of(0.1, 1e300))).toEqual([Math.fround(0.1), Infinity]);
    const copy = toFloat32({ dtype: "F32", shape: [2], data });
    expect(copy).toEqual(data);
    expect(copy.buffer).not.toBe(data.buffer);
  });

  test("integers are refused", () => {
    expect(thrownBy(() => widen("I32", Int32Array.of(1)))).toMatchObject({ code: "wrong-dtype" });
  });
});
