/** Measures one shape: every contender checked, its best formulation chosen, then all of them in turns. */
import { totalmem } from "node:os";
import { isCalm } from "./calm.mjs";
import { cut } from "./pieces.mjs";
import { ContenderProcess, withContender } from "./process.mjs";
import { referenceOf, TOLERANCE } from "./reference.mjs";
import { checkShape, flopsOf, partOf, relativeError } from "./shapes.mjs";
import { leastProbe, median, summarize, timesOf } from "./stats.mjs";

/** Together, contenders may hold this part of the machine's memory; those who would exceed it start anew each round. */
const MEMORY_SHARE = 0.6;
/** Threads of the last contender stop spinning in this time, and the clock of the CPU recovers. */
const PAUSE_MS = 30;

const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));

/**
 * @param {object} shape
 * @param {object[]} contenders
 * @param {{ relaxed: Uint8Array, baseline: Uint8Array }} peakKernels
 * @param {(line: string) => void} log
 * @returns {Promise<object>} { shape, flops, peaks, rows: [{ id, median, ..., error } or { id, skipped }] }
 */
export async function measureShape(shape, contenders, options, peakKernels, log) {
  const expected = await referenceOf(checkShape(shape));
  const rows = [];
  for (const contender of contenders) {
    try {
      const row = await withContender(contender, (child, opened) =>
        choose(child, opened, shape, expected, options),
      );
      rows.push({ ...row, contender });
      for (const { name, skipped } of row.formulations)
        if (skipped) log(`    ${contender.label}: ${name}: ${skipped}`);
    } catch (error) {
      rows.push({ contender, skipped: error.message });
      log(`    ${contender.label} is left out: ${error.message}`);
    }
  }
  const peaks = await takeTurns(
    shape,
    rows.filter((row) => !row.skipped),
    options,
    peakKernels,
    log,
  );
  return {
    shape,
    flops: flopsOf(shape),
    peaks,
    rows: rows.map((row) => finish(row, shape, peaks, options)),
  };
}

/** Checks all formulations and takes the fastest on a part of the sequence. */
async function choose(child, { versions, notes }, shape, expected, options) {
  const small = checkShape(shape);
  const pilot = partOf(shape, options.pilotFlops);
  const formulations = await child.ask("formulations", shape);
  const tried = [];
  for (const formulation of formulations) {
    const { name, bytes, skipped } = formulation;
    if (skipped) {
      tried.push({ name, bytes, skipped });
      continue;
    }
    try {
      const error = await child.ask("check", {
        shape: small,
        formulation,
        expected,
      });
      if (!(error <= TOLERANCE)) throw new Error(`wrong: its error is ${error.toExponential(1)}`);
      const only = formulations.length === 1;
      const { ms } = only
        ? {}
        : await child.ask("prepare", { shape: pilot, formulation, warmUpMs: options.pilotMs }, 300);
      tried.push({ name, bytes, error, msOfPilot: ms, formulation });
    } catch (error) {
      tried.push({ name, bytes, skipped: error.message });
      if (/its process ended|no answer/.test(error.message)) throw new Error(`${name}: ${error.message}`);
    }
  }
  const right = tried.filter(({ formulation }) => formulation);
  if (right.length === 0) throw new Error(tried.map(({ name, skipped }) => `${name}: ${skipped}`).join("; "));
  const best = right.reduce((a, b) => (b.msOfPilot < a.msOfPilot ? b : a));
  return {
    versions,
    notes,
    pilotTokens: pilot.batch * pilot.seqLen,
    formulations: tried.map(({ formulation, ...rest }) => rest),
    formulation: best.formulation,
    error: best.error,
    bytes: best.bytes,
    runs: [],
    pieces: [],
  };
}

/** Rounds in which everybody has a turn, so that whatever else the machine does falls on all alike. */
async function takeTurns(shape, rows, options, peakKernels, log) {
  const peaks = { fma1: [], fma2: [], mulAdd1: [], mulAdd2: [] };
  let room = MEMORY_SHARE * totalmem();
  for (const row of rows) {
    room -= row.bytes;
    row.cold = room < 0; // does not stay in memory between its turns
  }
  const alive = [];
  try {
    for (let round = 0; round < options.rounds; round++) {
      for (const row of rows) {
        if (row.skipped || !isDue(row, round, options)) continue;
        try {
          await turn(row, shape, options, peakKernels, alive);
          if (round === 0)
            log(
              `    ${row.contender.label}: ${median(timesOf(row.runs)).toPrecision(4)} ms (${row.formulation.name})`,
            );
          if (row.contender.peer === "linrec") await takePeaks(row, options, peakKernels, peaks);
        } catch (error) {
          row.skipped = `at full size: ${error.message}`;
          log(`    ${row.contender.label} is left out ${row.skipped}`);
        }
        if (row.cold) row.child?.end();
        await pause();
      }
    }
  } finally {
    for (const child of alive) child.end();
  }
  return Object.fromEntries(
    Object.entries(peaks).map(([name, values]) => [name, values.length ? median(values) : undefined]),
  );
}

