/** The choice of a backend: a pure function of the work, the hardware and the preference, with its reasons in words. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { GpuRates } from "../src/backend.js";
import { gpuPrice } from "../src/engine/gpuPrice.js";
import type { Plan } from "../src/index.js";
import { type BackendName, lruFlops } from "../src/program.js";
import { type Hardware, type Preference, plan, type Work } from "../src/scheduler.js";
import { passesOf } from "../src/webgpu/passes.js";
import { plainTiles } from "../src/webgpu/tiles.js";

/** Two threads; a GPU 50 times as fast as one thread, half a millisecond away. */
const wasm = {
  threads: 2,
  threadsReason: undefined,
  threadsDemanded: false,
  shared: true,
  hopMs: 0.2,
  flopsPerMs: 2e7,
};
const rates: GpuRates = {
  ...{ roundTripMs: 0.5, dispatchMs: 0, uploadBytesPerMs: 5e6, readbackBytesPerMs: 5e6 },
  ...{ flopMs: 1e-9, threadMs: 0, loadMs: 0, waitMs: 0 },
};
const gpuOf = (rates: GpuRates | undefined, software = false) => ({
  software,
  price: (work: Work) => gpuPrice(work, rates),
});
const webgpu = gpuOf(rates);
const all: Hardware = { wasm, webgpu, unavailable: new Map() };

function without(...names: BackendName[]): Hardware {
  const unavailable = new Map(names.map((name) => [name, `no ${name} here`] as const));
  return {
    wasm: names.includes("wasm") ? undefined : wasm,
    webgpu: names.includes("webgpu") ? undefined : webgpu,
    unavailable,
  };
}

const work = (seqLen: number, batch = 1, flopsPerToken = 1e5): Work => ({
  batch,
  seqLen,
  flopsPerToken,
  ...{ bytesIn: 256, bytesOut: 256, states: 0, dispatches: 3 },
  flops: batch * seqLen * flopsPerToken,
});
const small = work(8);
const middling = work(400);
const large = work(1e6);

const choose = (...args: Parameters<typeof plan>) => {
  const result = plan(...args);
  return result && { backend: result.backend, threads: result.threads };
};

describe("what a candidate costs is the sum of its parts", () => {
  const parts = (verb: "forward" | "step", work: Work, hardware: Hardware) =>
    plan(verb, work, hardware, "auto")?.candidates.map(({ parts, ms }) => {
      const sum = Object.values(parts).reduce((total, part) => total + part, 0);
      if (Number.isFinite(ms)) expect(ms).toBeCloseTo(sum, 9);
      return parts;
    }) ?? [];

  test("on a GPU: bytes there and back, dispatches, flops, threads, and loads, of which one workgroup's come one after the other", () => {
    const given = {
      ...{ roundTripMs: 2, dispatchMs: 0.25, uploadBytesPerMs: 1000, readbackBytesPerMs: 500 },
      ...{ flopMs: 1e-3, threadMs: 0.5, loadMs: 2e-3, waitMs: 5e-3 },
    };
    const some: Work = {
      ...{ batch: 2, seqLen: 40, flopsPerToken: 1e9, bytesIn: 100, bytesOut: 50, states: 7 },
      ...{ dispatches: 8, flops: 7000, threads: 6, loads: 5500, waits: 400 },
    };
    const hardware: Hardware = { ...all, webgpu: gpuOf(given) };
    const onGpu = (work: Work) => parts("forward", work, hardware)[2] as Record<string, number>;
    const price = onGpu(some);
    expect(price).toMatchObject({ roundTrip: 2, upload: 8, dispatches: 2, readback: 8 });
    expect(price.compute).toBeCloseTo(7 + 3 + 11 + 2, 9);
    expect(onGpu({ ...some, batch: 0 })).toMatchObject({ upload: 0, readback: 0 });
  });

  test("on the CPU: a call, copies, flops at the measured rate, and the hops to workers", () => {
    const some: Work = {
      ...{ batch: 2, seqLen: 100, flopsPerToken: 1e5, bytesIn: 300, bytesOut: 200, states: 10 },
      ...{ dispatches: 3, calls: 2 },
    };
    const measured = wasm.flopsPerMs * (1 + (64 * 20) / lruFlops(64, 64));
    const compute = (200 * (1e5 + 200)) / measured;
    const [calling, working] = parts("forward", some, all) as [
      Record<string, number>,
      Record<string, number>,
    ];
    expect(calling).toMatchObject({ call: 0.002, copies: 0.01 });
    expect(calling.compute).toBeCloseTo(compute, 9);
    expect(working).toMatchObject({ call: 0.012, copies: 0.01 });
    expect(working.compute).toBeCloseTo(compute / 1.84, 9);
    expect(working.hops).toBeCloseTo(2 * (0.003 + 0.1), 9);
    expect(working).not.toHaveProperty("messages");
    const [, sending] = parts("forward", some, { ...all, wasm: { ...wasm, shared: false } });
    expect(sending).toEqual({ ...working, messages: 6 * (working.copies as number) + 0.4 });
    const one = { ...all, wasm: { ...wasm, threads: 1 } };
    const [, alone] = parts("forward", some, one) as Record<string, number>[];
    expect(alone).toMatchObject({ hops: 0.4 });
    expect(alone?.compute).toBeCloseTo(compute, 9);
    // Of little work no more than that is saved.
    const [, brief] = parts("forward", { ...some, flopsPerToken: 0, calls: 1 }, all) as Record<
      string,
      number
    >[];
    const little = (200 * 200) / measured;
    expect(brief?.hops).toBeCloseTo(0.003 + little - little / 1.84, 9);
    const [step] = parts("step", { ...some, seqLen: 1 }, all) as [Record<string, number>];
    expect(step.call).toBe(0.002);
    expect(step.compute).toBeCloseTo((1.5 * 2 * (1e5 + 200)) / measured, 9);
  });
});

