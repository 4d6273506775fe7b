/**
 * One contender in a process of its own, so that nobody's threads, heap or garbage weigh on another. It obeys messages
 * { id, command, args } from contender.mjs and answers { id, result } or { id, error }.
 */
import { Probe } from "./calm.mjs";
import { peakRss } from "./memory.mjs";
import { measurePeak } from "./peak.mjs";
import { relativeError, sampleOf } from "./shapes.mjs";

/** A run that takes longer has warmed up by itself. */
const MOST_WARM_UP_MS = 3000;
/** While the others had their turns the system may have put all threads on one core: it takes some tens of ms to part them. */
const WAKE_MS = 60;

let contender;
let job;
let oneRun = 0;
let probe;
let runPiece;
let walked = false;

/** ms of a run: its own word where it happens in a process of its own. */
async function timed(job) {
  const before = performance.now();
  const own = await job.run();
  return own ?? performance.now() - before;
}

async function wake(job) {
  for (const end = performance.now() + WAKE_MS; performance.now() < end; ) await job.run();
}

const commands = {
  /** Loads it: versions, or throws why it cannot run here. */
  async open({ module, options }) {
    contender = await (await import(module)).open(options);
    return { versions: contender.versions, notes: contender.notes };
  },

  /** [{ name, bytes, ... }]: the ways to compute this shape that it has, and about how much memory each takes. */
  formulations: (shape) => contender.formulations(shape),

  /** The error of a formulation against the float64 reference, on a small shape. */
  async check({ shape, formulation, expected }) {
    const job = await contender.prepare(shape, formulation);
    try {
      await job.run();
      return relativeError(await job.read(), expected);
    } finally {
      await job.dispose();
    }
  },

  /** Makes everything ready, and runs for about `warmUpMs`, at least twice: kernels are optimised while they run. */
  async prepare({ shape, formulation, warmUpMs }) {
    await job?.dispose();
    job = await contender.prepare(shape, formulation);
    runPiece = undefined;
    walked = false;
    const start = performance.now();
    let best = Number.POSITIVE_INFINITY;
    for (let runs = 0; runs < 2 || performance.now() - start < warmUpMs; runs++) {
      oneRun = await timed(job);
      best = Math.min(best, oneRun);
      if (oneRun > MOST_WARM_UP_MS) break; // it will not change much
    }
    return { ms: best, sample: sampleOf(await job.read()) };
  },

  /** Runs for about `ms`, at least one, as Probe.around gives them: see calm.mjs. */
  async turn({ ms, probeKernel, threads }) {
    probe ??= await Probe.open(probeKernel, threads);
    if (oneRun < WAKE_MS) await wake(job);
    const runs = await probe.around(() => timed(job), ms, oneRun < ms);
    oneRun = runs.at(-1).ms;
    return runs;
  },

  /** The same of the shape's pieces (pieces.mjs), if the contender has them. All of them together gave the same numbers. */
  async pieces({ tokens, count, ms, probeKernel, threads }) {
    runPiece ??= job.pieces?.(tokens);
    if (!runPiece) return [];
    if (!walked) {
      const y = await job.read();
      const whole = sampleOf(y);
      y.fill(0);
      for (let i = 0; i < count; i++) await runPiece();
      if (relativeError(sampleOf(y), whole) !== 0) throw new Error("its pieces are not the whole");
      walked = true;
    }
    probe ??= await Probe.open(probeKernel, threads);
    const piece = { run: runPiece };
    await wake(piece);
    return probe.around(() => timed(piece), ms, true);
  },

  /** GFLOP/s of `threads` threads of this process. */
  peak: ({ bytes, threads, ms }) => measurePeak(bytes, threads, ms),

  /** In bytes. */
  memory: () => ({ rss: process.memoryUsage.rss(), peakRss: peakRss(contender.pid) }),

  /** One of the measurements in extras/. */
  async extra({ module, args }) {
    return (await import(module)).measure(args);
  },
};

process.on("message", async ({ id, command, args }) => {
  try {
    process.send({ id, result: await commands[command](args) });
  } catch (error) {
    process.send({ id, error: String(error?.message ?? error) });
  }
});
process.on("disconnect", () => process.exit());
