/** One digit, one pixel a step, and what the network thinks of it so far. */
import { setTimeout as sleep } from "node:timers/promises";
import { CLASSES, classesOf, digits, PIXELS, sameBits } from "./data.mjs";

/** A line shows two rows of the image, because a character cell has room for one pixel above another. */
const PIXELS_A_LINE = 56;
const LEADING = 3;
const BAR_WIDTH = 11;

/**
 * Feeds digit `index` to the model as it would come from a sensor, and prints a line for every two rows of pixels.
 * Returns the last answer, and whether its probabilities are what forward gives for the whole digit, bit for bit.
 * @param {import("linrec").Model} model
 * @param {"wasm" | "reference"} cpu what forward runs on
 */
export async function streamDigit(model, index, cpu) {
  const pixels = digits.pixels.subarray(index * PIXELS, (index + 1) * PIXELS);
  const cache = model.allocateInferenceCache();
  const logProbs = new Float32Array(CLASSES);
  let msInSteps = 0;
  for (let read = 0; read < PIXELS; read += PIXELS_A_LINE) {
    const line = pixels.subarray(read, read + PIXELS_A_LINE);
    const start = performance.now();
    for (let i = 0; i < line.length; i++) model.stepSync(line.subarray(i, i + 1), cache, { out: logProbs });
    msInSteps += performance.now() - start;
    // The network averages over the steps so far, so at every pixel it has an answer.
    console.log(`  ${picture(line)}  ${String(read + line.length).padStart(3)} pixels  ${leading(logProbs)}`);
    if (process.stdout.isTTY) await sleep(120); // for people to follow
  }
  const { y } = await model.forward(pixels, { backend: cpu });
  return {
    answer: classesOf(logProbs)[0],
    same: sameBits(y, logProbs),
    microsecondsPerStep: (1000 * msInSteps) / PIXELS,
  };
}

/** Two rows of 28 pixels as one row of half blocks. */
function picture(rows) {
  const width = rows.length / 2;
  const dark = (i) => rows[i] > 0.4;
  return Array.from({ length: width }, (_, i) => {
    if (dark(i)) return dark(i + width) ? "█" : "▀";
    return dark(i + width) ? "▄" : " ";
  }).join("");
}

/** The most probable classes, each with a bar and its probability. */
function leading(logProbs) {
  return Array.from(logProbs, (value, digit) => ({ digit, probability: Math.exp(value) }))
    .sort((a, b) => b.probability - a.probability)
    .slice(0, LEADING)
    .map(({ digit, probability }) => {
      const percent = `${Math.round(100 * probability)} %`.padStart(5);
      return `${digit} ${bar(probability)} ${percent}`;
    })
    .join("  ");
}

/** 0..1 as a bar, to an eighth of a character. */
function bar(part) {
  const eighths = Math.round(8 * BAR_WIDTH * part);
  const rest = " ▏▎▍▌▋▊▉"[eighths % 8].trim();
  return ("█".repeat(Math.floor(eighths / 8)) + rest).padEnd(BAR_WIDTH);
}
