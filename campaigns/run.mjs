// `npm run campaigns`: tries to break each promise of the library, and shows that each try could have succeeded by trying
// it on a copy of the library with a bug planted. See docs/guarantees.md, which this writes.
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { runInProcess } from "./inProcess.mjs";
import { campaigns } from "./list.mjs";
import { plantBug } from "./plant.mjs";
import { record } from "./results.mjs";

const usage = `Usage: npm run campaigns -- [NAME ...] [--short] [--no-plants] [--plants-only]
  NAME          only these: ${campaigns.map(({ name }) => name).join(", ")}
  --short       a small part of each campaign, seconds instead of minutes; writes nothing
  --no-plants   do not try the campaigns on libraries with planted bugs
  --plants-only nothing else`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    short: { type: "boolean", default: false },
    "no-plants": { type: "boolean", default: false },
    "plants-only": { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (options.help) {
  console.log(usage);
  process.exit(0);
}
const unknown = positionals.filter((name) => !campaigns.some((campaign) => campaign.name === name));
if (unknown.length > 0) {
  console.error(`No campaign is called ${unknown.join(", ")}.\n${usage}`);
  process.exit(2);
}

const library = new URL("../dist/index.js", import.meta.url);
if (!existsSync(library)) {
  console.error("dist/index.js is missing: npm run build");
  process.exit(2);
}
let failures = 0;

for (const { name, url } of campaigns) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
  const { default: campaign } = await import(url);
  const measured = {};
  if (!options["plants-only"]) {
    const report = await runInProcess(url, library.href, options.short ? "short" : "full");
    Object.assign(measured, report);
    show(name, report);
    if (report.broken > 0) failures++;
  }
  if (!options["no-plants"]) {
    measured.plants = [];
    for (const bug of campaign.plants) {
      const { library: planted, dispose } = plantBug(bug);
      const { broken, examples } = await runInProcess(url, planted, "short");
      dispose();
      measured.plants.push({
        says: bug.says,
        found: broken > 0,
        how: examples[0]?.split("\n")[0].slice(0, 160) ?? "",
      });
      console.log(`  planted: ${bug.says}: ${broken > 0 ? `found (${examples[0]})` : "NOT FOUND"}`);
      if (broken === 0) failures++;
    }
  }
  if (!options.short) {
    await record((results, taken) => {
      const when = options["plants-only"] ? {} : taken;
      results.campaigns[name] = { ...results.campaigns[name], ...measured, ...when };
    });
  }
}
process.exitCode = failures > 0 ? 1 : 0;

function show(name, { figures, broken, examples, seconds }) {
  console.log(`${broken > 0 ? "BROKEN" : "holds "} ${name} (${seconds.toFixed(0)} s)`);
  for (const [label, value] of Object.entries(figures)) console.log(`  ${label}: ${value}`);
  for (const example of examples) console.log(`  ! ${example}`);
}
