/**
 * Runs a bidirectional layer: as one pass where the backend can read rows from both ends at once (a GPU, if whole rows fit what
 * it takes at a time), else as a pass for either direction, of which the second adds to what the first gave.
 */
import type { Backend, ForwardJob, Runner } from "../backend.js";
import { allocating, isLinrecError } from "../errors.js";
import type { Network, Program } from "../program.js";
import { State, stateLayout } from "../state.js";
import { halvesOf, type Ways, waysOf } from "./hidden.js";
import { forwardReversed, turnRows } from "./reversed.js";

export class BothWays implements Runner {
  readonly #backend: Backend;
  readonly #program: Program;
  readonly #prepare: (part: Network) => Promise<Runner>;
  /** Made when first wanted. */
  readonly #runners = new Map<Network, Promise<Runner>>();

  constructor(backend: Backend, program: Program, prepare: (part: Network) => Promise<Runner>) {
    this.#backend = backend;
    this.#program = program;
    this.#prepare = prepare;
  }

  async forward(job: ForwardJob): Promise<void> {
    if (this.#backend.name === "webgpu" && !job.timesteps) {
      const whole = async () => this.#backend.prepare(this.#program);
      try {
        await (await this.#runner(this.#program, whole)).forward(job);
        return;
      } catch (error) {
        // Before anything is done: rows that are too long for one piece, or a layer too wide.
        if (!isLinrecError(error) || error.code !== "unsupported") throw error;
      }
    }
    await this.#eachWay(job);
  }

  async #eachWay(job: ForwardJob): Promise<void> {
    const { y, batch, seqLen, lengths, timesteps, resets, onProgress } = job;
    const { forward, backward } = waysOf.get(this.#program) as Ways;
    const pass = async (way: Network, nth: number) => {
      const runner = await this.#runner(way, () => this.#prepare(way));
      const state = new State(stateLayout(halvesOf(way)?.full ?? way), batch);
      const half = onProgress && ((done: number) => onProgress((nth * batch * seqLen + done) / 2));
      return { runner, own: { ...job, state, done: undefined, onProgress: half } };
    };
    const there = await pass(forward, 0);
    // Workers may fail, and what they did is then done again: what is added to has to be there still.
    const onto = job.threads > 0 ? allocating("a forward", () => new Float32Array(y.length)) : y;
    await there.runner.forward({ ...there.own, y: onto });
    const { runner, own } = await pass(backward, 1);
    const turned = {
      ...own,
      onto,
      timesteps: timesteps && turnRows(timesteps, lengths, 1, seqLen),
      resets: resets?.map((starts, row) =>
        starts
          .map((at) => (lengths[row] as number) - at)
          .filter((at) => at > 0)
          .reverse(),
      ),
    };
    await (this.#backend.name === "wasm" ? runner.forward(turned) : forwardReversed(runner, turned));
  }

  #runner(network: Network, make: () => Promise<Runner>): Promise<Runner> {
    const known = this.#runners.get(network) ?? make();
    this.#runners.set(network, known);
    known.catch(() => this.#runners.delete(network));
    return known;
  }

  dispose(): void {
    for (const made of this.#runners.values()) made.then((runner) => runner.dispose()).catch(() => {});
  }
}
