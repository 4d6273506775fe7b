/** Time against length, for the plot: one row, H = N = 64, everybody with the formulation that is best for each length. */
import { contenders } from "./contenders.mjs";
import { measureShape } from "./measure.mjs";

const lengths = [256, 1024, 4096, 16384, 65536, 262144];

/** One mode of linrec for one thread and one for two, and one row for each peer and number of threads. */
const shown = contenders.filter(({ id, peer }) => peer !== "linrec" || ["linrec", "linrec-2"].includes(id));

export async function measureSweep(wanted, options, peakKernels, log) {
  const results = [];
  for (const seqLen of options.quick ? lengths.slice(0, 2) : lengths) {
    const shape = { name: `L=${seqLen}`, batch: 1, seqLen, dModel: 64, dState: 64 };
    log(`  ${shape.name}`);
    const some = shown.filter((contender) => wanted.includes(contender));
    const short = {
      ...options,
      rounds: Math.min(options.rounds, 3),
      pilotFlops: Math.min(options.pilotFlops, 1e8),
    };
    results.push(await measureShape(shape, some, short, peakKernels, () => {}));
  }
  return results;
}
