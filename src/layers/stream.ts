/** A forward over chunks as they come: of a file, a download, a microphone. */
import { LinrecError, messageOf } from "../errors.js";
import { bytesOf } from "../io/bytes.js";
import type { Input } from "../program.js";
import { untilAborted } from "../runtime/breaker.js";
import { abortedError, throwIfAborted } from "../runtime/signal.js";
import { typeName } from "../tensor.js";
import { checkOptions } from "../validate.js";
import { checkReset, checkTimesteps } from "./forwardOptions.js";

/**
 * Part of x [tokens, inputWidth], cut anywhere: float32 values (int32 for a model that reads token ids), or the bytes of
 * such (little-endian), even a part of one.
 */
export type StreamValues = Input | Uint8Array | DataView | ArrayBufferLike;

/** Tokens, and what {@link ForwardOptions} has to say of each: whole tokens where it says anything. */
export interface StreamTokens {
  readonly x: StreamValues;
  /** [tokens], in every chunk of a stream or in none. */
  readonly integrationTimesteps?: Float32Array | undefined;
  /** [tokens]; none if left out. */
  readonly reset?: ArrayLike<number | boolean> | undefined;
}

export type StreamChunk = StreamValues | StreamTokens;

/** Chunks, or one: what `for await` takes, or a ReadableStream. */
export type StreamSource =
  | AsyncIterable<StreamChunk>
  | Iterable<StreamChunk>
  | ReadableStream<StreamChunk>
  | StreamChunk;

type Marks = Omit<StreamTokens, "x">;

/** A forward of one window: x [tokens, inputWidth], which is written over afterwards, and so are its marks. */
type Forward<Result> = (x: Input, marks: Marks) => Promise<Result>;

/** What {@link readThrough} and {@link transformerOf} feed. */
export interface Feeding<Result> {
  /** What chunks hold. */
  readonly array: typeof Float32Array | typeof Int32Array;
  readonly inputWidth: number;
  /** Room for the tokens that are forwarded at once. */
  readonly window: Uint8Array<ArrayBuffer>;
  /** Whether it waits until it is full, or only for the end of a chunk. */
  readonly whole: boolean;
  readonly forward: Forward<Result>;
  readonly signal: AbortSignal | undefined;
}

/** Gathers chunks into windows of whole tokens, and forwards each when it is full. */
class Feed<Result> {
  readonly #forward: Forward<Result>;
  readonly #array: typeof Float32Array | typeof Int32Array;
  readonly #tokenBytes: number;
  readonly #window: Uint8Array<ArrayBuffer>;
  readonly #whole: boolean;
  #filled = 0;
  /** [tokens of the window], once a chunk has some. */
  #times: Float32Array | undefined;
  #resets: Uint8Array | undefined;
  /** Whether the chunks have timesteps: what the first one says. */
  #timed: boolean | undefined;

  constructor({ array, inputWidth, window, whole, forward }: Feeding<Result>) {
    this.#forward = forward;
    this.#array = array;
    this.#tokenBytes = 4 * inputWidth;
    this.#window = window;
    this.#whole = whole;
  }

