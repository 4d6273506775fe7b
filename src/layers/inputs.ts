/** The checks of what a layer or model is given that need to know it: shapes, values. */
import type { NonFinite } from "../engine/options.js";
import { allocating, LinrecError } from "../errors.js";
import { type Input, inputWidth, type Network, outputWidth } from "../program.js";
import { countOf, type GpuBuffer, isGpuBuffer } from "../runtime/gpuBuffer.js";
import type { State } from "../state.js";
import { outputsOf } from "../timeline.js";
import { checkCount, checkFinite, checkFloat32, viewOf } from "../validate.js";

const REFUSED = 'the engine was created with nonFinite "reject". Mend the data, or use "propagate"';

export class Inputs {
  readonly inputWidth: number;
  readonly outputWidth: number;
  /** Of a model that reads token ids. */
  readonly vocabulary: number | undefined = undefined;
  readonly #nonFinite: NonFinite;

  constructor(network: Network, nonFinite: NonFinite) {
    this.#nonFinite = nonFinite;
    this.inputWidth = inputWidth(network);
    this.outputWidth = outputWidth(network);
  }

  /** Each token gives a row of y, and of nothing else. */
  get oneRowPerToken(): boolean {
    return true;
  }

  /** What a layer can and takes, and not every model: see modelInputs.ts. */
  checkStreams(_what: string): void {}
  checkOneProgram(_what: string): void {}
  checkPooled(_lengths: Int32Array): void {}
  checkWindows(_initial: State, _seqLen: number, _resets: readonly Int32Array[] | undefined): void {}
  /** @param rowOf [streams] the row of `state` that a stream goes on from, -1 for one that starts anew or stands still */
  checkUntimed(_state: State, _streams: number, _rowOf: (stream: number) => number): void {}

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

  /** x as backends take it; nothing, if it is on the GPU. */
  values(name: string, x: Input, isPort = false): Float32Array {
    if (isPort) {
      if (this.#nonFinite === "propagate") return new Float32Array(0);
      throw new LinrecError(
        "unsupported",
        `${name} is a GPUBuffer, and the engine was created with nonFinite "reject", which reads every value. Use "propagate".`,
      );
    }
    return this.array(name, x);
  }

  protected array(name: string, x: Input): Float32Array {
    checkFloat32(name, x);
    return x.constructor === Float32Array ? x : viewOf(x);
  }

  /** Throws for infinities and NaN, if they are to be refused, in what is read of each row. */
  checkValues(name: string, x: Input, seqLen: number, lengths?: Int32Array): void {
    if (this.#nonFinite === "propagate") return;
    const row = seqLen * this.inputWidth;
    const isRead = (i: number) =>
      !lengths || i % row < (lengths[Math.floor(i / row)] as number) * this.inputWidth;
    checkFinite(name, x as Float32Array, REFUSED, isRead);
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

  checkEvery(every: number): void {
    checkCount("every", every, 1);
  }

  /** Rows of y for each row of x. */
  outputs({ count }: State, seqLen: number, every: number): number {
    return count.reduce((most, tokens) => Math.max(most, outputsOf(tokens, seqLen, every)), 0);
  }

  /** Where y is written: `out`, which must be apart from what is `read`, or a new array; an empty one if `out` is on the GPU. */
  output(
    read: readonly (Float32Array | undefined)[],
    batch: number,
    outputs: number,
    out: Float32Array | GpuBuffer | undefined,
  ): Float32Array {
    const size = batch * outputs * this.outputWidth;
    if (out === undefined) return allocating("y", () => new Float32Array(size));
    this.checkOut(out, read, batch, size);
    return isGpuBuffer(out) ? new Float32Array(0) : out;
  }

  checkOut(
    out: Float32Array | GpuBuffer,
    read: readonly (Float32Array | undefined)[],
    batch: number,
    size: number,
  ): void {
    if (!isGpuBuffer(out)) checkFloat32("out", out);
    if (countOf(out) !== size) {
      throw new LinrecError(
        "shape-mismatch",
        `out has ${countOf(out)} values; y has ${size}: batch ${batch} x ${size / (batch * this.outputWidth) || 0} outputs x ${this.outputWidth} features.`,
      );
    }
    if (isGpuBuffer(out)) return;
    for (const x of read) {
      if (out.buffer !== x?.buffer) continue;
      if (out.byteOffset + out.byteLength <= x.byteOffset || x.byteOffset + x.byteLength <= out.byteOffset)
        continue;
      throw new LinrecError(
        "invalid-argument",
        `out and ${x === read[0] ? "x" : "integrationTimesteps"} overlap in memory: y would be written over what is read. Use two arrays.`,
      );
    }
  }
}
