/** Long memory over long sequences on the GPU, |lambda| = 1 - 1e-6: what two levels of carries are for. */
import { expect, test } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import type { LruParams, Program, Stage } from "../src/program.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu } from "../src/webgpu/backend.js";
import { floats } from "./support/problems.js";

const dState = 2;

const params: LruParams = {
  nuLog: new Float32Array(dState).fill(Math.log(1e-6)),
  theta: Float32Array.of(0.1, 2),
  gammaLog: new Float32Array(dState).fill(0.5 * Math.log(2e-6)),
  BRe: Float32Array.of(1, -0.5),
  BIm: Float32Array.of(0.25, 1),
  CRe: Float32Array.of(0.75, 1),
  CIm: Float32Array.of(1, -0.5),
  D: Float32Array.of(0),
};
const stages: Stage[] = [{ kind: "lru", name: "lru", src: 0, dst: 1, dModel: 1, dState, params }];
const program: Program = { architecture: "lru", slots: [1, 1], stages, output: 1 };

/** Token by token in float64. */
function expected(x: Float32Array): { y: Float64Array; h: number[] } {
  const y = new Float64Array(x.length);
  const h: number[] = [];
  for (let n = 0; n < dState; n++) {
    const of = (values: Float32Array | undefined) => values?.[n] as number;
    const [nu, theta, gamma] = [Math.exp(of(params.nuLog)), of(params.theta), Math.exp(of(params.gammaLog))];
    const [a, b] = [Math.exp(-nu) * Math.cos(theta), Math.exp(-nu) * Math.sin(theta)];
    let [re, im] = [0, 0];
    for (let t = 0; t < x.length; t++) {
      const u = gamma * (x[t] as number);
      [re, im] = [a * re - b * im + of(params.BRe) * u, a * im + b * re + of(params.BIm) * u];
      y[t] = (y[t] as number) + of(params.CRe) * re - of(params.CIm) * im;
    }
    h.push(re, im);
  }
  return { y, h };
}

// A float32 loop is off by 2e-2 of rms. Not lifted, 2 million tokens (3.2e-6) take a software adapter too long for a suite.
for (const [seqLen, lift] of [
  [200_000, 1],
  [2_000_000, 8],
] as const) {
  test(`${seqLen} tokens, ${lift} at a time: within 1e-5 of rms`, async (context) => {
    const opened = await openWebgpu();
    if ("reason" in opened) return context.skip(opened.reason);
    const runner = await opened.backend.prepare(program, undefined, { lift, leastChunks: 0 });
    const state = new State(stateLayout(program), 1);
    const x = floats(seqLen, 1);
    const job: ForwardJob = {
      ...{ batch: 1, seqLen, lengths: Int32Array.of(seqLen), state, x, y: new Float32Array(seqLen) },
      ...{ threads: 0, signal: undefined, onProgress: undefined },
    };
    await runner.forward(job);
    const { y, h } = expected(x);
    let [worst, squares] = [0, 0];
    for (let t = 0; t < seqLen; t++) {
      worst = Math.max(worst, Math.abs((job.y[t] as number) - (y[t] as number)));
      squares += (y[t] as number) ** 2;
    }
    const rms = Math.sqrt(squares / seqLen);
    const slot = state.layout.slots[0] as (typeof state.layout.slots)[number];
    const last = state.read(slot, 0);
    const off = h.map((value, i) => Math.abs(((i % 2 ? last.im : last.re)[i >> 1] as number) - value));
    expect(worst / rms).toBeLessThanOrEqual(1e-5);
    expect(Math.max(...off) / rms).toBeLessThanOrEqual(1e-5);
    opened.backend.dispose();
  }, 180_000);
}
