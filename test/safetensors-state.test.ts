import { describe, expect, test } from "vitest";
import { initLru } from "../src/init.js";
import { fingerprint } from "../src/io/fingerprint.js";
import { readSafetensors, type Tensor, writeSafetensors } from "../src/io/safetensors.js";
import { decodeState, encodeState } from "../src/io/state.js";
import { lruProgram } from "../src/lruParams.js";
import type { LruStage, Program } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { CHUNK, groupIndex, State, stateLayout } from "../src/state.js";
import { loadGolden } from "./support/golden.js";

const program = lruProgram(initLru({ dModel: 2, dState: 5, seed: 1 }));
const owner = { fingerprint: fingerprint(program), architecture: program.architecture };

/** As a kernel might leave it in mid-chunk: every value another. */
function busyState(of: Program, batch: number): State {
  const state = new State(stateLayout(of), batch);
  for (let row = 0; row < batch; row++) {
    state.k[row] = (7 * row + 3) % CHUNK;
    state.count[row] = 1000 * row + 3;
    for (const [index, slot] of state.layout.slots.entries()) {
      for (let n = 0; n < slot.size; n++) {
        const value = Math.sin(1 + row + 10 * index + 100 * n);
        if (slot.stage.kind === "lru") {
          for (const i of [groupIndex(n), groupIndex(n) + 4]) {
            state.carry(slot, row)[i] = value * i;
            state.loc(slot, row)[i] = value / (i + 1);
          }
        } else {
          state.carry(slot, row)[n] = value;
          state.poolLoc(slot, row)[n] = value / 3;
        }
      }
    }
  }
  return state;
}

describe("a state through a file", () => {
  test.each(["lru_13_init_state", "ml_seq_01_prenorm", "ml_cls_01_mean_prenorm"])(
    "keeps every bit: %s",
    async (name) => {
      const golden = await loadGolden(name);
      const of = { fingerprint: fingerprint(golden.program), architecture: golden.program.architecture };
      const state = busyState(golden.program, 3);
      const decoded = decodeState(encodeState(state, of), stateLayout(golden.program), of);
      expect(decoded).toEqual(state);
      expect(decoded.bytes.some((byte) => byte !== 0)).toBe(true);
    },
  );

  test("a run continues as if nothing had happened", async () => {
    const { program, x, batch, seqLen } = await loadGolden("ml_cls_01_mean_prenorm");
    const of = { fingerprint: fingerprint(program), architecture: program.architecture };
    const first = runReference(program, { x, batch, seqLen });
    const state = decodeState(encodeState(first.state, of), stateLayout(program), of);
    const [resumed, straight] = [state, first.state].map((from) =>
      runReference(program, { x, batch, seqLen, state: from }),
    );
    expect(resumed).toEqual(straight);
  });

  test("no rows", () => {
    const empty = new State(stateLayout(program), 0);
    expect(decodeState(encodeState(empty, owner), empty.layout, owner)).toEqual(empty);
  });

  test("is a file that other tools can read: h is in it, re then im", () => {
    const state = new State(stateLayout(program), 1);
    const slot = state.layout.slots[0];
    if (slot) state.write(slot, 0, [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]);
    state.restartRow(0, 12);
    const { tensors, metadata } = readSafetensors(encodeState(state, owner));
    expect(tensors.get("slots.0.carry")).toEqual({
      dtype: "F64",
      shape: [1, 2, 5],
      data: Float64Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    });
    expect(tensors.get("count")?.data).toEqual(Float64Array.of(12));
    expect({ ...metadata }).toEqual({ "linrec.state": "1", ...owner });
  });
});

