/** The checks of what a layer or model is given that need to know it: shapes, ids, what it can and cannot do. */
import { allocating, LinrecError } from "./errors.js";
import { countOf, type GpuBuffer, isGpuBuffer } from "./gpuBuffer.js";
import { type Input, inputWidth, type Network, outputWidth, poolOf, vocabularyOf } from "./program.js";
import { partsOf, shortestOf } from "./rates.js";
import type { State } from "./state.js";
import { outputsOf } from "./timeline.js";
import { checkCount, checkFinite, checkFloat32, checkInt32 } from "./validate.js";

export class Inputs {
  readonly inputWidth: number;
  readonly outputWidth: number;
  readonly vocabulary: number | undefined;
  readonly #network: Network;
  readonly #nonFinite: "propagate" | "reject";

  constructor(network: Network, nonFinite: "propagate" | "reject") {
    this.#network = network;
    this.#nonFinite = nonFinite;
    this.inputWidth = inputWidth(network);
    this.outputWidth = outputWidth(network);
    this.vocabulary = vocabularyOf(network);
  }

  /** Each token gives a row of y, and of nothing else. */
  get oneRowPerToken(): boolean {
    return !poolOf(this.#network) && partsOf(this.#network)[0] === this.#network;
  }

  seqLen(count: number, batch: number): number {
    const token = batch * this.inputWidth;
    const seqLen = batch === 0 ? 0 : Math.floor(count / token);
    if (seqLen * token !== count) {
      const whole = (seqLen + 1) * token;
      const needs =
        batch === 0
          ? "batch 0 needs 0"
          : `batch ${batch} x seqLen x ${this.inputWidth} features needs a multiple of ${token}, such as ${whole}`;
      throw new LinrecError(
        "shape-mismatch",
        `x has ${count} values; ${needs}. Pass \`batch\` if it is not ${batch}.`,
      );
    }
    return seqLen;
  }

  /** x as backends take it: the bits of ids are those of a Float32Array. Nothing, if it is on the GPU. */
  values(name: string, x: Input, isPort = false): Float32Array {
    if (isPort) {
      if (this.#nonFinite === "propagate") return new Float32Array(0);
      throw new LinrecError(
        "unsupported",
        `${name} is a GPUBuffer, and the engine was created with nonFinite "reject", which reads every value. Use "propagate".`,
      );
    }
    if (this.vocabulary === undefined) {
      checkFloat32(name, x);
      return x;
    }
    checkInt32(name, x, "an Int32Array of token ids");
    return new Float32Array(x.buffer, x.byteOffset, x.length);
  }

  /** Throws for ids that are none, in what is read of each row; for infinities and NaN, if they are to be refused. */
  checkValues(name: string, x: Input, seqLen: number, lengths?: Int32Array): void {
    const ids = this.vocabulary;
    if (ids === undefined) {
      if (this.#nonFinite === "reject") checkFinite(name, x as Float32Array);
      return;
    }
    for (let i = 0; i < x.length; i++) {
      const id = x[i] as number;
      if (id >= 0 && id < ids) continue;
      const [row, t] = [Math.floor(i / seqLen), i % seqLen];
      if (lengths && t >= (lengths[row] as number)) continue;
      throw new LinrecError(
        "invalid-argument",
        `${name}[${i}] (row ${row}, token ${t}) is ${id}; token ids are 0 to ${ids - 1}.`,
      );
    }
  }

  /** x [steps, streams, inputWidth] as backends take it: of one step, unless there may be `many`. */
  checkTokens(x: Input | GpuBuffer, streams: number, many: boolean): { values: Float32Array; steps: number } {
    const name = many ? "x" : "xt";
    const values = this.values(name, x as Input, isGpuBuffer(x));
    const count = countOf(x);
    const expected = streams * this.inputWidth;
    const steps = many ? expected && count / expected : 1;
    if (count !== steps * expected || steps % 1 > 0) {
      const each = `each of ${streams} streams x ${this.inputWidth} features`;
      throw new LinrecError(
        "shape-mismatch",
        `${name} has ${count} values; one token for ${each} needs ${expected}${many ? ", times the steps" : ""}.`,
      );
    }
    if (!isGpuBuffer(x)) this.checkValues(name, x, 1);
    return { values, steps };
  }

  checkPooled(lengths: Int32Array): void {
    if (!poolOf(this.#network)) return;
    const empty = lengths.indexOf(0);
    if (empty < 0) return;
    throw new LinrecError(
      "invalid-argument",
      `row ${empty} has no token, and this model pools over time: there is nothing to pool. Give every row at least one token.`,
    );
  }

  /** A network that joins rows to one and takes them apart again gives nothing until it has read all of them. */
  checkStreams(what: string): void {
    if (!this.#network.stages.some(({ kind }) => kind === "reshape")) return;
    throw new LinrecError(
      "unsupported",
      `${this.#network.architecture} cannot ${what}: its outputs depend on tokens that come later. Pass whole sequences to forward.`,
    );
  }

  /** Throws where a row, or what is left of it after its last reset, is too short to pool. */
  checkWindows(initial: State, seqLen: number, resets: readonly Int32Array[] | undefined): void {
    const least = shortestOf(this.#network);
    if (seqLen === 0 || least === 1) return;
    for (let row = 0; row < initial.batch; row++) {
      const reset = resets?.[row]?.at(-1);
      const before = reset === undefined ? (initial.count[row] as number) : 0;
      const tokens = seqLen - (reset ?? 0);
      if (before + tokens >= least) continue;
      const after = before > 0 ? `, after ${before} before` : "";
      const what = reset === undefined ? `a row${after}` : `from the reset at token ${reset} on`;
      throw new LinrecError(
        "invalid-argument",
        `x has ${tokens} tokens ${what} (row ${row}); this model pools windows of windows, and needs ${least} for its first output. Give longer sequences, or read these with step.`,
      );
    }
  }

  checkOneProgram(what: string): void {
    if (partsOf(this.#network)[0] === this.#network) return;
    throw new LinrecError(
      "unsupported",
      `${this.#network.architecture} with these options changes the rate of its tokens, between programs of its own, and cannot take ${what}. Leave it out.`,
    );
  }

  checkEvery(every: number): void {
    checkCount("every", every, 1);
    if (every > 1 && poolOf(this.#network)) {
      throw new LinrecError(
        "unsupported",
        `every is ${every}, and this model pools over time: it has one output for each row. Leave \`every\` out.`,
      );
    }
  }

  /** Rows of y for each row of x. */
  outputs({ count }: State, seqLen: number, every: number): number {
    if (poolOf(this.#network)) return 1;
    return count.reduce((most, tokens) => Math.max(most, outputsOf(tokens, seqLen, every)), 0);
  }

  /** Where y is written: `out`, or a new array; an empty one if `out` is on the GPU. */
  output(
    x: Float32Array,
    batch: number,
    outputs: number,
    out: Float32Array | GpuBuffer | undefined,
  ): Float32Array {
    const size = batch * outputs * this.outputWidth;
    if (out === undefined) return allocating("y", () => new Float32Array(size));
    this.checkOut(out, x, batch, size);
    return isGpuBuffer(out) ? new Float32Array(0) : out;
  }

  checkOut(out: Float32Array | GpuBuffer, x: Float32Array, batch: number, size: number): void {
    if (!isGpuBuffer(out)) checkFloat32("out", out);
    if (countOf(out) !== size) {
      throw new LinrecError(
        "shape-mismatch",
        `out has ${countOf(out)} values; y has ${size}: batch ${batch} x ${size / (batch * this.outputWidth) || 0} outputs x ${this.outputWidth} features.`,
      );
    }
    if (isGpuBuffer(out)) return;
    const apart =
      out.byteOffset + out.byteLength <= x.byteOffset || x.byteOffset + x.byteLength <= out.byteOffset;
    if (out.buffer === x.buffer && !apart) {
      throw new LinrecError(
        "invalid-argument",
        "out and x overlap in memory: y would be written over x while it is read. Use two arrays.",
      );
    }
  }
}
