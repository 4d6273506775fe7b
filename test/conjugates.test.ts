// mergeConjugates: half the states where they come in mirrored pairs, the same layer otherwise; on every backend.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { linearLimit } from "../src/engine/selfTest.js";
import { createEngine, type Engine, initLru, type LruParams, mergeConjugates } from "../src/index.js";
import { lruProgram } from "../src/lruParams.js";
import { toLruParams } from "../src/models/lru.js";
import { pairUp } from "../src/networks/conjugates.js";
import type { BackendName } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { State, stateLayout } from "../src/state.js";
import { expectSameBits } from "./support/bits.js";
import { apart, paired } from "./support/conjugates.js";
import { needBackend } from "./support/engines.js";
import { goldenNames, loadGolden, relativeError } from "./support/golden.js";
import { floats, hardParams } from "./support/problems.js";

/** What a mirrored half becomes: twice its C. */
const doubled = (half: LruParams): LruParams => ({
  ...half,
  CRe: half.CRe.map((value) => 2 * value),
  CIm: half.CIm.map((value) => 2 * value),
});

describe("mergeConjugates", () => {
  test.each([1, 2, 3, 5, 8, 17])("finds all pairs of %i, wherever they stand", (count) => {
    const half = hardParams(3, count, count);
    for (const order of [(n: number) => n, apart]) {
      const merged = mergeConjugates(paired(half, "the same", order));
      expect(merged.nuLog.length).toBe(count);
      if (order !== apart) expect(merged).toEqual(doubled(half));
    }
  });

  test("leaves alone what is no pair: by one bit of nu, theta, gamma or B", () => {
    const layer = paired(hardParams(2, 1, 3), "the same");
    expect(mergeConjugates(layer).nuLog.length).toBe(1);
    for (const name of ["nuLog", "theta", "gammaLog", "BRe", "BIm"] as const) {
      const values = (layer[name] as Float32Array).slice();
      new Uint32Array(values.buffer)[values.length - 1]! ^= 1;
      const other = { ...layer, [name]: values };
      expect(mergeConjugates(other), name).toEqual(other);
    }
  });

  test("merges a state once: of three alike two stay", () => {
    const one = paired(hardParams(2, 1, 4), "the same");
    const index = [0, 1, 1];
    const pick = (values: Float32Array, width = 1) =>
      Float32Array.from(index.flatMap((n) => [...values.subarray(n * width, (n + 1) * width)]));
    const columns = (C: Float32Array) =>
      Float32Array.from([0, 1].flatMap((o) => index.map((n) => C[o * 2 + n] as number)));
    const three: LruParams = {
      nuLog: pick(one.nuLog),
      theta: pick(one.theta as Float32Array),
      gammaLog: pick(one.gammaLog),
      BRe: pick(one.BRe, 2),
      BIm: pick(one.BIm, 2),
      CRe: columns(one.CRe),
      CIm: columns(one.CIm),
      D: one.D,
    };
    expect(mergeConjugates(three).nuLog.length).toBe(2);
  });

  test("a file of equal states, all different in B, is not read a time for each", () => {
    const dState = 1000;
    let reads = 0;
    const BRe = new Proxy(
      Float32Array.from({ length: dState }, (_, n) => n),
      {
        get(values, key) {
          reads++;
          return Reflect.get(values, key);
        },
      },
    );
    const zeros = new Float32Array(dState);
    const same = { nuLog: zeros, theta: zeros, gammaLog: zeros, BIm: zeros, CRe: zeros, CIm: zeros };
    expect(pairUp({ ...same, BRe, D: new Float32Array(1) }).size).toBe(0);
    expect(reads).toBeLessThan((2 * dState * dState) / 5); // of each with each it would be half of 2 dState^2
  });

  test("logarithms of angles have no sign: such a layer comes back as it is, copied", () => {
    const params = initLru({ dModel: 2, dState: 4 });
    const merged = mergeConjugates(params);
    expect(merged).toEqual(params);
    for (const [name, values] of Object.entries(merged)) expect(values).not.toBe(params[name as "D"]);
  });

  test.each(goldenNames.filter((name) => name.startsWith("lru_")))(
    "no layer of the golden cases has pairs: %s",
    async (name) => {
      const params = toLruParams((await loadGolden(name)).checkpoint);
      expect(mergeConjugates(params)).toEqual(params);
    },
  );

  test("refuses what is no layer", () => {
    expect(() => mergeConjugates({} as LruParams)).toThrow(/thetaLog/);
  });
});

describe.each(["reference", "wasm", "webgpu"] as const)("on %s", (backend: BackendName) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ backend: [backend, "reference"], threads: 0 });
  });
  afterAll(() => engine.dispose());

  const cases = (["the same", "another C"] as const).flatMap((mirror) =>
    [
      [1, 1],
      [5, 3],
      [8, 8],
      [17, 9],
    ].map(([dModel, count]) => ({ mirror, dModel: dModel as number, count: count as number })),
  );
  test.for(cases)(
    "the merged layer is the whole one: $count pairs, dModel $dModel, C $mirror",
    async ({ mirror, dModel, count }, context) => {
      needBackend(context, engine, backend);
      const params = paired(hardParams(dModel, count, 7), mirror, apart);
      const merged = mergeConjugates(params);
      expect(merged.nuLog.length).toBe(count);
      const [batch, seqLen] = [2, 101];
      const x = floats(batch * seqLen * dModel, 11);
      const program = lruProgram(params);
      const expected = runReference(program, { x, batch, seqLen }).y;
      const lru = await engine.lru(merged);
      const { y, state } = await lru.forward(x, { batch, backend });
      const limit = linearLimit(params, x, batch, seqLen, new State(stateLayout(program), batch));
      expect(relativeError(y, expected)).toBeLessThanOrEqual(limit);
      expect(state.get().re.length).toBe(batch * count);
      lru.dispose();
    },
  );
});

test("where C is mirrored too, it is the layer of the half with twice its C, bit for bit", async () => {
  const engine = await createEngine({ threads: 0 });
  const half = hardParams(6, 7, 21);
  const x = floats(6 * 120, 3);
  const { y } = await (await engine.lru(mergeConjugates(paired(half, "the same")))).forward(x);
  expectSameBits(y, (await (await engine.lru(doubled(half))).forward(x)).y, "y");
  await engine.dispose();
});
