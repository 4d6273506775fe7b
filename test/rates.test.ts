/**
 * Networks whose rate changes, on every backend: lrnnx's classifier and U-Net against their source, run in float64
 * (test/fixtures/lrnnx), and networks made at random against a float64 oracle that shares nothing with the chain.
 */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { Linked } from "../src/backend.js";
import {
  createEngine,
  type Engine,
  type EngineOptions,
  type Tensor,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { readSafetensors } from "../src/io/safetensors.js";
import { buildProgram } from "../src/models/build.js";
import { prepareParts } from "../src/networks/assemble.js";
import { Chain } from "../src/networks/chain.js";
import { withRates } from "../src/networks/rateChanges.js";
import {
  type BackendName,
  flopsPerToken,
  inputWidth,
  type Network,
  outputWidth,
  type Program,
  type Stage,
} from "../src/program.js";
import { partsOf, type Rates, ratesOf } from "../src/rates.js";
import { macrotask } from "../src/runtime/macrotask.js";
import { plan } from "../src/scheduler.js";
import { State, stateLayout } from "../src/state.js";
import { togetherOf } from "../src/webgpu/passes.js";
import cases from "./fixtures/lrnnx/cases.json" with { type: "json" };
import { needBackend } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { type LrnnxCase, loadLrnnx, randomClassifier, randomUnet } from "./support/lrnnx.js";
import { floats, random } from "./support/problems.js";
import { runNetwork, type Sequence } from "./support/rates.js";

const names = cases.map(({ name }) => name);

describe("the float64 oracle", () => {
  test.each(names)("%s, with everything on the way", async (name) => {
    const golden = await loadLrnnx(name);
    const { y, traces } = runNetwork(buildProgram(golden.checkpoint, {}, golden.spec), golden);
    expect(relativeError(y, golden.y)).toBeLessThan(1e-11);
    let compared = 0;
    for (const [key, tensor] of golden.tensors) {
      const where = stageOf(key, golden);
      if (!where) continue;
      const { at, channelsFirst } = where;
      const [batch, a = 1, b = 1] = tensor.shape as [number, number?, number?];
      for (let row = 0; row < batch; row++) {
        const values = (tensor.data as Float64Array).subarray(row * a * b, (row + 1) * a * b);
        const expected =
          tensor.shape.length === 2 ? values : channelsFirst ? transposed(values, a, b) : values;
        const { values: actual, length, width } = (traces[row] as Map<string, Sequence>).get(at) as Sequence;
        // What follows a row's end is the source's own business.
        expect(
          relativeError(actual.subarray(0, length * width), expected.subarray(0, length * width)),
          key,
        ).toBeLessThan(1e-10);
      }
      compared++;
    }
    expect(compared).toBeGreaterThan(3);
  });
});

/** The stage whose output a tensor "mid.*" is. */
function stageOf(key: string, { name, spec, tensors }: LrnnxCase) {
  const at = (stage: string, channelsFirst = false) => ({ at: stage, channelsFirst });
  if (!key.startsWith("mid.")) return undefined;
  const [, what = "", detail] = key.split(".");
  const number = Number(/\d+$/.exec(what)?.[0]);
  if (name.startsWith("cls")) {
    const last = [...tensors.keys()].filter((other) => /^mid\.block\d+\.norm$/.test(other)).length - 1;
    const block = number === last ? "final_block." : `blocks.${number}.`;
    if (what === "final_pooled") return at("final_block.pool pool");
    if (what === "input") {
      const projected = tensors.has("embed_proj.weight") ? "embed_proj dense" : "input_proj dense";
      return at(projected);
    }
    if (detail === "lru") return at(`${block}lrnn lru`);
    if (detail === "norm") return at(`${block}norm layerNorm`);
    const modes = spec.intermediatePooling;
    const mode = typeof modes === "string" ? modes : modes?.[number];
    return at(mode === "none" ? `${block}norm layerNorm` : `${block}pool window`);
  }
  if (what.startsWith("down"))
    return detail ? at(`down_ssms.${number}.0.silu glu`) : at(`down_ssms.${number}.1.conv dense`, true);
  if (what === "hid") return at("hid_ssms.1.silu glu");
  if (what === "last") return at("last_ssms.1.0.lru_layer lru");
  if (!detail) return at(`up_ssms.${number}.1.silu glu`);
  return at(spec.causal ? `up_ssms.${number}.shift shift` : `up_ssms.${number}.unfold reshape`, true);
}

function transposed(values: Float64Array, outer: number, inner: number): Float64Array {
  return Float64Array.from(values, (_, i) => values[(i % outer) * inner + Math.floor(i / outer)] as number);
}

interface Candidate {
  readonly name: string;
  readonly backend: BackendName;
  readonly options: EngineOptions;
  readonly limit: number;
}

const candidates: Candidate[] = [
  // What is between the parts of a chain is in float64 here: y is rounded once.
  { name: "reference", backend: "reference", options: {}, limit: 2e-7 },
  { name: "wasm, calling thread", backend: "wasm", options: { threads: 0 }, limit: 1e-5 },
  { name: "wasm, 2 threads", backend: "wasm", options: { threads: 2 }, limit: 1e-5 },
  { name: "webgpu", backend: "webgpu", options: {}, limit: 5e-5 },
];

describe.each(candidates)("$name", ({ name: title, backend, options, limit }) => {
  let engine: Engine;
  let worst = 0;

  beforeAll(async () => {
    engine = await createEngine({ backend: [backend, "reference"], ...options });
  });
  afterAll(async () => {
    console.log(`rates, ${title}: worst error ${worst.toExponential(2)}, limit ${limit}`);
    await engine.dispose();
  });

  function check(error: number, what: string): void {
    worst = Math.max(worst, error);
    expect(error, what).toBeLessThanOrEqual(limit);
  }

  test.for(names)("%s", async (name, context) => {
    needBackend(context, engine, backend);
    const golden = await loadLrnnx(name);
    const { x, batch, lengths } = golden;
    const model = await engine.model(writeSafetensors(golden.checkpoint), golden.spec);
    const { y } = await model.forward(x, { batch, backend, ...(lengths && { lengths }) });
    check(relativeError(y, golden.y), name);
    model.dispose();
  });

  test.for([true, false])("embeddings in place of ids (projected: %s)", async (projected, context) => {
    needBackend(context, engine, backend);
    const golden = await loadLrnnx("cls_03_tokens_proj_max_mean_lengths");
    const { batch, lengths } = golden;
    const name = "embedding.token_embedding.weight";
    const checkpoint = new Map(golden.checkpoint);
    const own = (checkpoint.get("embed_proj.weight") as Tensor).shape[1] as number;
    let table = checkpoint.get(name) as Tensor;
    if (!projected) {
      const width = (checkpoint.get("final_block.lrnn.D") as Tensor).shape[0] as number;
      table = { dtype: "F32", shape: [20, width], data: floats(20 * width, 1) };
      checkpoint.set(name, table);
      for (const part of ["weight", "bias"]) checkpoint.delete(`embed_proj.${part}`);
    }
    const width = table.shape[1] as number;
    expect(projected ? own : width).toBe(width);
    const ids = (golden.x as Int32Array).map((id) => id % (table.shape[0] as number));
    const x = Float32Array.from({ length: ids.length * width }, (_, i) => {
      return table.data[(ids[Math.floor(i / width)] as number) * width + (i % width)] as number;
    });
    const bytes = writeSafetensors(checkpoint);
    const model = await engine.model(bytes, { ...golden.spec, embedded: true });
    expect([model.inputWidth, model.vocabulary]).toEqual([width, undefined]);
    const options = { batch, backend, ...(lengths && { lengths }) };
    const { y } = await model.forward(x, options);
    const reads = await engine.model(bytes, golden.spec);
    check(relativeError(y, (await reads.forward(ids, options)).y), "of ids");
    if (projected) check(relativeError(y, golden.y), "the source's own");
    // The table is not lost.
    expect(readSafetensors(writeModel(model)).tensors.get(name)?.data).toEqual(table.data);
    model.dispose();
    reads.dispose();
  });

  test.for([1, 2, 3, 4, 5, 6])("a classifier at random, ragged (%i)", async (seed, context) => {
    needBackend(context, engine, backend);
    const { checkpoint, spec, lengths, batch, seqLen, x } = randomClassifier(seed);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const { y } = await model.forward(x, { batch, lengths, backend });
    const expected = runNetwork(buildProgram(checkpoint, {}, spec), { x, batch, seqLen, lengths });
    check(relativeError(y, expected.y), JSON.stringify(spec));
    model.dispose();
  });

  test.for([1, 2, 3, 4])(
    "a U-Net at random, ragged, into an array that was used before (%i)",
    async (seed, context) => {
      needBackend(context, engine, backend);
      const { checkpoint, spec, lengths, batch, seqLen, x } = randomUnet(seed);
      const model = await engine.model(writeSafetensors(checkpoint), spec);
      const out = new Float32Array(batch * seqLen * model.outputWidth).fill(7);
      const { y } = await model.forward(x, { batch, lengths, backend, out });
      const expected = runNetwork(buildProgram(checkpoint, {}, spec), { x, batch, seqLen, lengths });
      check(relativeError(y, expected.y), JSON.stringify(spec));
      model.dispose();
    },
  );
});

test("two channels: what is lost of x by rounding it is more than the gate, whoever computes", async () => {
  // A layer norm over two channels divides by their difference, and U-Nets of three levels have 13 on the way.
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const errors: { ours: number; lost: number }[] = [];
  for (let seed = 2; seed < 22; seed++) {
    const { checkpoint, spec, lengths, batch, seqLen, x } = randomUnet(seed, { channels: 2, levels: 3 });
    const network = buildProgram(checkpoint, {}, spec);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const { y } = await model.forward(x, { batch, lengths });
    const exact = runNetwork(network, { x, batch, seqLen, lengths }).y;
    const next = random(seed);
    const rounded = Float64Array.from(x, (v) => v * (1 + (next() < 0.5 ? 1 : -1) * 2 ** -24));
    const other = runNetwork(network, { x: rounded, batch, seqLen, lengths }).y;
    errors.push({ ours: relativeError(y, exact), lost: relativeError(other, exact) });
    model.dispose();
  }
  const sorted = (key: "ours" | "lost") => errors.map((error) => error[key]).sort((a, b) => a - b);
  const [ours, lost] = [sorted("ours"), sorted("lost")];
  const show = (values: number[]) => [values[10], values.at(-1)].map((v) => v?.toExponential(1)).join(", ");
  console.log(`two channels, median and worst: ${show(ours)}; x half an ulp off, in float64: ${show(lost)}`);
  expect(lost.at(-1)).toBeGreaterThan(1e-5);
  expect(ours[10]).toBeLessThan(1e-5);
  await engine.dispose();
});

describe("what it costs", () => {
  test("every part at its own rate, and a hop for each", () => {
    const dense = (src: number, inWidth: number): Stage => {
      const kernel = new Float32Array(2 * inWidth);
      return { kind: "dense", name: "", src, dst: 1, inWidth, outWidth: 2, kernel, bias: null };
    };
    const network = withRates({
      architecture: "by hand",
      slots: [2, 2, 4],
      stages: [
        dense(0, 2),
        { kind: "window", name: "", src: 1, dst: 1, mode: "mean", width: 2, factor: 4 },
        dense(1, 2),
        { kind: "reshape", name: "", src: 1, dst: 2, inWidth: 2, outWidth: 4 },
        dense(2, 4),
      ],
      output: 1,
    });
    expect(flopsPerToken(network)).toBe(8 + 12 + 8 / 4 + 16 / 8);
    expect(partsOf(network).map(flopsPerToken)).toEqual([8, 8, 16]);
    const hardware = { wasm, webgpu: undefined, unavailable: new Map() };
    const work = {
      ...{ batch: 1, seqLen: 1e6, flopsPerToken: 100, bytesIn: 4, bytesOut: 4, states: 0, dispatches: 3 },
    };
    const cost = (calls: number) => plan("forward", { ...work, calls }, hardware, ["wasm"])?.ms as number;
    expect((cost(6) - cost(1)) / (cost(2) - cost(1))).toBeCloseTo(5);
    expect(cost(2) - cost(1)).toBeGreaterThan(wasm.hopMs / 2);
  });

  test("what lies between the parts of a segment takes 4 MiB at most, and as much of that as it can", () => {
    const window = { kind: "window", name: "", mode: "mean", width: 2, factor: 4 } as const;
    const reshape = { kind: "reshape", name: "", inWidth: 2, outWidth: 4 } as const;
    const network = withRates({
      ...{ architecture: "", slots: [2, 2, 4], output: 2 },
      stages: [
        { kind: "gelu", name: "", src: 0, dst: 1, width: 2 },
        { ...window, src: 1, dst: 1 },
        { ...reshape, src: 1, dst: 2 },
      ],
    });
    const { padding, segmentTokens } = ratesOf(network) as Rates;
    expect(padding).toBe(2);
    const bytes = 4 * (2 + 2 + 2 / 4 + 4 / 8); // of a token: x, the part's y, a window's and a fold's share
    for (const batch of [1, 3, 1000, 1e6]) {
      const tokens = segmentTokens(batch);
      expect(tokens % padding).toBe(0);
      if (tokens > padding) expect(bytes * batch * tokens).toBeLessThanOrEqual(2 ** 22);
      expect(bytes * batch * (tokens + padding)).toBeGreaterThan(2 ** 22);
    }
    expect([1, 1000, 1e6].map((batch) => segmentTokens(batch) > padding)).toEqual([true, true, false]);
  });

  const halving = () =>
    withRates({
      ...{ architecture: "", slots: [2, 2], output: 1 },
      stages: [
        { kind: "gelu", name: "", src: 0, dst: 1, width: 2 },
        { kind: "window", name: "", src: 1, dst: 1, mode: "max", width: 2, factor: 2 },
        { kind: "gelu", name: "", src: 1, dst: 1, width: 2 },
      ],
    });

  test("of more rows than a GPU binds together some go at a time", () => {
    const network = halving();
    const rows = (maxBinding: number) =>
      togetherOf(network, false, 1000, { maxBinding, flopsPerMs: 1e9 }, 2 ** 30).rows;
    const few = rows(2 ** 10);
    expect(few).toBeGreaterThan(1);
    expect(few).toBeLessThan(1000 / 4);
    expect(rows(2 ** 12)).toBeGreaterThan(2 * few);
    expect(rows(2 ** 30)).toBe(1000);
  });

  test("a part that cannot be prepared leaves none of the others behind", async () => {
    const made = { forward: vi.fn(), dispose: vi.fn() };
    const parts: Program[] = [];
    const prepare = async (part: Program) => {
      if (parts.push(part) === 2) throw new Error("no room");
      return made;
    };
    const backend = { name: "wasm", prepare, dispose() {} } as const;
    await expect(prepareParts(backend, halving(), Chain)).rejects.toThrow("no room");
    await vi.waitFor(() => expect(made.dispose).toHaveBeenCalledOnce());
  });

  test("a chain that fails on the way has the state of its last segment", async () => {
    const network = halving();
    const [seqLen, segment] = [30, 10];
    const state = new State(stateLayout(network), 1);
    let runs = 0;
    const linked: Linked = {
      segmentTokens: () => segment,
      async run(segments, state, _, land) {
        for (const rows of segments) {
          state.parts[0]?.restartRow(0, ++runs * segment);
          if (runs === 3) throw new Error("lost");
          const { seqLen, counts } = rows;
          land(rows, { data: new Float32Array(2 * seqLen), seqLen, counts });
        }
      },
      dispose() {},
    };
    const [x, y, done] = [new Float32Array(2 * seqLen), new Float32Array(2 * seqLen), new Int32Array(1)];
    const job = { batch: 1, seqLen, lengths: Int32Array.of(seqLen), x, y, state, done, threads: 0 };
    const told: number[] = [];
    const onProgress = (tokens: number) => told.push(tokens);
    const forward = new Chain(network, [], false, linked).forward({ ...job, signal: undefined, onProgress });
    await expect(forward).rejects.toThrow("lost");
    expect([state.parts[0]?.count[0], done[0], told]).toEqual([20, 20, [10, 20]]);
  });

  test("a chain lets others be heard, however short what is between two resets", async () => {
    const { checkpoint, spec } = await loadLrnnx("unet_01_default");
    const network = buildProgram(checkpoint, {}, spec) as Network;
    const count = partsOf(network).length;
    let [now, over, turns] = [0, false, 0];
    const forward = async () => {
      now += 6 / count; // so many ms for all that is between two resets, half of what it may take
    };
    const parts = Array.from({ length: count }, () => ({ forward, dispose() {} }));
    const [seqLen, gap] = [4096, 16];
    const resets = [Int32Array.from({ length: seqLen / gap - 1 }, (_, i) => gap * (i + 1))];
    const [x, y] = [inputWidth(network), outputWidth(network)].map(
      (width) => new Float32Array(seqLen * width),
    );
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now);
    const chain = new Chain(network, parts, false).forward({
      ...{ batch: 1, seqLen, lengths: Int32Array.of(seqLen), resets, threads: 0, signal: undefined },
      ...{ x: x as Float32Array, y: y as Float32Array, state: new State(stateLayout(network), 1) },
      onProgress: undefined,
    });
    const listening = (async () => {
      for (; !over; turns++) await macrotask();
    })();
    await chain;
    over = true;
    clock.mockRestore();
    await listening;
    expect(now).toBeCloseTo((6 * seqLen) / gap);
    expect(turns).toBeGreaterThan(seqLen / gap / 3);
  });

  test("a chain that is disposed of disposes of its parts", () => {
    const network = withRates({
      ...{ architecture: "", slots: [2, 2], output: 1 },
      stages: [0, 1].flatMap((src) => [
        { kind: "gelu", name: "", src, dst: 1, width: 2 } as const,
        { kind: "window", name: "", src: 1, dst: 1, mode: "max", width: 2, factor: 2 } as const,
      ]),
    });
    const parts = partsOf(network).map(() => ({ dispose: vi.fn() }));
    const linked = { dispose: vi.fn() };
    new Chain(network, parts, false, linked as unknown as ConstructorParameters<typeof Chain>[3]).dispose();
    expect(parts.length).toBeGreaterThan(1);
    for (const { dispose } of [...parts, linked]) expect(dispose).toHaveBeenCalledOnce();
  });

  const wasm = {
    threads: 2,
    threadsReason: undefined,
    threadsDemanded: true,
    shared: true,
    hopMs: 3,
    flopsPerMs: 1e7,
  };
});
