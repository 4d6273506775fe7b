/** What streams refuse, and say of it. */
import { afterAll, beforeAll, test } from "vitest";
import { createEngine, type Engine, type Lru, type StreamChunk } from "../src/index.js";
import { collect } from "./support/chunks.js";
import { detached, errorOf, expectLinrecError, type Misuse, wrong } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const dModel = 3;

let engine: Engine;
let lru: Lru;
const x = floats(311 * dModel, 1);

beforeAll(async () => {
  engine = await createEngine({ backend: "wasm", threads: 0 });
  lru = await engine.lru(hardParams(dModel, 5, 1));
});
afterAll(() => engine.dispose());

const first = (source: unknown) => lru.forwardStream(wrong(source)).next();
/** Resizable, which TypeScript does not know of yet. */
const roomy = () => Reflect.construct(ArrayBuffer, [1200, { maxByteLength: 2400 }]) as ArrayBuffer;

function makeMarked() {
  return {
    x: new Float32Array(roomy(), 0, 300),
    integrationTimesteps: new Float32Array(100).fill(1),
    reset: new Array<number>(100).fill(0),
  };
}

/** A chunk of 100 tokens, of which 10 have been read when something happens to it. */
async function spoilt(
  give: (chunk: ReturnType<typeof makeMarked>) => StreamChunk,
  spoil: (chunk: ReturnType<typeof makeMarked>) => void,
): Promise<unknown> {
  const chunk = makeMarked();
  const stream = lru.forwardStream(give(chunk), { tokens: 10 });
  await stream.next();
  spoil(chunk);
  return collect(stream);
}

const misuse: readonly Misuse<void>[] = [
  ["no source", "invalid-argument", /ReadableStream.*undefined/, () => first(undefined)],
  ["a path", "invalid-argument", /got string/, () => first("x.f32")],
  ["float64", "wrong-dtype", /Float64Array/, () => first([new Float64Array(3)])],
  [
    "ids for a model of features",
    "wrong-dtype",
    /Float32Array.*got Int32Array/,
    () => first([new Int32Array(3)]),
  ],
  ["numbers", "wrong-dtype", /got number/, () => first([1, 2, 3])],
  ["text", "wrong-dtype", /got string/, () => first(["1, 2, 3"])],
  ["detached", "detached", /copy/, () => first([detached(new Float32Array(3))])],
  [
    "detached between results",
    "detached",
    /1200 bytes, .* when 120 of them had been read.*copy/,
    () =>
      spoilt(
        (chunk) => chunk,
        ({ x }) => detached(x),
      ),
  ],
  [
    "timesteps detached between results",
    "detached",
    /1200 bytes/,
    () =>
      spoilt(
        (chunk) => chunk,
        ({ integrationTimesteps }) => detached(integrationTimesteps),
      ),
  ],
  [
    "a mask that is shorter now",
    "detached",
    /1200 bytes/,
    () =>
      spoilt(
        (chunk) => chunk,
        ({ reset }) => reset.pop(),
      ),
  ],
  [
    "made smaller between results",
    "detached",
    /1200 bytes/,
    () =>
      spoilt(
        ({ x }) => x.buffer,
        ({ x }) => (x.buffer as unknown as { resize(bytes: number): void }).resize(600),
      ),
  ],
  [
    "a getReader that is none",
    "invalid-argument",
    /got Object, which gives no reader/,
    () => first({ getReader: 5 }),
  ],
  [
    "an iterator that is none",
    "invalid-argument",
    /got Object, whose iterator is none/,
    () => first({ [Symbol.asyncIterator]: 5 }),
  ],
  [
    "no iterator",
    "invalid-argument",
    /whose iterator is none/,
    () => first({ [Symbol.asyncIterator]: () => undefined }),
  ],
  [
    "nothing from next()",
    "invalid-argument",
    /got one whose next\(\) gave undefined/,
    () => first({ [Symbol.iterator]: () => ({ next() {} }) }),
  ],
  ["no chunk's option", "invalid-argument", /a chunk .*no option "resets"/, () => first([{ x, resets: [] }])],
  [
    "a mask of other tokens",
    "shape-mismatch",
    /reset must be an array \[tokens\], 311/,
    () => first([{ x, reset: [1] }]),
  ],
  [
    "half a token with marks",
    "shape-mismatch",
    /whole tokens, of 12 bytes; it has 4 bytes/,
    () => first([{ x: x.subarray(0, 1), reset: [] }]),
  ],
  [
    "marks within a token",
    "shape-mismatch",
    /the chunk before it ended within one/,
    () => first([x.subarray(0, 1), { x: x.subarray(0, 3), reset: [1] }]),
  ],
  [
    "timesteps that come late",
    "invalid-argument",
    /has some integrationTimesteps, .* had none/,
    async () =>
      collect(lru.forwardStream([x, { x: x.subarray(0, 3), integrationTimesteps: Float32Array.of(1) }])),
  ],
  [
    "timesteps that end",
    "invalid-argument",
    /has no integrationTimesteps, .* had some/,
    async () =>
      collect(lru.forwardStream([{ x: x.subarray(0, 3), integrationTimesteps: Float32Array.of(1) }, x])),
  ],
  [
    "a timestep below 0",
    "invalid-argument",
    /at least 0/,
    () => first({ x: x.subarray(0, 3), integrationTimesteps: Float32Array.of(-1) }),
  ],
  ["every 0", "invalid-argument", /every .* got 0/, () => lru.forwardStream(x, { every: 0 })],
  ["tokens 0", "invalid-argument", /tokens .* got 0/, () => lru.forwardStream(x, { tokens: 0 })],
  ["tokens past all memory", "out-of-memory", /fewer/, () => lru.forwardStream(x, { tokens: 2 ** 50 })],
  ["a foreign state", "invalid-argument", /state/, () => lru.forwardStream(x, { state: wrong({}) })],
  [
    "a state of two rows",
    "shape-mismatch",
    /state has 2 rows/,
    () => lru.forwardStream(x, { state: lru.allocateInferenceCache(2) }),
  ],
  ["an unknown option", "invalid-argument", /"batch"/, () => lru.forwardStream(x, wrong({ batch: 2 }))],
  [
    "a backend of no name",
    "invalid-argument",
    /backend/,
    () => lru.forwardTransform({ backend: wrong("gpu") }),
  ],
  ["no signal", "invalid-argument", /signal/, () => lru.forwardTransform({ signal: wrong(1) })],
];

test.each(misuse)("refused: %s", async (_, code, says, call) => {
  expectLinrecError(await errorOf(() => call()), code, says);
});
