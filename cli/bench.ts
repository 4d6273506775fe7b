/** `linrec bench`: what the scheduler predicts for this machine, and what it takes. `npm run bench` of the repository has the rest. */
import { type Engine, initLru, type Lru } from "linrec";
import { open, parse, table } from "./usage.js";

/** [batch, seqLen, dModel = dState] */
const shapes = [
  [1, 1, 64],
  [1, 1024, 64],
  [1, 16384, 64],
  [8, 2048, 128],
  [1, 65536, 16],
] as const;

/** Of each figure, the fastest of at least three runs, and of about so long: what else the machine does is not its time. */
const MEASURE_MS = 150;

export async function bench(args: string[]): Promise<number> {
  const { values } = parse("bench", args, [], ["backend", "threads"]);
  const engine = await open(values);
  try {
    for (const [name, { available, reason }] of Object.entries(engine.backends))
      if (name !== "reference") console.log(`${name.padEnd(7)} ${available ? "" : "not here: "}${reason}`);
    const rows = [["batch x tokens, width", "backend", "predicted", "fastest", "tokens/s"]];
    for (const shape of shapes) rows.push(await measure(engine, shape));
    console.log(`\n${table(rows)}`);
    return 0;
  } finally {
    await engine.dispose();
  }
}

async function measure(
  engine: Engine,
  [batch, seqLen, width]: readonly [number, number, number],
): Promise<string[]> {
  const lru: Lru = await engine.lru(
    initLru({ dModel: width, dState: width, rMin: 0.9, rMax: 0.999, seed: 1 }),
  );
  const x = Float32Array.from({ length: batch * seqLen * width }, (_, i) => Math.sin(i));
  const { backend, threads, ms } = lru.explain("forward", { batch, seqLen });
  let fastest = Number.POSITIVE_INFINITY;
  await lru.forward(x, { batch });
  for (let runs = 0, start = performance.now(); runs < 3 || performance.now() - start < MEASURE_MS; runs++) {
    const from = performance.now();
    await lru.forward(x, { batch });
    fastest = Math.min(fastest, performance.now() - from);
  }
  lru.dispose();
  const where =
    backend === "wasm" ? (threads > 0 ? `wasm, ${threads} threads` : "wasm, calling thread") : backend;
  const perSecond = Math.round((1000 * batch * seqLen) / fastest).toLocaleString("en");
  return [`${batch} x ${seqLen}, ${width}`, where, showMs(ms), showMs(fastest), perSecond];
}

function showMs(ms: number): string {
  return `${ms < 1000 ? ms.toPrecision(3) : Math.round(ms)} ms`;
}