test("a reason tells short times apart, and is brief about long ones", () => {
  const reason = (seqLen: number) => plan("forward", work(seqLen, 1, 2e4), all, "auto")?.reason;
  expect(reason(8)).toMatch(/predicted 0\.0\d{3} ms/);
  expect(reason(1e6)).toMatch(/predicted \d{2,} ms/);
});

test("timesteps cost time for each state, which the rows of a batch share among the threads and one row does not", () => {
  const ms = (work: Work) => plan("forward", work, without("webgpu"), "auto")?.candidates.map(({ ms }) => ms);
  for (const batch of [1, 8]) {
    const given = { ...work(1000, batch), states: 64 };
    const [plain, timed] = [ms(given), ms({ ...given, timed: 3 })];
    const more = (timed ?? []).map((value, i) => value - (plain?.[i] as number));
    const alone = (1000 * batch * 64 * 300) / wasm.flopsPerMs;
    expect(more[0]).toBeCloseTo(alone);
    expect(more[1]).toBeCloseTo(batch === 1 ? alone : alone / 2);
  }
  expect(choose("forward", { ...work(40), states: 5000, timed: 1 }, all, "auto")).toMatchObject({
    backend: "webgpu",
  });
  expect(choose("forward", work(40), all, "auto")).toMatchObject({ backend: "wasm", threads: 0 });
});

test("of timesteps, a GPU is given what the calling thread derives: where all differ that takes longer than the CPU for all", () => {
  const states = 64;
  const tables = 1e5 * (4 + 8 * states);
  const timed = { ...work(1e5), states, timed: 1e5 };
  const parts = (work: Work) => plan("forward", work, all, ["webgpu"])?.parts as Record<string, number>;
  const [few, many] = [parts(timed), parts({ ...timed, tables })];
  expect(few).not.toHaveProperty("timesteps");
  expect(many.timesteps).toBeCloseTo(tables / 160_000, 9);
  expect((many.upload as number) - (few.upload as number)).toBeCloseTo(tables / rates.uploadBytesPerMs, 9);
  expect(choose("forward", timed, all, "auto")).toMatchObject({ backend: "webgpu" });
  const heavy = { ...timed, flopsPerToken: 1e4 };
  expect(choose("forward", { ...heavy, tables }, all, "auto")).toMatchObject({ backend: "wasm" });
  expect(choose("forward", { ...timed, flopsPerToken: 1e6, tables }, all, "auto")).toMatchObject({
    backend: "webgpu",
  });
});

