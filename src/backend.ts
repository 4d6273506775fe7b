/**
 * What a backend is: something that runs programs. It holds no policy (the scheduler has that), checks no user input
 * (done before), and never decides to fall back (the engine does): it gives the right numbers or throws a LinrecError.
 */
import type { Rows } from "./networks/links.js";
import type { BackendName, Network, Program } from "./program.js";
import type { Ports } from "./runtime/gpuBuffer.js";
import type { StopSignal } from "./runtime/signal.js";
import type { State } from "./state.js";

/** A forward whose arguments have been checked. */
export interface ForwardJob {
  readonly batch: number;
  readonly seqLen: number;
  /** [batch] tokens to read of each row, 0 <= length <= seqLen */
  readonly lengths: Int32Array;
  /** [batch, seqLen] for each token Delta, by which lambda becomes lambda^Delta; all 1 if left out */
  readonly timesteps?: Float32Array | undefined;
  /** [batch, seqLen, inputWidth] */
  readonly x: Float32Array;
  /**
   * [batch, outputs, outputWidth], outputs = seqLen unless `every` makes them fewer, or [batch, outputWidth] for a program
   * that pools. Written whole: zeros past a row's last.
   */
  readonly y: Float32Array;
  /** Throws `detached` if the caller's arrays have lost their memory meanwhile: what came of them is nothing then. */
  readonly intact?: (() => void) | undefined;
  /** For "webgpu": x and y that are GPUBuffers; the arrays in their place are empty. */
  readonly ports?: Ports | undefined;
  /** [batch] tokens, ascending and past the first, before which a row's state is zeroed; undefined where there are none */
  readonly resets?: readonly Int32Array[] | undefined;
  /**
   * Each row is read from its last token back, and what a token gives is added to its place here: y = onto + that, rounded once,
   * in the order of x; `timesteps` and `resets` are in the order of reading. Of layers alone, whose y is shaped as x. It may be
   * y itself where there are no `threads`; else it is only read, as what is run again starts from it again. No row is `done`
   * before all are. For "wasm"; `forwardReversed` runs it on other backends.
   */
  readonly onto?: Float32Array | undefined;
  /** Only tokens every, 2 every, ... since the state's origin give an output (1). */
  readonly every?: number | undefined;
  /**
   * The initial state, a private copy: it holds the final state when the promise fulfils. If it rejects, the rows that
   * `done` counts tokens of are where those have brought them, and the others hold anything.
   */
  readonly state: State;
  /**
   * [batch] tokens of each row that are done for good, whatever comes: their outputs are in y, and the row of `state` is
   * advanced past them. Zeros at first; a backend that works in pieces commits each here. A chain's rows move together,
   * and it goes on from what is done by another: the state's own count is advanced with the last token.
   */
  readonly done?: Int32Array | undefined;
  /** Of what is left of a forward: all of it. A backend gives the same bits as if it had not been interrupted. */
  readonly whole?: ForwardJob | undefined;
  /** Worker threads to use, 0 for the calling thread only. For the backend "wasm"; the others have no such choice. */
  readonly threads: number;
  readonly signal: StopSignal | undefined;
  /** Called between pieces of work with the tokens done so far, of batch x seqLen. */
  readonly onProgress: ((done: number) => void) | undefined;
}

/** What of a forward counts where it is done at once. */
export type PlainJob = Omit<ForwardJob, "threads" | "signal" | "onProgress">;

/** Steps of some of a {@link Resident}'s streams, whose arguments have been checked. */
export interface ResidentJob {
  /** [steps, streams, inputWidth], unless `ports` has it */
  readonly x: Float32Array;
  /** [steps, streams, outputWidth], unless `ports` has it */
  readonly y: Float32Array;
  readonly ports: Ports | undefined;
  readonly steps: number;
  readonly streams: number;
  /** [streams] the slot of each, all different */
  readonly rows: Int32Array;
  /** [steps, streams] not 0 where the stream's state is zero before the token, whatever its slot holds */
  readonly fresh: Uint8Array;
  /** [steps, streams] tokens since the state's origin, this one included */
  readonly counts: Float32Array;
  /** [steps, streams] how far each token is from the one before it; 1 if left out */
  readonly timesteps: Float32Array | undefined;
}

