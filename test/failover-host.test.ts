/** What a backend leaves undone, as the next one is given it: with backends that only say what they were asked for. */
import { expect, test } from "vitest";
import type { Backend, ForwardJob, Runner } from "../src/backend.js";
import { LinrecError } from "../src/errors.js";
import { Failover } from "../src/failover.js";
import type { Machine } from "../src/machine.js";
import { buildProgram } from "../src/models/build.js";
import { type BackendName, outputWidth } from "../src/program.js";
import { Stop } from "../src/signal.js";
import { State, stateLayout } from "../src/state.js";
import { randomClassifier } from "./support/lrnnx.js";

test("a chain of programs goes on from the last segment that was committed, on the next backend", async () => {
  const { checkpoint, spec } = randomClassifier(1);
  const network = buildProgram(checkpoint, {}, spec);
  const [batch, seqLen] = [2, 40];
  const seen: [BackendName, number[], number[]][] = [];
  const runner = (name: BackendName): Runner => ({
    async forward({ state, done }: ForwardJob) {
      const committed = done as Int32Array;
      seen.push([name, [...committed], [...state.count]]);
      const reached = name === "webgpu" ? [32, 16] : [seqLen, seqLen];
      committed.set(reached);
      for (const [row, tokens] of reached.entries()) state.restartRow(row, tokens);
      if (name === "webgpu") throw new LinrecError("gpu-failed", "The GPU was lost.");
    },
    dispose() {},
  });
  const told: string[] = [];
  const candidate = (backend: BackendName) => ({
    ...{ backend, threads: 0, ms: 1, parts: {} },
    available: true,
    reason: "",
  });
  const wasm = {
    threads: 0,
    threadsReason: "",
    threadsDemanded: false,
    shared: true,
    hopMs: 0,
    flopsPerMs: 1e6,
  };
  const work = { batch, seqLen, flopsPerToken: 1, bytesIn: 4, bytesOut: 4, states: 1 };
  const hardware = { wasm, webgpu: undefined, unavailable: new Map() };
  const machine = {
    backend: (name: BackendName) => ({ name }) as Backend,
    renew: async () => false,
    hardware: () => hardware,
  } as unknown as Machine;
  const tell = (from: string, to: string) => told.push(`${from} to ${to}`);
  const failover = new Failover(machine, tell, async (name) => runner(name), {
    ...{ preference: ["webgpu", "wasm"], hardware, work },
    candidate: candidate("webgpu"),
  });
  const state = new State(stateLayout(network), batch);
  const job = {
    ...{ batch, seqLen, lengths: new Int32Array(batch).fill(seqLen), state },
    ...{ x: new Float32Array(batch * seqLen), y: new Float32Array(batch * outputWidth(network)) },
    ...{ signal: undefined, onProgress: undefined },
  };
  await failover.run(network, job, new Stop());
  expect(seen).toEqual([
    ["webgpu", [0, 0], [0, 0]],
    ["wasm", [32, 16], [32, 16]],
  ]);
  expect(told).toEqual(["webgpu to wasm"]);
  expect([...state.count]).toEqual([seqLen, seqLen]);
});
