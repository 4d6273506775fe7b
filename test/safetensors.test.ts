import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { isLinrecError } from "../src/errors.js";
import { decodeUtf8, encodeUtf8 } from "../src/io/bytes.js";
import { type Dtype, readSafetensors, type Tensor, writeSafetensors } from "../src/io/safetensors.js";
import { elementCount } from "../src/tensor.js";
import { expectSameBits } from "./support/bits.js";
import { goldenNames, loadGolden } from "./support/golden.js";
import { thrownBy } from "./support/tensors.js";

const tensorArrays = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  U64: BigUint64Array,
  I32: Int32Array,
  U32: Uint32Array,
  I16: Int16Array,
  U16: Uint16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
};
const dtypes = Object.keys(tensorArrays) as Dtype[];

describe("round trip", () => {
  test.each(dtypes)("%s, every bit, whatever the shape", (dtype) => {
    const bytesPerElement = tensorArrays[dtype].BYTES_PER_ELEMENT;
    const shapes = fc.array(fc.nat(4), { maxLength: 4 });
    const tensor = shapes.chain((shape) => {
      const size = elementCount(shape) * bytesPerElement;
      return fc.uint8Array({ minLength: size, maxLength: size }).map((bytes) => {
        return { dtype, shape, data: new tensorArrays[dtype](bytes.slice().buffer) } as unknown as Tensor;
      });
    });
    fc.assert(
      fc.property(tensor, fc.string({ unit: "grapheme" }), (written, name) => {
        fc.pre(name !== "__metadata__");
        const file = readSafetensors(writeSafetensors([[name, written]], { key: name }));
        const read = file.tensors.get(name) as Tensor;
        expect(file.tensors.size).toBe(1);
        expect([read.dtype, read.shape, read.data.constructor]).toEqual([
          dtype,
          written.shape,
          tensorArrays[dtype],
        ]);
        expect(bitsOf(read)).toEqual(bitsOf(written));
        expect(file.metadata["key"]).toBe(name);
      }),
    );
  });

  test("many tensors: widest dtype first, then by name, every one aligned, whatever order they come in", () => {
    const tensors: [string, Tensor][] = [
      ["b", { dtype: "U8", shape: [3], data: Uint8Array.of(1, 2, 3) }],
      ["a", { dtype: "U8", shape: [], data: Uint8Array.of(4) }],
      ["z", { dtype: "F64", shape: [1, 1], data: Float64Array.of(5) }],
      ["y", { dtype: "F16", shape: [0, 9], data: new Uint16Array(0) }],
      ["x", { dtype: "F32", shape: [2], data: Float32Array.of(6, 7) }],
    ];
    const bytes = writeSafetensors(new Map(tensors));
    expect([...readSafetensors(bytes).tensors.keys()]).toEqual(["z", "x", "y", "a", "b"]);
    expect(headerOf(bytes).trimEnd()).toBe(
      '{"z":{"dtype":"F64","shape":[1,1],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},' +
        '"y":{"dtype":"F16","shape":[0,9],"data_offsets":[16,16]},"a":{"dtype":"U8","shape":[],"data_offsets":[16,17]},' +
        '"b":{"dtype":"U8","shape":[3],"data_offsets":[17,20]}}',
    );
    expect(headerOf(bytes).length % 8).toBe(0);
    expect(writeSafetensors(Object.fromEntries([...tensors].reverse()))).toEqual(bytes);
  });

  test("metadata comes first and is an object without a prototype; none is {}", () => {
    const tensor: Tensor = { dtype: "U8", shape: [1], data: Uint8Array.of(1) };
    const bytes = writeSafetensors({ tensor }, { format: "pt", quote: '"\\\n\u0000é🦀' });
    expect(headerOf(bytes)).toMatch(/^\{"__metadata__":\{"format":"pt",/);
    const { metadata } = readSafetensors(bytes);
    expect({ ...metadata }).toEqual({ format: "pt", quote: '"\\\n\u0000é🦀' });
    expect(Object.getPrototypeOf(metadata)).toBe(null);
    expect({ ...readSafetensors(writeSafetensors({ tensor })).metadata }).toEqual({});
    expect(readSafetensors(writeSafetensors([])).tensors.size).toBe(0);
  });

  test.each(goldenNames)("a file of another writer: %s", async (name) => {
    const { tensors } = await loadGolden(name);
    const again = readSafetensors(writeSafetensors(tensors)).tensors;
    expect([...again.keys()].sort()).toEqual([...tensors.keys()].sort());
    for (const [key, { data, ...expected }] of tensors) {
      const { data: read, ...rest } = again.get(key) as Tensor;
      expect([rest, read.constructor], key).toEqual([expected, data.constructor]);
      expectSameBits(read, data, key);
    }
  });
});

describe("reading", () => {
  const data = Float32Array.of(1, 2, 3, 4);
  const bytes = writeSafetensors({ a: { dtype: "F32", shape: [4], data } });

  test("takes a buffer, a view that is not aligned, and shared memory", () => {
    const shifted = new Uint8Array(bytes.length + 3);
    shifted.set(bytes, 3);
    const sources: (ArrayBufferLike | ArrayBufferView)[] = [
      bytes.buffer,
      bytes,
      new DataView(bytes.buffer),
      shifted.subarray(3),
    ];
    if (typeof SharedArrayBuffer === "function") {
      const shared = new Uint8Array(new SharedArrayBuffer(bytes.length));
      shared.set(bytes);
      sources.push(shared, shared.buffer);
    }
    for (const source of sources) {
      const tensor = readSafetensors(source).tensors.get("a");
      expect(tensor?.data).toEqual(data);
      expect(tensor?.data.buffer).toBeInstanceOf(ArrayBuffer);
    }
  });

  test("keeps nothing of its input", () => {
    const copy = bytes.slice();
    const { tensors } = readSafetensors(copy);
    copy.fill(0);
    expect(tensors.get("a")?.data).toEqual(data);
    expect(tensors.get("a")?.data.buffer.byteLength).toBe(16);
  });

  test("white space, order of fields, order of tensors and escapes are free", () => {
    const header =
      '{ "b" :\t{"data_offsets":[ 1 , 2],\n"shape":[ ],"dtype":"U8"}, "\\u0061":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]} } \r\n';
    const { tensors } = readSafetensors(fileOf(header, [7, 8]));
    expect([...tensors]).toEqual([
      ["b", { dtype: "U8", shape: [], data: Uint8Array.of(8) }],
      ["a", { dtype: "BOOL", shape: [1], data: Uint8Array.of(7) }],
    ]);
  });

  test("an empty tensor may start where a full one does, in any order", () => {
    const full = '"full":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}';
    const empty = '"empty":{"dtype":"F64","shape":[0],"data_offsets":[0,0]}';
    for (const header of [`{${full},${empty}}`, `{${empty},${full}}`]) {
      expect(readSafetensors(fileOf(header, [7, 8])).tensors.get("empty")?.data).toEqual(new Float64Array(0));
    }
  });

  test("__proto__ is a name like any other", () => {
    const header =
      '{"__metadata__":{"__proto__":"x"},"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    const { tensors, metadata } = readSafetensors(fileOf(header, [7]));
    expect(tensors.get("__proto__")?.data).toEqual(Uint8Array.of(7));
    expect(Object.keys(metadata)).toEqual(["__proto__"]);
    expect(Object.getPrototypeOf(metadata)).toBe(null);
    const again = readSafetensors(writeSafetensors(tensors, metadata));
    expect(again.tensors.get("__proto__")?.data).toEqual(Uint8Array.of(7));
    expect(Object.keys(again.metadata)).toEqual(["__proto__"]);
    expect(Object.keys(Object.prototype)).toEqual([]);
  });
});

describe("refuses", () => {
  const tensor = (fields: Record<string, string>) => {
    const all = { dtype: '"U8"', shape: "[4]", data_offsets: "[0,4]", ...fields };
    return `{${Object.entries(all).map(([key, value]) => `"${key}":${value}`)}}`;
  };
  const one = (fields: Record<string, string>) => fileOf(`{"a":${tensor(fields)}}`, [1, 2, 3, 4]);
  const two = (a: string, b: string, length = 4) =>
    fileOf(
      `{"a":${tensor({ shape: `[${a}]`, data_offsets: `[0,${a}]` })},` +
        `"b":${tensor({ shape: `[${Number(b.split(",")[1]) - Number(b.split(",")[0])}]`, data_offsets: `[${b}]` })}}`,
      new Array<number>(length).fill(0),
    );
  const withLength = (length: bigint) => {
    const bytes = one({});
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    return bytes;
  };

  const cases: [string, Uint8Array, RegExp][] = [
    ["an empty file", new Uint8Array(0), /0 bytes/],
    ["half a header length", new Uint8Array(7), /7 bytes/],
    ["a header longer than the file", withLength(1000n), /1000 bytes.*truncated/],
    ["a header over the limit", withLength(100_000_001n), /100000001 bytes.*100000000/],
    ["a header length of 2^64 - 1", withLength(2n ** 64n - 1n), /18446744073709551615/],
    [
      "a page that stands for whatever the server lacks",
      new TextEncoder().encode("<!doctype html>\n<title>Not here</title>"),
      /begins with "<!doctype html>": .*look at what its path or URL gives/,
    ],
    ["an empty header", fileOf("", []), /start with/],
    ["a leading space", fileOf(" {}", []), /start with/],
    ["a byte order mark", fileOf("\ufeff{}", []), /start with/],
    ["an array", fileOf("[]", []), /start with/],
    ["a number", fileOf("1", []), /start with/],
    ["no closing brace", fileOf("{", []), /end of the header/],
    ["text after the header", fileOf("{}{}", []), /closing brace/],
    ["not UTF-8", replaced(fileOf('{"é":1}', []), 0xc3, 0xff), /UTF-8/],
    ["a trailing comma", fileOf(`{"a":${tensor({})},}`, [1, 2, 3, 4]), /key of the header/],
    ["a comment", fileOf("{/**/}", []), /key of the header/],
    ["a key without quotes", fileOf("{a:1}", []), /key of the header/],
    ["a tensor that is a number", fileOf('{"a":1}', []), /"a": expected "{"/],
    ["NaN", fileOf('{"a":NaN}', []), /"a": expected "{"/],
    ["a string without end", fileOf('{"a', []), /without end/],
    ["a string that ends in a backslash", fileOf('{"a\\', []), /without end/],
    ["a raw newline in a name", fileOf('{"a\n":1}', []), /control character/],
    ["a wrong escape", fileOf('{"\\x":1}', []), /escape/],
    ["half a surrogate pair", fileOf('{"\\ud800":1}', []), /surrogate/],
    [
      "the same tensor twice",
      fileOf(`{"a":${tensor({})},"a":${tensor({})}}`, [1, 2, 3, 4]),
      /"a" is there twice/,
    ],
    [
      "the same, escaped",
      fileOf(`{"a":${tensor({})},"\\u0061":${tensor({})}}`, [1, 2, 3, 4]),
      /"a" is there twice/,
    ],
    ["metadata twice", fileOf('{"__metadata__":{},"__metadata__":{}}', []), /"__metadata__" is there twice/],
    ["a metadata key twice", fileOf('{"__metadata__":{"k":"","k":""}}', []), /"k" twice/],
    ["a metadata number", fileOf('{"__metadata__":{"k":1}}', []), /value of "k"/],
    ["a metadata array", fileOf('{"__metadata__":[]}', []), /__metadata__: expected "{"/],
    ["a metadata null", fileOf('{"__metadata__":null}', []), /__metadata__: expected "{"/],
    ["no dtype", fileOf('{"a":{"shape":[0],"data_offsets":[0,0]}}', []), /needs the fields/],
    ["no shape", fileOf('{"a":{"dtype":"U8","data_offsets":[0,0]}}', []), /needs the fields/],
    ["no data_offsets", fileOf('{"a":{"dtype":"U8","shape":[0]}}', []), /needs the fields/],
    ["no fields", fileOf('{"a":{}}', []), /needs the fields/],
    ["an unknown field", one({ extra: "1" }), /unknown field "extra"/],
    ["__proto__ as a field", fileOf('{"a":{"__proto__":{}}}', []), /unknown field "__proto__"/],
    ["a field twice", fileOf('{"a":{"dtype":"U8","dtype":"U8"}}', []), /"dtype" twice/],
    ["a dtype nobody knows", one({ dtype: '"F128"' }), /dtype "F128"/],
    ["a dtype of a prototype", one({ dtype: '"constructor"' }), /dtype "constructor"/],
    ["a long name", fileOf(`{"${"n".repeat(80)}":1}`, []), /tensor "n{80}"/],
    ["a name too long to be shown", fileOf(`{"${"n".repeat(81)}":1}`, []), /tensor "n{77}\.\.\."/],
    ["a dtype that is a number", one({ dtype: "8" }), /dtype of tensor "a"/],
    ["a negative size", one({ shape: "[-4]" }), /integers.*"-4"/],
    ["negative zero", one({ shape: "[-0]" }), /integers.*"-0"/],
    ["a fraction", one({ shape: "[4.0]" }), /integers.*"4.0"/],
    ["an exponent", one({ shape: "[4e0]" }), /integers.*"4e0"/],
    ["a leading zero", one({ shape: "[04]" }), /integers.*"04"/],
    ["an unsafe integer", one({ shape: "[9007199254740993]" }), /integers.*9007199254740993/],
    ["a size of a thousand digits", one({ shape: `[${"9".repeat(1000)}]` }), /integers/],
    ["a string as a size", one({ shape: '["4"]' }), /integers/],
    ["null as a size", one({ shape: "[null]" }), /integers.*"null"/],
    ["a nested shape", one({ shape: "[[4]]" }), /integers/],
    ["a deep shape", one({ shape: "[".repeat(100_000) }), /integers/],
    ["deep objects", fileOf('{"a":'.repeat(100_000), []), /unknown field "a"/],
    ["65 dimensions", one({ shape: `[${new Array(65).fill(1)}]` }), /more than 64/],
    ["a shape with a product beyond 2^53", one({ shape: "[4294967296,4294967296]" }), /too large/],
    ["one offset", one({ data_offsets: "[0]" }), /begin, end/],
    ["three offsets", one({ data_offsets: "[0,2,4]" }), /begin, end/],
    ["offsets backwards", one({ data_offsets: "[4,0]" }), /begin <= end/],
    ["bytes that do not fit the shape", one({ shape: "[3]" }), /"a" has 4 bytes; U8 \[3\] needs 3/],
    ["bytes that do not fit the dtype", one({ dtype: '"F32"' }), /"a" has 4 bytes; F32 \[4\] needs 16/],
    ["a tensor beyond the file", one({ shape: "[5]", data_offsets: "[0,5]" }), /truncated/],
    ["trailing bytes", one({ shape: "[3]", data_offsets: "[0,3]" }), /1 bytes follow/],
    ["data without tensors", fileOf("{}", [1]), /1 bytes follow/],
    ["a gap at the start", one({ shape: "[3]", data_offsets: "[1,4]" }), /0 to 1 belong to no tensor/],
    ["a gap", two("1", "2,4"), /1 to 2 belong to no tensor; tensor "b"/],
    ["an overlap", two("3", "2,4"), /"b" starts at data byte 2/],
    ["the same bytes twice", two("4", "0,4"), /"b" starts at data byte 0/],
    ["an empty tensor inside another", two("4", "2,2"), /inside/],
  ];

  test.each(cases)("%s", (_, bytes, message) => {
    const error = thrownBy(() => readSafetensors(bytes));
    expect(error).toMatchObject({ code: "malformed-file", message: expect.stringMatching(message) });
  });

  test("says at which byte of the file", () => {
    expect(() => readSafetensors(fileOf('{"é":x}', []))).toThrow(/byte 14\)/);
  });

  test("a dtype that it does not support, by name", () => {
    const error = thrownBy(() => readSafetensors(one({ dtype: '"F8_E4M3"' })));
    expect(error).toMatchObject({ code: "unsupported", message: expect.stringMatching(/"a".*F8_E4M3.*F32/) });
  });

  test("what is no bytes, or no more", () => {
    const detached = new ArrayBuffer(64);
    structuredClone(detached, { transfer: [detached] });
    expect(thrownBy(() => readSafetensors(detached))).toMatchObject({ code: "detached" });
    for (const source of ["{}", null, undefined, 5, [1, 2], {}]) {
      expect(thrownBy(() => readSafetensors(source as unknown as ArrayBuffer))).toMatchObject({
        code: "wrong-dtype",
      });
    }
  });
});

describe("hostile files", () => {
  /** Either a file that is sound throughout, or a LinrecError; quickly; and no prototype is touched. */
  function checkOutcome(bytes: Uint8Array): "accepted" | "refused" {
    const before = performance.now();
    const outcome = outcomeOf(() => readSafetensors(bytes));
    expect(performance.now() - before).toBeLessThan(5_000); // a hang: how fast the machine is does not matter
    if ("error" in outcome) {
      expect(isLinrecError(outcome.error)).toBe(true);
    } else {
      // JSON.parse is the lenient one: whatever is accepted must mean the same to it.
      const { __metadata__ = {}, ...entries } = JSON.parse(headerOf(bytes)) as Record<string, object>;
      expect({ ...outcome.value.metadata }).toEqual(__metadata__);
      expect([...outcome.value.tensors.keys()]).toEqual(expect.arrayContaining(Object.keys(entries)));
      for (const [name, entry] of Object.entries(entries)) {
        const { dtype, shape } = outcome.value.tensors.get(name) as Tensor;
        expect(entry).toMatchObject({ dtype, shape });
      }
    }
    expect(Object.keys(Object.prototype)).toEqual([]);
    return "error" in outcome ? "refused" : "accepted";
  }

  test("bytes changed at random, in the header above all", async () => {
    const { tensors } = await loadGolden("lru_21_init_L1");
    const sound = writeSafetensors(tensors, { note: "x" });
    const header = 8 + headerOf(sound).length;
    const position = fc.oneof({ weight: 4, arbitrary: fc.nat(header - 1) }, fc.nat(sound.length - 1));
    const value = fc.oneof(
      fc.nat(255),
      fc.constantFrom(...[...'{}[]",:0123456789-.e\\ '].map((c) => c.charCodeAt(0))),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(position, value), { minLength: 1, maxLength: 4 }), (changes) => {
        const bytes = sound.slice();
        for (const [at, byte] of changes) bytes[at] = byte;
        checkOutcome(bytes);
      }),
      { numRuns: 2000 },
    );
  });

  test("cut or lengthened anywhere", async () => {
    const { tensors } = await loadGolden("lru_21_init_L1");
    const sound = writeSafetensors(tensors);
    for (let length = 0; length < sound.length; length += length < 2200 ? 1 : 37) {
      expect(thrownBy(() => readSafetensors(sound.slice(0, length)))).toMatchObject({
        code: "malformed-file",
      });
    }
    const longer = new Uint8Array(sound.length + 1);
    longer.set(sound);
    expect(thrownBy(() => readSafetensors(longer))).toMatchObject({ code: "malformed-file" });
  });

  test("headers made of the format's own pieces", () => {
    const name = fc.constantFrom('"a"', '"b"', '"__proto__"');
    const fields = fc
      .tuple(
        fc.constantFrom('"dtype":"U8"', '"dtype":"U8"', '"dtype":"U16"', '"dtype":"F4"'),
        fc.constantFrom('"shape":[1]', '"shape":[]', '"shape":[1,1]', '"shape":[0]', '"shape":[2]'),
        fc.constantFrom(
          '"data_offsets":[0,1]',
          '"data_offsets":[1,2]',
          '"data_offsets":[0,2]',
          '"data_offsets":[1,1]',
        ),
      )
      .chain((all) => fc.oneof({ weight: 9, arbitrary: fc.constant(all) }, fc.subarray(all)));
    const entry = fc.tuple(name, fields).map(([key, parts]) => `${key}:{${parts.join()}}`);
    const metadata = fc.constantFrom(
      '"__metadata__":{}',
      '"__metadata__":{"__proto__":"v"}',
      '"__metadata__":{"k":{}}',
    );
    const noise = fc.constantFrom("{", "}", "[", ",", " ", '"', ":", '"k":"v"', "[0,1]", "null");
    const member = fc.oneof({ weight: 12, arbitrary: entry }, metadata, noise);
    const header = fc.array(member, { maxLength: 3 }).map((parts) => `{${parts.join()}}`);
    let accepted = 0;
    fc.assert(
      fc.property(header, fc.nat(2), (text, length) => {
        if (checkOutcome(fileOf(text, [7, 8].slice(0, length))) === "accepted") accepted++;
      }),
      { numRuns: 2000 },
    );
    // Else the property would say nothing about what is accepted.
    expect(accepted).toBeGreaterThan(20);
  });

  test("time grows with the header, not with its square", () => {
    const time = (text: string) => {
      const bytes = fileOf(text, []);
      const before = performance.now();
      outcomeOf(() => readSafetensors(bytes));
      return performance.now() - before;
    };
    // A quadratic scan of 4 MB would take minutes.
    for (const text of [
      `{${" ".repeat(4e6)}`,
      `{"${"a".repeat(4e6)}`,
      `{"a":{"shape":[${"1".repeat(4e6)}`,
      `{"${"\\u0041".repeat(7e5)}":1}`,
    ]) {
      expect(time(text)).toBeLessThan(2000);
    }
  });
});

