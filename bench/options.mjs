/** The command line. */
import { parseArgs } from "node:util";

export const usage = `node bench/run.mjs [options]
  --only S1,S3        these shapes only
  --peers tfjs,ort-web  these peers only ("none": linrec alone); of ort-web, ort-node, tfjs, jax, torch-lrnnx, torch-fft, torch-doubling, loop
  --quick             tiny shapes: does everything work? The figures mean nothing
  --budget 20         seconds of measuring for a contender and shape
  --rounds 5          rounds, in each of which every contender has its turn; slow ones skip some for the budget
  --piece 3e8         flops of a piece of a long shape, for its calm figure
  --no-extras         only the shapes: no length sweep, steps, memory, model, scheduler
  --only-extras       the other way round
  --python PATH       a Python with torch, for the peers torch-* ($PYTHON, or python3); left out without
  --node PATH         runs it all under another Node
  --out FOLDER        where results go (bench/results)`;

export function readOptions() {
  const { values } = parseArgs({
    options: {
      only: { type: "string" },
      peers: { type: "string" },
      quick: { type: "boolean", default: false },
      budget: { type: "string" },
      rounds: { type: "string" },
      piece: { type: "string" },
      "no-extras": { type: "boolean", default: false },
      "only-extras": { type: "boolean", default: false },
      python: { type: "string" },
      node: { type: "string" },
      out: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  const list = (text) => text?.split(",").map((word) => word.trim());
  const { quick } = values;
  return {
    ...values,
    only: list(values.only),
    peers: list(values.peers),
    budget: Number(values.budget ?? (quick ? 1 : 20)),
    rounds: Number(values.rounds ?? (quick ? 2 : 5)),
    turnMs: quick ? 20 : 300,
    peakMs: quick ? 20 : 200,
    calibrateMs: quick ? 100 : 1000,
    warmUpMs: quick ? 50 : 500,
    pilotMs: quick ? 50 : 300,
    /** Flops of the sample on which formulations are compared. */
    pilotFlops: quick ? 2e7 : 5e8,
    /** Of a piece of a long shape: some 5 ms (pieces.mjs). */
    pieceFlops: Number(values.piece ?? (quick ? 1e7 : 3e8)),
    extras: !values["no-extras"],
    shapes: !values["only-extras"],
  };
}