/** The states of some streams, kept where the backend computes. Calls may overlap; they take effect in their order. */
export interface Resident {
  step(job: ResidentJob): Promise<void>;
  /** The values of some rows, without how many tokens they have read. */
  read(rows: Int32Array): Promise<State>;
  /** Copies `state`, whose rows these are, before it returns. */
  write(rows: Int32Array, state: State): Promise<void>;
  /** Idempotent. */
  dispose(): void;
}

/** A program made ready to run: weights packed and uploaded. */
export interface Runner {
  /** Makes room for the states of `slots` streams, if the backend can keep them. */
  resident?(slots: number): Promise<Resident>;
  /** Runs one job. A backend takes overlapping calls and runs them in the order of the calls. */
  forward(job: ForwardJob): Promise<void>;
  /** Frees what the program holds. Idempotent; the engine calls it when no job is under way. */
  dispose(): void;
}

/** A network whose rate changes, made ready to run as a whole: what is between its parts stays where they compute. */
export interface Linked {
  /** Tokens of each of so many rows to run at a time, with timesteps or without: in whole multiples of what the network pads rows to. */
  segmentTokens(batch: number, timed: boolean): number;
  /**
   * Takes rows of x through all links, segment after segment, and gives `land` each with what comes of it at the end, as the
   * network's plain loops give it: `state` is past that segment then, and no further, while the next may be under way. If it
   * rejects, `state` holds anything. `links` are given: they are in another file of the package.
   */
  run<Segment extends Rows>(
    segments: Iterable<Segment>,
    state: State,
    signal: StopSignal | undefined,
    land: (segment: Segment, end: Rows) => void,
    links: Pick<typeof import("./networks/links.js"), "legsOf" | "hold">,
  ): Promise<void>;
  /** As a {@link Runner}'s. */
  dispose(): void;
}

export interface Backend {
  readonly name: BackendName;
  /** Packs and uploads a program. Nothing of the program's arrays is written or retained by reference. */
  prepare(program: Program): Runner | Promise<Runner>;
  /** The same of a network whose rate changes, if the backend runs more of it than its parts. */
  prepareLinked?(network: Network): Promise<Linked>;
  /** Ends everything the backend holds. Idempotent. Work under way rejects with `disposed`. */
  dispose(): void | Promise<void>;
}

/** How a forward goes through a GPU. */
export interface Passes {
  /** For all tokens together. */
  readonly dispatches: number;
  /** Of the tables that tokens with timesteps need, in bytes. */
  readonly tables: number;
  /** Multiplications and additions of products and of what follows in their registers, of tokens that only fill a chunk and columns that fill a tile too. */
  readonly flops: number;
  /** Threads of all workgroups, and bytes that they load in all. */
  readonly threads: number;
  readonly loads: number;
  /** The same of one workgroup of each dispatch: however few workgroups there are, this comes one after the other. */
  readonly waits: number;
}

/** What the scheduler wants to know of a GPU: how long the parts of a forward take there. */
export interface GpuRates {
  /** From the call to the result when there is next to nothing to compute. */
  readonly roundTripMs: number;
  /** Each dispatch, beyond what its workgroups take. */
  readonly dispatchMs: number;
  /** Copies from the CPU's memory to the GPU's, and back into an array. */
  readonly uploadBytesPerMs: number;
  readonly readbackBytesPerMs: number;
  /** A multiplication or an addition, a thread whatever it does, and a byte that is loaded, among very many. */
  readonly flopMs: number;
  readonly threadMs: number;
  readonly loadMs: number;
  /** A byte that a workgroup loads, beyond that: what it waits for while others cannot take its turn. */
  readonly waitMs: number;
}
