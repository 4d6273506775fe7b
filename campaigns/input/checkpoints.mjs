// Hostile .safetensors and state files.
import { between, inherited, isTyped, lruParams, pick, random } from "../support.mjs";

/** Values that parsers stumble over. */
const traps = [
  "-1",
  "1e3",
  "0.5",
  "00",
  "+1",
  "9007199254740993",
  "18446744073709551616",
  "null",
  "NaN",
  "[]",
  "{}",
  '"8"',
  "true",
  "",
];
const dtypes = [
  ["F32", 4],
  ["F64", 8],
  ["F16", 2],
  ["BF16", 2],
  ["I64", 8],
  ["BOOL", 1],
  ["F8_E4M3", 1],
  ["f32", 4],
  ["", 1],
  ["constructor", 4],
];
const names = [
  "__proto__",
  "constructor",
  "__metadata__",
  "nu_log",
  "",
  "\\u0000",
  "\\ud800",
  "toString",
  "D",
  "a".repeat(300),
];

/** A header whose tensors cover the data as they should, but for a fault or two. */
function structured(next) {
  let covered = 0;
  const off = (value) =>
    next() < 0.06 ? pick(next, [...traps, value - 4, value + 4, value - 1, value + 1]) : value;
  const entries = Array.from({ length: between(next, 0, 5) }, (_, i) => {
    const [dtype, bytes] = pick(next, dtypes);
    const shape = Array.from({ length: between(next, 0, 3) }, () => between(next, 0, 4));
    if (next() < 0.05) covered = Math.max(0, covered - pick(next, [1, 4, 8]));
    const begin = covered;
    covered += shape.reduce((product, size) => product * size, bytes);
    const fields = [
      `"dtype":"${dtype}"`,
      `"shape":[${shape.map(off)}]`,
      `"data_offsets":[${off(begin)},${off(covered)}]`,
      ...(next() < 0.05 ? ['"dtype":"F32"'] : []),
    ];
    if (next() < 0.03) fields.splice(between(next, 0, 2), 1);
    const name = next() < 0.2 ? pick(next, names) : `tensor ${i}`;
    return `"${name}":${next() < 0.02 ? pick(next, traps) : `{${fields.join(",")}}`}`;
  });
  const text = `{${entries.join(next() < 0.02 ? ",," : ",")}${next() < 0.02 ? "" : "}"}`;
  return { text, dataBytes: next() < 0.05 ? between(next, 0, 96) : covered };
}

function assemble(next, { text: header, dataBytes }) {
  const text = Buffer.from(header);
  const length = next() < 0.05 ? between(next, 0, 2 ** 31) : text.length;
  const file = Buffer.alloc(8 + text.length + dataBytes);
  file.writeBigUInt64LE(next() < 0.01 ? 2n ** 63n + BigInt(length) : BigInt(length));
  text.copy(file, 8);
  return file;
}

/** A valid file with some bytes changed, moved, cut or doubled. */
function mutated(next, valid) {
  let bytes = Buffer.from(valid);
  for (let n = between(next, 1, 6); n > 0 && bytes.length > 0; n--) {
    const at = Math.floor(next() ** 2 * bytes.length); // most of what can go wrong stands at the start
    const kind = next();
    if (kind < 0.6) bytes[at] = next() < 0.5 ? bytes[at] ^ (1 << between(next, 0, 7)) : between(next, 0, 255);
    else if (kind < 0.75) bytes = bytes.subarray(0, at);
    else if (kind < 0.9)
      bytes = Buffer.concat([
        bytes.subarray(0, at),
        bytes.subarray(Math.min(bytes.length, at + between(next, 1, 9))),
      ]);
    else
      bytes = Buffer.concat([
        bytes.subarray(0, at),
        bytes.subarray(Math.max(0, at - 8), at),
        bytes.subarray(at),
      ]);
  }
  return bytes;
}

export default {
  promise:
    "Hostile files are refused by an error that names the fault: no crash, no hang, no polluted prototype, no memory beyond the file's.",
  how: "1,000,000 .safetensors files, made by grammar with faults and by damaging a valid one, and 100,000 damaged state files; what is accepted must read the same when written again. The verdicts of the reference library on some 700 files are a test: [test/safetensors-verdicts.test.ts](../test/safetensors-verdicts.test.ts).",
  plants: [
    {
      says: "tensors may overlap in the file",
      file: "src/io/safetensors.ts",
      find: "if (begin < covered) fail(",
      replace: "if (begin < covered - 4) fail(",
    },
    {
      says: "a header of four tensors or more throws what JavaScript throws",
      file: "src/io/header.ts",
      find: "scanner.end();",
      replace: 'if (header.entries.size > 3) JSON.parse("{");',
    },
  ],
  async run({ linrec, isFull, fail }) {
    const cases = isFull ? 1_000_000 : 20_000;
    const engine = await linrec.createEngine({ backend: "wasm", threads: 0 });
    const params = lruParams(linrec, 4, 6);
    const lru = await engine.lru(params);
    const checkpoint = linrec.writeSafetensors(linrec.fromLruParams(params), { note: "a valid file" });
    const cache = lru.allocateInferenceCache(2);
    for (let i = 0; i < 50; i++) lru.stepSync(new Float32Array(8).fill(i), cache);
    const stateFile = lru.serializeState(cache);
    const plain = inherited();
    const next = random(20_260_101);
    let [accepted, refused, slowest, most] = [0, 0, 0, 0];
    const attempt = (what, bytes, read) => {
      const start = performance.now();
      try {
        read(bytes);
        accepted++;
      } catch (error) {
        refused++;
        if (!isTyped(linrec, error))
          fail(`${what} ${bytes.toString("base64").slice(0, 200)}: ${error?.stack}`);
      }
      slowest = Math.max(slowest, performance.now() - start);
    };
    const readTwice = (bytes) => {
      const { tensors, metadata } = linrec.readSafetensors(bytes);
      const views = [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0);
      most = Math.max(most, views / Math.max(1, bytes.length));
      if (views > 2 * bytes.length) fail(`a file of ${bytes.length} bytes gave ${views} bytes of tensors`);
      // The tensors share out the data, or other readers see another file.
      const data = bytes.length - 8 - Number(bytes.readBigUInt64LE());
      const again = linrec.readSafetensors(linrec.writeSafetensors(tensors, metadata)).tensors;
      if (views !== data || again.size !== tensors.size) {
        fail(`${views} bytes of tensors in ${data} bytes of data: ${bytes.toString("base64").slice(0, 200)}`);
      }
    };
    for (let i = 0; i < cases; i++) {
      const bytes = i % 2 === 0 ? mutated(next, checkpoint) : assemble(next, structured(next));
      attempt("checkpoint", bytes, readTwice);
    }
    const own = (bytes) => {
      const state = lru.deserializeState(bytes);
      lru.stepSync(new Float32Array(4 * state.batch), state);
    };
    for (let i = 0; i < cases / 10; i++) attempt("state file", mutated(next, stateFile), own);
    if (inherited() !== plain) fail("Object.prototype has changed");
    if (slowest > 100) fail(`a file took ${slowest.toFixed(0)} ms`);
    await engine.dispose();
    return {
      "files (checkpoints, state files)": `${cases}, ${cases / 10}`,
      "refused by name, accepted": `${refused}, ${accepted}`,
      "the slowest file, ms": slowest.toFixed(1),
      "the most memory of tensors by file size": most.toFixed(2),
    };
  },
};
