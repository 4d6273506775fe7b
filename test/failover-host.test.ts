/** What a backend leaves undone, as the next one is given it: with backends that only say what they were asked for. */
import { expect, test } from "vitest";
import type { Backend, ForwardJob, Runner } from "../src/backend.js";
import { Failover } from "../src/engine/failover.js";
import type { Machine } from "../src/engine/machine.js";
import { LinrecError } from "../src/errors.js";
import { buildProgram } from "../src/models/build.js";
import { type BackendName, type Network, outputWidth } from "../src/program.js";
import { Stop } from "../src/runtime/signal.js";
import { State, stateLayout } from "../src/state.js";
import { randomClassifier } from "./support/lrnnx.js";

const [batch, seqLen] = [2, 40];

/** A failover from the GPU to the CPU, whose runners do as they are told; what it told, and a job for it. */
function failing(network: Network, forward: (name: BackendName, job: ForwardJob) => void) {
  const runner = async (name: BackendName): Promise<Runner> => ({
    forward: async (job) => forward(name, job),
    dispose() {},
  });
  const told: string[] = [];
  const tell = (from: string, to: string) => told.push(`${from} to ${to}`);
  const candidate = { backend: "webgpu", threads: 0, ms: 1, parts: {}, available: true, reason: "" } as const;
  const flags = { threadsReason: "", threadsDemanded: false, shared: true };
  const wasm = { ...flags, threads: 0, hopMs: 0, flopsPerMs: 1e6 };
  const work = { batch, seqLen, flopsPerToken: 1, bytesIn: 4, bytesOut: 4, states: 1 };
  const hardware = (failed?: ReadonlySet<BackendName>) => {
    const unavailable = new Map([...(failed ?? [])].map((name) => [name, "it failed"]));
    return { wasm: failed?.has("wasm") ? undefined : wasm, webgpu: undefined, unavailable };
  };
  const machine = {
    backend: (name: BackendName) => ({ name }) as Backend,
    renew: async () => false,
    hardware,
  } as unknown as Machine;
  const asked = { preference: ["webgpu", "wasm"] as const, hardware: hardware(), work, candidate };
  const state = new State(stateLayout(network), batch);
  const job = {
    ...{ batch, seqLen, lengths: new Int32Array(batch).fill(seqLen), state },
    ...{ x: new Float32Array(batch * seqLen), y: new Float32Array(batch * outputWidth(network)) },
    ...{ signal: undefined, onProgress: undefined },
  };
  return { run: () => new Failover(machine, tell, runner, asked).run(network, job, new Stop()), told, state };
}

const { checkpoint, spec } = randomClassifier(1);
const network = buildProgram(checkpoint, {}, spec);

test("a chain of programs goes on from the last segment that was committed, on the next backend", async () => {
  const seen: [BackendName, number[], number[]][] = [];
  const { run, told, state } = failing(network, (name, { state, done }) => {
    const committed = done as Int32Array;
    seen.push([name, [...committed], [...state.count]]);
    const reached = name === "webgpu" ? [32, 16] : [seqLen, seqLen];
    committed.set(reached);
    for (const [row, tokens] of reached.entries()) state.restartRow(row, tokens);
    if (name === "webgpu") throw new LinrecError("gpu-failed", "The GPU was lost.");
  });
  await run();
  expect(seen).toEqual([
    ["webgpu", [0, 0], [0, 0]],
    ["wasm", [32, 16], [32, 16]],
  ]);
  expect(told).toEqual(["webgpu to wasm"]);
  expect([...state.count]).toEqual([seqLen, seqLen]);
});

test("where nothing is left that was asked for, the last backend's own error is told", async () => {
  const { run, told } = failing(network, (name) => {
    throw name === "webgpu"
      ? new LinrecError("gpu-failed", "The GPU was lost.")
      : new RangeError("no memory");
  });
  await expect(run()).rejects.toMatchObject({ code: "out-of-memory", cause: { message: "no memory" } });
  expect(told).toEqual(["webgpu to wasm"]);
});