async function turn(row, shape, options, { baseline: probeKernel }, alive) {
  if (!row.child || row.cold) {
    row.child = new ContenderProcess();
    alive.push(row.child);
    await row.child.ask("open", row.contender);
    const { formulation } = row;
    const { sample } = await row.child.ask("prepare", { shape, formulation, warmUpMs: options.warmUpMs });
    row.sample = sample;
  }
  const { threads } = row.contender;
  const stretches = { ms: options.turnMs, probeKernel, threads };
  const runs = await row.child.ask("turn", stretches);
  const part = cut(shape, options.pieceFlops);
  const pieces = part.count > 1 ? await row.child.ask("pieces", { ...stretches, ...part }) : [];
  options.calm.best = Math.min(options.calm.best, leastProbe(runs), leastProbe(pieces));
  row.runs.push(...runs);
  row.pieces.push(...pieces);
  row.turns = (row.turns ?? 0) + 1;
  row.peakRss = (await row.child.ask("memory", {})).peakRss;
}

/** Whether a slow contender has a turn in this round: as many as the budget has room for, spread over the rounds. */
function isDue(row, round, { rounds, budget, turnMs }) {
  if (row.runs.length === 0) return true;
  const seconds = Math.max(turnMs, median(timesOf(row.runs))) / 1000;
  const turns = Math.min(rounds, Math.max(1, Math.floor(budget / seconds)));
  return (
    Math.floor(((round + 1) * turns) / rounds) > Math.floor((round * turns) / rounds) && row.turns < turns
  );
}

/** In a process of linrec's, right after it: the same V8, the same clock. */
async function takePeaks({ child, contender }, { peakMs }, kernels, peaks) {
  const kind = contender.options.simd === "baseline" ? "baseline" : "relaxed";
  if (!["linrec", "linrec-2", "linrec-baseline", "linrec-baseline-2"].includes(contender.id)) return;
  const { threads } = contender;
  const rate = await child.ask("peak", { bytes: kernels[kind], threads, ms: peakMs });
  peaks[`${kind === "relaxed" ? "fma" : "mulAdd"}${threads}`].push(rate);
}

function finish(
  { contender, child, runs, pieces, sample, cold, turns, bytes, ...row },
  shape,
  peaks,
  { calm: { best }, pieceFlops },
) {
  const { id, label, peer, threads } = contender;
  if (row.skipped || !runs?.length)
    return { id, label, peer, threads, skipped: row.skipped ?? "it had no turn" };
  const peak = peakFor(contender, peaks);
  const rated = (times) => {
    const summary = summarize(times);
    const gflops = flopsOf(shape) / summary.median / 1e6;
    return { ...summary, gflops, share: peak ? gflops / peak : undefined };
  };
  const calmOf = (runs) => timesOf(runs.filter((run) => isCalm(run, best)));
  const inPieces = pieces.length > 0 ? cut(shape, pieceFlops).count : undefined;
  const calm = inPieces ? calmOf(pieces).map((ms) => inPieces * ms) : calmOf(runs);
  return {
    id,
    label,
    peer,
    threads,
    ...rated(timesOf(runs)),
    calm: calm.length > 0 ? { ...rated(calm), pieces: inPieces } : undefined,
    ...row,
    sample,
    formulation: row.formulation.name,
  };
}

/** Baseline builds are held against mul + add, everybody else against the best that 128 bits can do here. */
function peakFor({ id, threads }, { fma1, fma2, mulAdd1, mulAdd2 }) {
  const [fma, mulAdd] = threads > 1 ? [fma2, mulAdd2] : [fma1, mulAdd1];
  return id.includes("baseline") ? mulAdd : (fma ?? mulAdd);
}

/** How far the results of all contenders at full size are from linrec's, at some places. */
export function compareSamples(rows) {
  const ours = rows.find(({ sample }) => sample)?.sample;
  for (const row of rows) {
    if (row.sample) row.differenceAtFullSize = relativeError(row.sample, ours);
    delete row.sample;
  }
}
