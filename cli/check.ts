/** `linrec check`: every backend of this machine against the float64 reference. */
import { open, parse, table } from "./usage.js";

export async function check(args: string[]): Promise<number> {
  const { values } = parse("check", args, [], ["backend", "threads"]);
  const engine = await open(values);
  try {
    for (const [name, { available, reason }] of Object.entries(engine.backends))
      console.log(`${name.padEnd(10)} ${available ? "" : "not here: "}${reason}`);
    const { passed, results } = await engine.selfTest();
    const rows = results.map(({ backend, threads, name, error, limit, passed: ok }) => {
      const where = backend === "wasm" && threads > 0 ? `wasm, ${threads} threads` : backend;
      return [name, where, error.toExponential(1), limit.toExponential(1), ok ? "ok" : "WRONG"];
    });
    console.log(`\n${table([["case", "backend", "error", "limit", ""], ...rows])}\n`);
    console.log(
      passed
        ? "All right."
        : "A backend is wrong: name another with --backend, and please report this table.",
    );
    return passed ? 0 : 1;
  } finally {
    await engine.dispose();
  }
}