describe("auto", () => {
  test("small work stays on the calling thread", () => {
    expect(choose("forward", small, all, "auto")).toEqual({ backend: "wasm", threads: 0 });
    expect(choose("forward", work(0), all, "auto")).toEqual({ backend: "wasm", threads: 0 });
  });

  test("middling work goes to the workers, large work to the GPU", () => {
    expect(choose("forward", middling, without("webgpu"), "auto")).toEqual({ backend: "wasm", threads: 2 });
    expect(choose("forward", large, all, "auto")).toEqual({ backend: "webgpu", threads: 0 });
    expect(choose("forward", large, without("webgpu"), "auto")).toEqual({ backend: "wasm", threads: 2 });
  });

  test("one sequence that is too short to share stays on the calling thread, a batch of them does not", () => {
    const heavy = 1e7;
    expect(choose("forward", work(60, 1, heavy), without("webgpu"), "auto")).toMatchObject({ threads: 0 });
    expect(choose("forward", work(60, 8, heavy), without("webgpu"), "auto")).toMatchObject({ threads: 2 });
  });

  test("a step never goes to a worker, and to a GPU only where its round trip pays", () => {
    const demanding = { ...all, wasm: { ...wasm, threadsDemanded: true } };
    expect(choose("step", work(1, 4), demanding, "auto")).toEqual({ backend: "wasm", threads: 0 });
    expect(choose("step", work(1, 256, 1e7), demanding, "auto")).toEqual({ backend: "webgpu", threads: 0 });
  });

  test("a software adapter is never chosen, however fast it may look", () => {
    const software: Hardware = {
      ...all,
      webgpu: gpuOf({ ...rates, roundTripMs: 0, flopMs: 1e-12 }, true),
    };
    for (const piece of [small, middling, large]) {
      expect(choose("forward", piece, software, "auto")?.backend).toBe("wasm");
      expect(choose("step", piece, software, "auto")?.backend).toBe("wasm");
    }
    const onlySoftware = { ...software, wasm: undefined };
    expect(choose("forward", large, onlySoftware, "auto")?.backend).toBe("reference");
    const candidate = plan("forward", large, software, "auto")?.candidates.find(
      (c) => c.backend === "webgpu",
    );
    expect(candidate?.reason).toMatch(/software/);
  });

  test("threads that were demanded are used, for anything", () => {
    const demanded = { ...all, wasm: { ...wasm, threads: 3, threadsDemanded: true }, webgpu: undefined };
    for (const piece of [small, middling, large]) {
      expect(choose("forward", piece, demanded, "auto")).toEqual({ backend: "wasm", threads: 3 });
    }
  });

  test("without threads the calling thread says why", () => {
    const none = {
      ...without("webgpu"),
      wasm: { ...wasm, threads: 0, threadsReason: "workers are forbidden" },
    };
    const result = plan("forward", large, none, "auto") as Plan;
    expect(result).toMatchObject({ backend: "wasm", threads: 0 });
    expect(result.reason).toMatch(/workers are forbidden/);
  });

  test("where there is neither WASM nor a GPU, slow and right beats nothing", () => {
    const result = plan("forward", large, without("wasm", "webgpu"), "auto") as Plan;
    expect(result.backend).toBe("reference");
    expect(result.reason).toMatch(/neither WebAssembly nor a GPU/);
    expect(result.candidates.filter(({ available }) => !available).map(({ reason }) => reason)).toEqual([
      "no wasm here",
      "no webgpu here",
    ]);
  });

  // Otherwise a forward that fails there would be run there again, for ever.
  test("a reference that has failed is not chosen again", () => {
    expect(plan("forward", small, without("wasm", "webgpu", "reference"), "auto")).toBeUndefined();
    expect(plan("forward", small, without("reference"), ["reference"])).toBeUndefined();
    expect(choose("forward", small, without("reference"), ["reference", "wasm"])?.backend).toBe("wasm");
  });
});

