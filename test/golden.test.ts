/**
 * Every backend against other people's implementations, run in float64 (test/fixtures/golden/README.md), within the
 * limits of the README's promise: the LRU's output and state within twice what plain sequential float32 is off by, whole
 * models within 1e-5 on the CPU and 5e-5 on the GPU. Prints the worst of each backend.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { linearLimit } from "../src/engine/selfTest.js";
import {
  createEngine,
  type Engine,
  type EngineOptions,
  type Lru,
  type Tensor,
  writeSafetensors,
} from "../src/index.js";
import { toLruParams } from "../src/models/lru.js";
import type { BackendName } from "../src/program.js";
import { needBackend } from "./support/engines.js";
import { type GoldenCase, goldenNames, initialState, loadGolden, relativeError } from "./support/golden.js";
import { cut, join, stepThrough } from "./support/sequences.js";

interface Candidate {
  readonly name: string;
  readonly backend: BackendName;
  readonly options: EngineOptions;
  readonly modelLimit: number;
  /** Steps that a test may take: fewer where each is a round trip, or slow. */
  readonly steps: number;
}

const candidates: Candidate[] = [
  { name: "reference", backend: "reference", options: {}, modelLimit: 1e-5, steps: 70 },
  {
    name: "wasm, calling thread",
    backend: "wasm",
    options: { threads: 0 },
    modelLimit: 1e-5,
    steps: Infinity,
  },
  { name: "wasm, 2 threads", backend: "wasm", options: { threads: 2 }, modelLimit: 1e-5, steps: Infinity },
  { name: "webgpu", backend: "webgpu", options: {}, modelLimit: 5e-5, steps: 40 },
];

const layers = goldenNames.filter((name) => name.startsWith("lru_"));
const models = goldenNames.filter((name) => !name.startsWith("lru_"));

describe.each(candidates)("$name", ({ name: title, backend, options, modelLimit, steps }) => {
  let engine: Engine;
  /** Of its limit, for each kind of number compared. */
  const worst = new Map<string, { error: number; share: number; where: string }>();

  beforeAll(async () => {
    // The reference is there for every engine to be made; what is asked for below is the backend, by name.
    engine = await createEngine({ backend: [backend, "reference"], ...options });
  });
  afterAll(async () => {
    const { available, reason } = engine.backends[backend];
    const figures = [...worst].map(
      ([kind, { error, share, where }]) =>
        `${kind} ${error.toExponential(2)} (${(100 * share).toFixed(0)} % of its limit, ${where})`,
    );
    console.log(`golden, ${title}: ${available ? figures.join("; ") : `skipped: ${reason}`}`);
    await engine.dispose();
  });

  function check(kind: string, where: string, error: number, limit: number): void {
    const share = error / limit;
    if (!(share <= (worst.get(kind)?.share ?? 0))) worst.set(kind, { error, share, where });
    expect(error, `${kind} of ${where}`).toBeLessThanOrEqual(limit);
  }

  /** A state's error may be what the source's own float32 run was off by, twice. */
  function stateLimit(golden: GoldenCase): number {
    const f32 = planes(golden, "state_f32");
    return Math.max(2 * relativeError(f32, planes(golden, "state")), 8 * 2 ** -24);
  }

  async function load(golden: GoldenCase): Promise<{ lru: Lru; limit: number }> {
    const lru = await engine.lru(writeSafetensors(golden.checkpoint));
    const { x, batch, seqLen } = golden;
    const limit = linearLimit(toLruParams(golden.checkpoint), x, batch, seqLen, initialState(golden));
    return { lru, limit };
  }

  function start(lru: Lru, { batch, h0 }: GoldenCase) {
    const cache = lru.allocateInferenceCache(batch);
    if (h0) cache.set(h0.re, h0.im);
    return cache;
  }

  test.for(layers)("%s: forward", async (name, context) => {
    needBackend(context, engine, backend);
    const golden = await loadGolden(name);
    const { lru, limit } = await load(golden);
    const { batch, x } = golden;
    const { y, state } = await lru.forward(x, { batch, state: start(lru, golden), backend });
    check("y", name, relativeError(y, golden.y), limit);
    const { re, im } = state.get();
    check("state", name, relativeError([...re, ...im], planes(golden, "state")), stateLimit(golden));
    lru.dispose();
  });

  test.for(layers)("%s: the state on the way", async (name, context) => {
    needBackend(context, engine, backend);
    const golden = await loadGolden(name);
    const { lru } = await load(golden);
    const { batch, seqLen, x } = golden;
    const length = seqLen >> 1; // where the sources kept the state
    const part = cut(x, batch, lru.dModel, 0, length);
    const { state } = await lru.forward(part, { batch, state: start(lru, golden), backend });
    const { re, im } = state.get();
    check(
      "state on the way",
      name,
      relativeError([...re, ...im], planes(golden, "state_mid")),
      stateLimit(golden),
    );
    lru.dispose();
  });

  test.for(layers)("%s: step by step", async (name, context) => {
    needBackend(context, engine, backend);
    const golden = await loadGolden(name);
    const { lru, limit } = await load(golden);
    const { batch, seqLen, x } = golden;
    const length = Math.min(seqLen, steps);
    const part = cut(x, batch, lru.dModel, 0, length);
    const cache = start(lru, golden);
    const outputs: Float32Array[] = [];
    if (backend === "webgpu") {
      for (let t = 0; t < length; t++) {
        outputs.push(await lru.step(cut(part, batch, lru.dModel, t, t + 1), cache));
      }
    } else {
      outputs.push(...stepThrough(lru, part, cache));
    }
    const expected = cut(Float32Array.from(golden.y), batch, lru.dModel, 0, length);
    const scale = Math.max(...golden.y.map(Math.abs)) / Math.max(...expected.map(Math.abs));
    const rounding = 2 ** -24; // of what is expected, to float32
    check("y of steps", name, relativeError(join(outputs, batch), expected), limit * scale + rounding);
    lru.dispose();
  });

  test.for(models)("%s", async (name, context) => {
    needBackend(context, engine, backend);
    const golden = await loadGolden(name);
    const { checkpoint, input, y: expected, batch, h0 } = golden;
    const model = await engine.model(writeSafetensors(checkpoint), golden.spec);
    const start = model.allocateInferenceCache(batch);
    if (h0) start.set([h0]);
    const { y, state } = await model.forward(input, { batch, state: start, backend });
    check("y of models", name, relativeError(y, expected), modelLimit);
    for (const [i, layer] of state.get().entries()) {
      const end = finalStateOf(golden, i);
      if (!end) continue;
      check(
        "final states",
        `${name}, layer ${i}`,
        relativeError([...layer.re, ...layer.im], end),
        modelLimit,
      );
    }
    model.dispose();
  });
});

/** re, then im, of what the source's layer ends on; lruun keeps the state of its one layer as "state". */
function finalStateOf({ name, tensors }: GoldenCase, layer: number): number[] | undefined {
  const key = name.startsWith("tf_") ? "state" : `state${layer}`;
  const parts = [tensors.get(`${key}_re`), tensors.get(`${key}_im`)];
  return parts[0] && parts.flatMap((part) => [...((part as Tensor).data as Float64Array)]);
}

/** re, then im, of a complex tensor. */
function planes({ tensors }: GoldenCase, name: string): number[] {
  return ["re", "im"].flatMap((part) => [...((tensors.get(`${name}_${part}`)?.data ?? []) as Float64Array)]);
}
