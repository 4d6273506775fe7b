/** What is measured beside the table of shapes: linrec alone, each in a process of its own. */
import { ContenderProcess } from "../process.mjs";

const plans = (quick) => [
  {
    name: "linear",
    title: "4 times the length",
    args: [
      { threads: 0, quick },
      { threads: 2, quick },
    ],
  },
  { name: "steps", title: "Steps", args: [{ quick }] },
  { name: "stack", title: "A stack of four layers", args: [{ quick }] },
  { name: "auto", title: "The scheduler", args: [{ quick }] },
];

/** { linear, steps, stack, auto }: what each measured, or { skipped } */
export async function measureExtras({ quick, calm }, peakKernels, log) {
  const results = {};
  for (const { name, title, args } of plans(quick)) {
    results[name] = [];
    for (const arg of args) {
      const child = new ContenderProcess();
      try {
        const result = await child.ask(
          "extra",
          { module: `./extras/${name}.mjs`, args: { ...arg, peakKernels, best: calm.best } },
          1800,
        );
        results[name].push(result);
        for (const line of result.lines) log(`    ${title}: ${line}`);
      } catch (error) {
        results[name].push({ skipped: error.message, lines: [`left out: ${error.message}`] });
        log(`    ${title} is left out: ${error.message}`);
      } finally {
        child.end();
      }
    }
  }
  return results;
}