describe("names and lists", () => {
  test.each(["reference", "wasm", "webgpu"] as const)("a name is a demand: %s", (name) => {
    for (const piece of [small, large]) {
      expect(choose("forward", piece, all, [name])?.backend).toBe(name);
      expect(choose("step", piece, all, [name])?.backend).toBe(name);
    }
    expect(plan("forward", small, all, [name])?.reason).toMatch(/asked for by name/);
  });

  test.each(["wasm", "webgpu"] as const)("nothing is chosen in its place: %s", (name) => {
    expect(plan("forward", large, without(name), [name])).toBeUndefined();
    expect(plan("forward", large, without("wasm", "webgpu"), ["wasm", "webgpu"])).toBeUndefined();
  });

  test("a list's first that is here, whatever the cost, software too", () => {
    expect(choose("forward", small, all, ["webgpu", "wasm"])?.backend).toBe("webgpu");
    expect(choose("forward", large, all, ["wasm", "webgpu"])?.backend).toBe("wasm");
    const software: Hardware = { ...all, webgpu: { ...webgpu, software: true } };
    expect(choose("forward", large, software, ["webgpu", "wasm"])?.backend).toBe("webgpu");
    const result = plan("forward", large, without("webgpu"), ["webgpu", "wasm"]) as Plan;
    expect(result).toMatchObject({ backend: "wasm", threads: 2 });
    expect(result.reason).toMatch(/no webgpu here/);
  });
});

describe("with the figures of real machines", () => {
  const cpu = { ...wasm, threads: 8, hopMs: 0.1, flopsPerMs: 5e7 };
  const gpus: Record<string, GpuRates> = {
    "a large GPU": {
      ...{ roundTripMs: 0.15, dispatchMs: 0.005, uploadBytesPerMs: 1e7, readbackBytesPerMs: 1e7 },
      ...{ flopMs: 3e-11, threadMs: 1e-8, loadMs: 1e-10, waitMs: 1e-7 },
    },
    "an integrated GPU": {
      ...{ roundTripMs: 0.4, dispatchMs: 0.02, uploadBytesPerMs: 8e6, readbackBytesPerMs: 6e6 },
      ...{ flopMs: 1e-9, threadMs: 1e-7, loadMs: 5e-9, waitMs: 8e-7 },
    },
  };
  const bounds = { maxBinding: 2 ** 27, flopsPerMs: 1e9 };
  const layer = (dModel: number, dState: number, seqLen: number, batch = 1): Work => ({
    ...{ batch, seqLen, flopsPerToken: lruFlops(dModel, dState), states: dState },
    ...{ bytesIn: 4 * dModel, bytesOut: 4 * dModel },
    ...passesOf({ dModel, dState, layers: 1 }, batch, seqLen, 0, bounds, 2 ** 26, plainTiles),
  });
  /** The first power of two for which the GPU is chosen; it must be chosen for all that are larger. */
  function crossover(verb: "forward" | "step", rates: GpuRates, of: (size: number) => Work): number {
    const hardware: Hardware = { wasm: cpu, webgpu: gpuOf(rates), unavailable: new Map() };
    const sizes = Array.from({ length: 21 }, (_, power) => 2 ** power);
    const backends = sizes.map((size) => plan(verb, of(size), hardware, "auto")?.backend);
    const first = backends.indexOf("webgpu");
    if (first < 0) return Infinity;
    expect(new Set(backends.slice(first))).toEqual(new Set(["webgpu"]));
    return sizes[first] as number;
  }

  test.each(Object.entries(gpus))("%s takes wide and long work, the CPU what is short", (_, rates) => {
    const [narrow, wide] = [64, 256].map((width) =>
      crossover("forward", rates, (L) => layer(width, width, L)),
    );
    expect(wide).toBeGreaterThan(16);
    expect(wide).toBeLessThan(8192);
    expect(narrow).toBeGreaterThan(wide as number);
  });

  test("a GPU takes steps of many streams, the CPU those of few", () => {
    const [large, integrated] = Object.values(gpus).map((rates) =>
      crossover("step", rates, (batch) => layer(256, 256, 1, batch)),
    ) as [number, number];
    expect(large).toBeGreaterThan(4);
    expect(large).toBeLessThan(4096);
    expect(integrated).toBeGreaterThan(large); // perhaps never
  });

  test("copies alone can keep work on the CPU, and the parts say so", () => {
    const slowBus = { ...(gpus["a large GPU"] as GpuRates), uploadBytesPerMs: 1e5, readbackBytesPerMs: 1e5 };
    const hardware: Hardware = {
      wasm: cpu,
      webgpu: gpuOf(slowBus),
      unavailable: new Map(),
    };
    const { backend, candidates } = plan("forward", layer(64, 64, 2 ** 16), hardware, "auto") as Plan;
    expect(backend).toBe("wasm");
    const parts = candidates.find((each) => each.backend === "webgpu")?.parts ?? {};
    expect(Object.keys(parts)).toEqual(["roundTrip", "upload", "dispatches", "compute", "readback"]);
    expect(parts["upload"]).toBeCloseTo((2 ** 16 * 256) / 1e5);
    expect(parts["upload"]).toBeGreaterThan(parts["compute"] as number);
  });
});

