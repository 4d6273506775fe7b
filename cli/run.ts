/** `linrec run`: a model over a file, in constant memory. */
import { stat } from "node:fs/promises";
import type { Model } from "linrec";
import { NpyFile, NpyWriter, type Values } from "./npy.js";
import { Progress } from "./progress.js";
import { open, openModel, parse, UsageError } from "./usage.js";

/** Rows shorter than this are read several at a time, so that threads have something to share. */
const GROUP_VALUES = 1 << 20;

/** What asks a process to end: no part of an output is left. */
const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

export async function run(args: string[]): Promise<number> {
  const { values, files } = parse(
    "run",
    args,
    ["MODEL.safetensors", "INPUT.npy"],
    ["output", "backend", "threads", "spec", "quiet"],
  );
  const [modelPath, inputPath] = files as [string, string];
  if (values.output === undefined) throw new UsageError("Say where the output goes: -o OUTPUT.npy.");
  const engine = await open(values);
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  for (const signal of signals) process.once(signal, interrupt);
  let input: NpyFile | undefined;
  let output: NpyWriter | undefined;
  try {
    const model = await openModel(engine, modelPath, values.spec);
    input = await NpyFile.open(inputPath, model.vocabulary === undefined ? "float32" : "int32");
    for (const path of files)
      if (await isSameFile(path, values.output))
        throw new UsageError(`${values.output} would be written over ${path}. Name another output.`);
    const job = layOut(inputPath, input, model);
    output = await NpyWriter.create(values.output, job.outShape);
    const progress = new Progress(job.batch * job.seqLen, values.quiet !== true);
    for await (const { y, tokens } of pieces(model, input, job, stop.signal)) {
      await output.write(y);
      progress.add(tokens);
    }
    await output.finish();
    const { backend } = model.explain("forward", { batch: job.batch, seqLen: job.seqLen });
    progress.finish(`[${input.shape}] -> ${values.output} [${job.outShape}], ${backend}`);
    return 0;
  } catch (error) {
    await output?.discard();
    throw error;
  } finally {
    for (const signal of signals) process.off(signal, interrupt);
    await input?.close();
    await engine.dispose();
  }
}

async function isSameFile(...paths: [string, string]): Promise<boolean> {
  const [a, b] = await Promise.all(paths.map((path) => stat(path).catch(() => undefined)));
  return a !== undefined && a.ino === b?.ino && a.dev === b.dev;
}

interface Job {
  readonly batch: number;
  readonly seqLen: number;
  readonly pooled: boolean;
  readonly outShape: readonly number[];
}

/** [tokens, features] or [batch, tokens, features]; a model of one feature also takes [tokens] and [batch, tokens]. */
function layOut(path: string, { shape, integers }: NpyFile, model: Model): Job {
  const { inputWidth, outputWidth, stages, vocabulary } = model;
  if (vocabulary !== undefined && !integers)
    throw new Error(
      `${path} holds fractions; this model reads token ids, 0 to ${vocabulary - 1}. Save integers.`,
    );
  const full =
    inputWidth === 1 && shape.length < 3 && (shape.length < 2 || shape[1] !== 1) ? [...shape, 1] : shape;
  const [seqLen = 0, features] = full.slice(-2);
  if (full.length < 2 || full.length > 3 || features !== inputWidth) {
    throw new Error(
      `${path} is [${shape}]; this model reads [tokens, ${inputWidth}] or [batch, tokens, ${inputWidth}]. Reshape or transpose it.`,
    );
  }
  const batch = full.length === 3 ? (full[0] as number) : 1;
  const pooled = stages.some(({ kind }) => kind === "pool");
  if (pooled && seqLen === 0)
    throw new Error(`${path} has no token, and this model pools: there is nothing to pool.`);
  const outShape = [...full.slice(0, -2), ...(pooled ? [] : [seqLen]), outputWidth];
  return { batch, seqLen, pooled, outShape };
}

interface Piece {
  /** What comes next in the file. */
  readonly y: Float32Array;
  readonly tokens: number;
}

/** Long rows one after another, each as a stream; short ones in groups, each with one forward. */
async function* pieces(model: Model, input: NpyFile, job: Job, signal: AbortSignal): AsyncGenerator<Piece> {
  const { batch, seqLen, pooled } = job;
  const array: Values = model.vocabulary === undefined ? Float32Array : Int32Array;
  const rowValues = seqLen * model.inputWidth;
  if (batch * rowValues === 0) return;
  const readsAhead = model.stages.some(({ kind }) => kind === "reshape"); // it cannot read a row as a stream
  const fitting = Math.floor(GROUP_VALUES / (seqLen * Math.max(model.inputWidth, model.outputWidth)));
  const group = Math.max(Number(readsAhead), fitting);
  if (group >= 1) {
    for (let row = 0; row < batch; row += group) {
      const rows = Math.min(group, batch - row);
      const x = new array(rows * rowValues);
      let at = 0;
      for await (const chunk of input.values(array, row * rowValues, x.length)) {
        x.set(chunk, at);
        at += chunk.length;
      }
      const { y } = await model.forward(x, { batch: rows, signal });
      yield { y, tokens: rows * seqLen };
    }
    return;
  }
  for (let row = 0; row < batch; row++) {
    let last: Float32Array | undefined;
    let read = 0;
    const chunks = input.values(array, row * rowValues, rowValues);
    for await (const { y, state } of model.forwardStream(chunks, { signal })) {
      const tokens = (state.tokens[0] as number) - read;
      read += tokens;
      if (pooled) last = y;
      yield { y: pooled ? new Float32Array(0) : y, tokens };
    }
    if (last) yield { y: last, tokens: 0 };
  }
}