  async *push(chunk: StreamChunk): AsyncGenerator<Result> {
    const { x, integrationTimesteps: given, reset } = hasMarks(chunk) ? chunk : { x: chunk as StreamValues };
    const bytes = bytesOfChunk(x, this.#array.name);
    const tokenBytes = this.#tokenBytes;
    const size = bytes.length;
    const times = this.#checkMarks(size, given, reset);
    const most = this.#window.length / tokenBytes;
    if (times) this.#times ??= new Float32Array(most);
    if (reset) this.#resets ??= new Uint8Array(most);
    for (let at = 0; at < size; ) {
      // Between results the chunk is in the hands of its owner.
      if (bytes.length < size || [times, reset].some((marks) => marks && marks.length < size / tokenBytes)) {
        throw new LinrecError(
          "detached",
          `A chunk of ${size} bytes, or what came with it, was detached or made smaller when ${at} of them had been read. Leave it as it is until the next one is asked for, or pass a copy.`,
        );
      }
      const part = bytes.subarray(at, Math.min(size, at + this.#window.length - this.#filled));
      this.#window.set(part, this.#filled);
      const [to, from] = [this.#filled / tokenBytes, at / tokenBytes];
      this.#filled += part.length;
      at += part.length;
      if (times) this.#times?.set(times.subarray(from, at / tokenBytes), to);
      for (let i = from; reset && i < at / tokenBytes; i++)
        (this.#resets as Uint8Array)[to + i - from] = reset[i] ? 1 : 0;
      if (this.#filled === this.#window.length) yield* this.#run();
    }
    if (!this.#whole) yield* this.#run();
  }

  /** The timesteps as they are read. */
  #checkMarks(bytes: number, times: Marks["integrationTimesteps"], reset: Marks["reset"]) {
    if (bytes === 0 && !times && !reset) return undefined;
    this.#timed ??= times !== undefined;
    if (this.#timed !== (times !== undefined)) {
      const [has, had] = this.#timed ? ["no", "had some"] : ["some", "had none"];
      throw new LinrecError(
        "invalid-argument",
        `This chunk has ${has} integrationTimesteps, and those before it ${had}. Give every chunk its own (1 where tokens are 1 apart), or none.`,
      );
    }
    if (!times && !reset) return undefined;
    const tokenBytes = this.#tokenBytes;
    if (bytes % tokenBytes > 0 || this.#filled % tokenBytes > 0) {
      const where = bytes % tokenBytes > 0 ? `it has ${bytes} bytes` : "the chunk before it ended within one";
      throw new LinrecError(
        "shape-mismatch",
        `A chunk with reset or integrationTimesteps must hold whole tokens, of ${tokenBytes} bytes; ${where}.`,
      );
    }
    const tokens = bytes / tokenBytes;
    checkReset(reset, tokens, "[tokens]");
    return times && checkTimesteps(times, Int32Array.of(tokens), tokens);
  }

  async *end(): AsyncGenerator<Result> {
    const left = this.#filled % this.#tokenBytes;
    if (left > 0) {
      throw new LinrecError(
        "shape-mismatch",
        `The stream ended within a token: ${left} bytes are left, and a token is ${this.#tokenBytes} (${this.#tokenBytes / 4} values of 4). The source was cut short, or is of another width.`,
      );
    }
    yield* this.#run();
  }

  /** Forwards the whole tokens, and keeps the rest for the next window. */
  async *#run(): AsyncGenerator<Result> {
    const whole = this.#filled - (this.#filled % this.#tokenBytes);
    if (whole === 0) return;
    const tokens = whole / this.#tokenBytes;
    const result = await this.#forward(new this.#array(this.#window.buffer, 0, whole / 4), {
      integrationTimesteps: this.#times?.subarray(0, tokens),
      reset: this.#resets?.subarray(0, tokens),
    });
    this.#resets?.fill(0);
    this.#window.copyWithin(0, whole, this.#filled);
    this.#filled -= whole;
    yield result;
  }
}

/** Pulls chunks only when results are wanted; whoever stops early, or a signal, also closes the source. */
export async function* readThrough<Result>(
  source: StreamSource,
  feeding: Feeding<Result>,
): AsyncGenerator<Result, void> {
  const { signal } = feeding;
  const feed = new Feed(feeding);
  const chunks = iterate(source);
  let leaving = true; // unless the source ends, or something fails
  try {
    for (;;) {
      const result = await untilStopped(chunks.next(), signal);
      if (Object(result) !== result) throw noSource(`one whose next() gave ${typeName(result)}`);
      if (result.done) break;
      yield* feed.push(result.value);
    }
    leaving = false;
    yield* feed.end();
  } catch (error) {
    leaving = false;
    throw error;
  } finally {
    // An async function: what return() throws at once is a rejection, like any other.
    const closed = (async () => chunks.return?.())();
    const settled = closed.catch(() => {});
    // As for await has it: what goes wrong in closing is told where the loop was merely left. After an error it is that
    // error which counts, and a source that has ended owes nothing.
    // A source that is still waiting for a chunk closes after that, so an abort does not wait for it.
    if (!signal?.aborted) await (leaving ? closed : settled);
  }
}

export interface StreamTransformer {
  transform(chunk: StreamChunk): Promise<void>;
  flush(): Promise<void>;
  cancel(): void;
}

/** The same for a TransformStream, whose back-pressure is its own. Its signal is heard while no chunk comes, too. */
export function transformerOf<Result>(
  feeding: Feeding<Result>,
  controller: TransformStreamDefaultController<Result>,
): StreamTransformer {
  const { signal } = feeding;
  throwIfAborted(signal);
  const feed = new Feed(feeding);
  const abort = () => controller.error(abortedError(signal));
  const cancel = () => signal?.removeEventListener("abort", abort);
  signal?.addEventListener("abort", abort);
  const enqueue = async (results: AsyncGenerator<Result>) => {
    try {
      for await (const result of results) {
        throwIfAborted(signal); // there is nowhere to enqueue to
        controller.enqueue(result);
      }
    } catch (error) {
      cancel(); // neither a flush nor a cancel follows
      throw error;
    }
  };
  return {
    transform: (chunk) => enqueue(feed.push(chunk)),
    flush: () => enqueue(feed.end()).then(cancel),
    cancel,
  };
}

async function untilStopped<T>(work: Promise<T> | T, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  try {
    return await untilAborted(Promise.resolve(work), signal);
  } catch (error) {
    throw signal.aborted ? abortedError(signal) : error;
  }
}

type Chunks = AsyncIterator<StreamChunk> | Iterator<StreamChunk>;

function iterate(source: StreamSource): Chunks {
  if (ArrayBuffer.isView(source) || hasMarks(source) || /ArrayBuffer$/.test(typeName(source)))
    return [source as StreamChunk][Symbol.iterator]();
  const given = Object(source) as AsyncIterable<StreamChunk> &
    Iterable<StreamChunk> &
    ReadableStream<StreamChunk>;
  // Before its iterator, which Safari lacks, and which would not close while a chunk is waited for.
  if (given.getReader !== undefined) return iterateReader(given);
  // A string is no list of chunks.
  const open: unknown = given[Symbol.asyncIterator] ?? (typeof source === "object" && given[Symbol.iterator]);
  const chunks: Chunks | undefined = typeof open === "function" ? open.call(given) : undefined;
  if (typeof chunks?.next === "function") return chunks;
  throw noSource(open ? `${typeName(source)}, whose iterator is none` : typeName(source));
}

function noSource(got: string, cause?: unknown): LinrecError {
  return new LinrecError(
    "invalid-argument",
    `source must be a ReadableStream that nobody else reads, an (async) iterable of chunks, or a chunk; got ${got}.`,
    { cause },
  );
}

function iterateReader(source: ReadableStream<StreamChunk>): AsyncIterator<StreamChunk> {
  let reader: ReadableStreamDefaultReader<StreamChunk>;
  try {
    reader = source.getReader();
  } catch (cause) {
    throw noSource(`${typeName(source)}, which gives no reader (${messageOf(cause)})`, cause);
  }
  return {
    next: () => reader.read() as Promise<IteratorResult<StreamChunk>>,
    return: async () => {
      await reader.cancel();
      reader.releaseLock();
      return { done: true, value: undefined };
    },
  };
}

/** Of objects, only these have x. */
function hasMarks(chunk: unknown): chunk is StreamTokens {
  if (typeof chunk !== "object" || chunk === null || !("x" in chunk)) return false;
  checkOptions("a chunk", chunk, ["x", "integrationTimesteps", "reset"]);
  return true;
}

/** Only what holds such values: a Float64Array's bytes would be taken for other numbers. */
function bytesOfChunk(chunk: StreamValues, array: string): Uint8Array {
  const name = typeName(chunk);
  if (name !== array && !/^(Uint8Array|DataView|(Shared)?ArrayBuffer)$/.test(name)) {
    throw new LinrecError(
      "wrong-dtype",
      `A chunk must be ${array === "Int32Array" ? "an" : "a"} ${array}, or the bytes of one (Uint8Array, DataView, ArrayBuffer), or { x, reset, integrationTimesteps }; got ${name}.`,
    );
  }
  return bytesOf(chunk);
}