test("every plan is one of its candidates, the cheapest that may be, and gives its reasons", () => {
  const hardware = fc.record({
    wasm: fc.option(
      fc.record({
        threads: fc.integer({ min: 0, max: 16 }),
        threadsReason: fc.constant(undefined),
        threadsDemanded: fc.boolean(),
        shared: fc.boolean(),
        hopMs: fc.double({ min: 0, max: 10, noNaN: true }),
        flopsPerMs: fc.double({ min: 1e4, max: 1e9, noNaN: true }),
      }),
      { nil: undefined },
    ),
    webgpu: fc.option(
      fc
        .record({
          software: fc.boolean(),
          rates: fc.option(
            fc.record({
              roundTripMs: fc.double({ min: 0, max: 10, noNaN: true }),
              dispatchMs: fc.double({ min: 0, max: 1, noNaN: true }),
              uploadBytesPerMs: fc.double({ min: 1e4, max: 1e9, noNaN: true }),
              readbackBytesPerMs: fc.double({ min: 1e4, max: 1e9, noNaN: true }),
              flopMs: fc.double({ min: 0, max: 1e-4, noNaN: true }),
              threadMs: fc.double({ min: 0, max: 1e-2, noNaN: true }),
              loadMs: fc.double({ min: 0, max: 1e-3, noNaN: true }),
              waitMs: fc.double({ min: 0, max: 1e-2, noNaN: true }),
            }),
            { nil: undefined },
          ),
        })
        .map(({ software, rates }) => gpuOf(rates, software)),
      { nil: undefined },
    ),
    unavailable: fc.constant(new Map()),
  });
  const pieces = fc.record({
    batch: fc.integer({ min: 0, max: 1000 }),
    seqLen: fc.integer({ min: 0, max: 1e6 }),
    flopsPerToken: fc.integer({ min: 1, max: 1e9 }),
    bytesIn: fc.integer({ min: 4, max: 1e5 }),
    bytesOut: fc.integer({ min: 0, max: 1e5 }),
    states: fc.integer({ min: 0, max: 1e4 }),
    dispatches: fc.integer({ min: 0, max: 1000 }),
    flops: fc.integer({ min: 0, max: 1e15 }),
    loads: fc.integer({ min: 0, max: 1e15 }),
    waits: fc.integer({ min: 0, max: 1e9 }),
  });
  const names = fc.constantFrom<BackendName>("reference", "wasm", "webgpu");
  const preferences = fc.oneof(fc.constant("auto" as const), fc.uniqueArray(names, { minLength: 1 }));
  const verbs = fc.constantFrom("forward" as const, "step" as const);
  fc.assert(
    fc.property(verbs, pieces, hardware, preferences, (verb, piece, machine, preference: Preference) => {
      const result = plan(verb, piece, machine, preference);
      expect(plan(verb, piece, machine, preference)).toEqual(result); // a pure function
      const here = (name: BackendName) => name === "reference" || machine[name] !== undefined;
      if (!result) {
        expect(preference).not.toBe("auto");
        expect((preference as BackendName[]).some(here)).toBe(false);
        return;
      }
      const { backend, threads, ms, parts, reason, candidates } = result;
      expect(here(backend)).toBe(true);
      expect(reason).not.toBe("");
      expect(candidates).toContainEqual({ backend, threads, ms, parts, reason, available: true });
      for (const { reason, available, ms, parts } of candidates) {
        expect(reason).not.toBe("");
        const sum = Object.values(parts).reduce((a, b) => a + b, 0);
        if (available) expect(sum).toBe(ms);
      }
      expect(new Set(candidates.map((c) => c.backend))).toEqual(new Set(["wasm", "webgpu", "reference"]));
      if (preference !== "auto") {
        expect(backend).toBe(preference.find(here));
      } else if (backend !== "reference") {
        const fair = candidates.filter(({ backend, available }) => {
          return available && backend !== "reference" && !(backend === "webgpu" && machine.webgpu?.software);
        });
        expect(ms).toBe(Math.min(...fair.map((candidate) => candidate.ms)));
      }
    }),
    { numRuns: 300 },
  );
});