function fileOf(header: string, data: readonly number[]): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

function headerOf(bytes: Uint8Array): string {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  return new TextDecoder().decode(bytes.subarray(8, 8 + length));
}

function replaced(bytes: Uint8Array, from: number, to: number): Uint8Array {
  return bytes.map((byte) => (byte === from ? to : byte));
}

function bitsOf(tensor: Tensor): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}

function outcomeOf<T>(run: () => T): { value: T } | { error: unknown } {
  try {
    return { value: run() };
  } catch (error) {
    return { error };
  }
}

test("UTF-8 is the same where there is no TextDecoder, and so is what is none", () => {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const encoder = new TextEncoder();
  const decoded = (decode: (bytes: Uint8Array) => string, bytes: Uint8Array) => {
    try {
      return decode(bytes);
    } catch {
      return undefined;
    }
  };
  vi.stubGlobal("TextDecoder", undefined);
  vi.stubGlobal("TextEncoder", undefined);
  try {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect([...encodeUtf8(text)]).toEqual([...encoder.encode(text)]);
        expect(decodeUtf8(encodeUtf8(text))).toBe(text);
      }),
    );
    const anyByte = fc.constantFrom(
      0x00,
      0x41,
      0x80,
      0x9f,
      0xa0,
      0xbf,
      0xc0,
      0xc2,
      0xe0,
      0xed,
      0xef,
      0xf0,
      0xf4,
      0xf5,
      0xff,
    );
    fc.assert(
      fc.property(fc.array(anyByte, { maxLength: 5 }), (list) => {
        const bytes = Uint8Array.from(list);
        expect(decoded(decodeUtf8, bytes)).toBe(decoded((given) => decoder.decode(given), bytes));
      }),
      { numRuns: 500 },
    );
    expect(decodeUtf8(Uint8Array.of(0xef, 0xbb, 0xbf, 0x7b))).toBe("\ufeff{");
  } finally {
    vi.unstubAllGlobals();
  }
});