describe("refuses", () => {
  const layout = stateLayout(program);
  const sound = readSafetensors(encodeState(busyState(program, 2), owner));

  function decodeChanged(
    change: (tensors: Map<string, Tensor>) => void,
    metadata: Record<string, string> = sound.metadata,
  ): unknown {
    const tensors = new Map(sound.tensors);
    change(tensors);
    try {
      return decodeState(writeSafetensors(tensors, metadata), layout, owner);
    } catch (error) {
      return error;
    }
  }

  test("(the file itself is sound)", () => {
    expect(decodeChanged(() => undefined)).toEqual(busyState(program, 2));
  });

  test("another model's state", () => {
    const other = { ...sound.metadata, fingerprint: "0123456789abcdef" };
    expect(decodeChanged(() => undefined, other)).toMatchObject({
      code: "foreign-cache",
      message: expect.stringMatching(/another model.*0123456789abcdef.*Load the checkpoint/),
    });
  });

  test.each([
    ["a checkpoint", {}, /no state file/],
    ["another version", { ...sound.metadata, "linrec.state": "2" }, /version "2".*reads 1/],
  ])("%s", (_, metadata, message) => {
    const expected = { code: "malformed-file", message: expect.stringMatching(message) };
    expect(decodeChanged(() => undefined, metadata as Record<string, string>)).toMatchObject(expected);
  });

  const k = (...values: number[]): Tensor => ({
    dtype: "I32",
    shape: [values.length],
    data: Int32Array.from(values),
  });
  const count = (...values: number[]): Tensor => ({
    dtype: "F64",
    shape: [values.length],
    data: Float64Array.from(values),
  });
  const zeros = (...shape: number[]): Tensor => {
    return { dtype: "F64", shape, data: new Float64Array(shape.reduce((a, b) => a * b)) };
  };
  const faults: [string, (tensors: Map<string, Tensor>) => void, RegExp][] = [
    ["k past the chunk", (t) => t.set("k", k(0, CHUNK)), new RegExp(`k of row 1 is ${CHUNK}`)],
    ["k below 0", (t) => t.set("k", k(-1, 0)), /k of row 0 is -1/],
    ["k of another dtype", (t) => t.set("k", count(0, 0)), /F64 \[2\] for k, expected I32 \[2\]/],
    [
      "10^9 rows of nothing",
      (t) => t.set("k", { dtype: "I32", shape: [1e9, 0], data: new Int32Array() }),
      /I32 \[1000000000, 0\] for k, expected I32 \[0\]/,
    ],
    ["no k", (t) => t.delete("k"), /nothing for k/],
    ["a count below 0", (t) => t.set("count", count(0, -1)), /count of row 1 is -1/],
    ["half a count", (t) => t.set("count", count(0.5, 0)), /count of row 0 is 0.5/],
    ["a NaN count", (t) => t.set("count", count(Number.NaN, 0)), /count of row 0 is NaN/],
    ["counts of another batch", (t) => t.set("count", count(0)), /F64 \[1\] for count, expected F64 \[2\]/],
    [
      "another dState",
      (t) => t.set("slots.0.carry", zeros(2, 2, 4)),
      /F64 \[2, 2, 4\] for slots.0.carry.*\[2, 2, 5\]/,
    ],
    ["loc of another dtype", (t) => t.set("slots.0.loc", zeros(2, 2, 5)), /slots.0.loc, expected F32/],
    ["a slot too few", (t) => t.delete("slots.0.loc"), /nothing for slots.0.loc/],
    ["a slot too many", (t) => t.set("slots.1.carry", zeros(2, 2, 5)), /5 tensors, expected 4/],
  ];
  test.each(faults)("%s", (_, change, message) => {
    const expected = { code: "malformed-file", message: expect.stringMatching(message) };
    expect(decodeChanged(change)).toMatchObject(expected);
  });
});

describe("fingerprint", () => {
  const stage = program.stages[0] as LruStage;
  const changed = (change: Partial<LruStage>): Program => ({ ...program, stages: [{ ...stage, ...change }] });
  const changedParam = (name: "nuLog" | "D" | "CIm", change: (bits: Uint32Array) => void): Program => {
    const copy = stage.params[name].slice();
    change(new Uint32Array(copy.buffer));
    return changed({ params: { ...stage.params, [name]: copy } });
  };

  function flip(bits: Uint32Array, index: number, mask: number): void {
    bits[index] = (bits[index] as number) ^ mask;
  }

  test("is the same everywhere and always", () => {
    const ramp = (length: number) => Float32Array.from({ length }, (_, i) => i / 8);
    const fixed = lruProgram({
      nuLog: ramp(2),
      thetaLog: ramp(2),
      gammaLog: ramp(2),
      BRe: ramp(6),
      BIm: ramp(6),
      CRe: ramp(6),
      CIm: ramp(6),
      D: ramp(3),
    });
    // State files in the world carry it: a change here needs a new version of the state file.
    expect(fingerprint(fixed)).toBe("cdd319c3dbc2b379");
  });

  test("tells single bits, sizes, options and architectures apart", () => {
    const { thetaLog, ...rest } = stage.params;
    const variants = [
      program,
      changedParam("nuLog", (bits) => flip(bits, 0, 1)),
      changedParam("nuLog", (bits) => flip(bits, 4, 0x80000000)),
      changedParam("CIm", (bits) => void bits.reverse()),
      changedParam("D", (bits) => void bits.reverse()),
      changed({ params: { ...rest, theta: thetaLog as Float32Array } }),
      changed({ params: { ...stage.params, BRe: stage.params.BIm, BIm: stage.params.BRe } }),
      changed({ dModel: 5, dState: 2 }),
      { ...program, architecture: "other" },
      { ...program, stages: [...program.stages, ...program.stages] },
    ];
    const prints = variants.map(fingerprint);
    expect(new Set(prints).size).toBe(variants.length);
    for (const print of prints) expect(print).toMatch(/^[0-9a-f]{16}$/);
  });

  test("does not depend on names and slots", () => {
    const renamed: Program = { ...changed({ name: "x", src: 2, dst: 3 }), slots: [2, 2, 2, 2], output: 3 };
    expect(fingerprint(renamed)).toBe(fingerprint(program));
  });

  test("tells norms of one size apart", async () => {
    const { program } = await loadGolden("ml_seq_01_prenorm");
    const stages = program.stages.map((stage) =>
      stage.kind === "layerNorm" ? { ...stage, epsilon: 1e-5 } : stage,
    );
    expect(fingerprint({ ...program, stages })).not.toBe(fingerprint(program));
  });
});
