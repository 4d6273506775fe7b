// One campaign in a process of its own: `node child.mjs FILE LIBRARY full|short|PART`. Its last line of output is its report.
import { useGpu } from "../tools/software-gpu.mjs";

const [file, library, size] = process.argv.slice(2);
useGpu();
const { default: campaign } = await import(file);
const broken = [];
const context = {
  linrec: await import(library),
  library,
  size,
  isFull: size === "full",
  /** Notes a promise that did not hold. The first few are enough to see what it is. */
  fail: (text) => broken.push(text),
};
// Whatever nobody awaits is a fault of its own.
process.on("unhandledRejection", (error) => broken.push(`unhandled rejection: ${error}`));
const start = performance.now();
let figures = {};
try {
  figures = await campaign.run(context);
} catch (error) {
  broken.push(`the campaign stopped: ${error?.stack ?? error}`);
}
const seconds = (performance.now() - start) / 1000;
console.log(JSON.stringify({ figures, broken: broken.length, examples: broken.slice(0, 5), seconds }));
process.exit(0); // a campaign that left a thread behind has said so by now
