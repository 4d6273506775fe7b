/** From prompts to tokens, one after the other: what `Model.generate` does. */
import { LinrecError } from "../errors.js";
import { uniforms } from "../init.js";
import { breathing } from "../runtime/macrotask.js";
import { throwIfAborted } from "../runtime/signal.js";
import { checkCount, checkOptions, show } from "../validate.js";
import type { ModelCache } from "./cache.js";
import type { ForwardOptions, ForwardResult } from "./forwardOptions.js";
import { draw } from "./sample.js";

export interface GenerateOptions
  extends Pick<ForwardOptions<ModelCache>, "batch" | "lengths" | "state" | "signal"> {
  /** The most tokens that each stream gets. Default 256. */
  readonly maxTokens?: number | undefined;
  /** 0 (the default): the likeliest token. Above: drawn from softmax(logits / temperature). */
  readonly temperature?: number | undefined;
  /** Draws from this many likeliest tokens. All if left out. */
  readonly topK?: number | undefined;
  /** Draws from the fewest likeliest tokens, of those of `topK`, that have this probability together. Default 1: all. */
  readonly topP?: number | undefined;
  /** Stream r draws from seed + r, whatever the others do: by itself, with that seed, it gives the same. Default 0. */
  readonly seed?: number | undefined;
  /** Ids that end a stream, as its last token: one list for all streams, or a list of lists with one for each. */
  readonly stop?: readonly number[] | readonly (readonly number[])[] | undefined;
  /** Only ids below this are given: for a vocabulary whose last rows are padding. All if left out. */
  readonly vocabulary?: number | undefined;
}

/** What is needed of a model. */
export interface LanguageModel {
  forward(x: Int32Array, options: ForwardOptions<ModelCache>): Promise<ForwardResult<ModelCache>>;
  step(xt: Int32Array, cache: ModelCache): Promise<Float32Array>;
}

/** Prompts whose ids, shape and state have been checked. */
export interface Prompts {
  /** [batch, seqLen] */
  readonly ids: Int32Array;
  readonly batch: number;
  readonly seqLen: number;
  /** [batch] */
  readonly lengths: Int32Array;
  /** A copy: the caller may step theirs before the first token is asked for. */
  readonly state: ModelCache | undefined;
}

const optionNames = [
  "batch",
  "lengths",
  "state",
  "signal",
  "maxTokens",
  "temperature",
  "topK",
  "topP",
  "seed",
  "stop",
  "vocabulary",
];

/** Every so many tokens, no prompt gives an output: the most that an int32 holds. */
const NEVER = 2 ** 31 - 1;

export function checkGenerateOptions(options: unknown): void {
  checkOptions("generate's options", options, optionNames);
}

/**
 * Checks what `forward` does not, then starts. Each step gives [batch] ids, -1 for a stream that has ended.
 * @param width logits of a token
 */
export function generate(
  model: LanguageModel,
  width: number,
  prompts: Prompts,
  options: GenerateOptions,
): AsyncGenerator<Int32Array, void> {
  const { batch, lengths } = prompts;
  const { temperature = 0, topK = width, topP = 1, seed = 0, maxTokens = 256, vocabulary = width } = options;
  const { stop = [], signal } = options;
  const empty = lengths.indexOf(0);
  if (empty >= 0) throw invalid(`row ${empty} has no token; a prompt has at least one`);
  if (!(typeof temperature === "number" && temperature >= 0 && temperature < Infinity))
    throw invalid(`temperature must be a number from 0 on; got ${show(temperature)}`);
  if (!(typeof topP === "number" && topP > 0 && topP <= 1))
    throw invalid(`topP must be a number above 0 and at most 1; got ${show(topP)}`);
  checkCount("topK", topK, 1);
  checkCount("seed", seed, 0);
  checkCount("maxTokens", maxTokens, 0);
  checkCount("vocabulary", vocabulary, 1);
  if (vocabulary > width) throw invalid(`vocabulary is ${vocabulary}; the model has ${width} logits`);
  const stops = stopLists(stop, batch, width);
  const streams = stops.map((ends, row) => {
    const uniform = uniforms(seed + row);
    return (logits: Float32Array) => {
      const from = row * width;
      const id = draw(logits.subarray(from, from + vocabulary), { temperature, topK, topP }, uniform);
      return { id, over: ends.includes(id) };
    };
  });
  // They are read later, when their owner may have gone on.
  return run(model, { ...prompts, ids: prompts.ids.slice() }, signal, streams, maxTokens);
}

function stopLists(stop: unknown, batch: number, width: number): readonly (readonly number[])[] {
  const list: readonly unknown[] = Array.isArray(stop) ? stop : [stop];
  const lists = list.some(Array.isArray) ? list : new Array<unknown>(batch).fill(list);
  const isId = (id: unknown) => Number.isInteger(id) && (id as number) >= 0 && (id as number) < width;
  if (lists.length !== batch || !lists.every((ids) => Array.isArray(ids) && ids.every(isId))) {
    throw invalid(
      `stop must be a list of ids from 0 to ${width - 1}, or such a list for each of ${batch} rows`,
    );
  }
  return (lists as number[][]).map((ids) => [...ids]); // read at each token, as long as it goes on
}

async function* run(
  model: LanguageModel,
  prompts: Prompts,
  signal: AbortSignal | undefined,
  streams: readonly ((logits: Float32Array) => { id: number; over: boolean })[],
  maxTokens: number,
): AsyncGenerator<Int32Array, void> {
  if (maxTokens === 0 || streams.length === 0) return;
  const { cache, logits: last } = await read(model, prompts, signal);
  const over = streams.map(() => false);
  const xt = new Int32Array(streams.length);
  const breathe = breathing();
  for (let n = 1, logits = last; ; n++) {
    const ids = xt.map((_, row) => {
      if (over[row]) return -1;
      const next = (streams[row] as (typeof streams)[number])(logits);
      over[row] = next.over;
      xt[row] = next.id;
      return next.id;
    });
    yield ids;
    if (n === maxTokens || over.every(Boolean)) return;
    await breathe();
    throwIfAborted(signal);
    // A stream that has ended reads its last token again: nobody sees what comes of it.
    logits = await model.step(xt, cache);
  }
}

/**
 * Reads all of each prompt but its last token without an output, then the last ones as a step: the head runs once for each
 * row. Gives the logits [batch, width].
 */
async function read(
  model: LanguageModel,
  { ids, batch, seqLen, lengths, state }: Prompts,
  signal: AbortSignal | undefined,
): Promise<{ cache: ModelCache; logits: Float32Array }> {
  const rest = lengths.map((length) => length - 1);
  const { state: cache } = await model.forward(ids, { batch, state, lengths: rest, every: NEVER, signal });
  const last = rest.map((before, row) => ids[row * seqLen + before] as number);
  return { cache, logits: await model.step(last, cache) };
}

function invalid(fault: string): LinrecError {
  return new LinrecError("invalid-argument", `generate: ${fault}.`);
}
