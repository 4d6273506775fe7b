// docs/guarantees.md: each promise, the campaign that tries to break it, its figures, and how it was shown to bite.
import { campaigns } from "./list.mjs";

export async function toMarkdown(results) {
  const parts = [];
  for (const { name, url } of campaigns) {
    const { default: campaign } = await import(url);
    parts.push(section(name, campaign, results.campaigns[name]));
  }
  return `# Guarantees

Each promise below has a campaign that tries to break it. \`npm run campaigns\` runs them all (hours), \`npm run campaigns -- NAME\`
one, \`-- --short\` a small part of each. A campaign is trusted as far as it finds bugs: each is also run on copies of the library
with a bug planted in the sources, and must find it. This page is written by \`campaigns/run.mjs\` from what it measured.

${parts.join("\n")}
## The tests notice when a line is wrong.

One thing is changed in one place of the sources (Stryker's operators on \`src\` and \`workers\`; for kernels others: a
conjugate, a carry left out, one row too few, …), and the tests must fail; again for every such change. Equivalent ones are
named with their reason in \`campaigns/mutants/equivalent.mjs\`.

${mutants(results.mutants)}
## The tests come everywhere.

Lines and functions that run in the tests in Node; worker threads included, by what Node writes down of each as it ends.

${coverage(results.coverage)}
${tested}`;
}

/** What tests show. */
const tested = `## No kernel writes outside of its place.

In a checked build there are words around every region of the CPU engine's memory, and around each part of a tile's working memory,
that nobody may write to, and that are NaN to whoever reads them. They are looked at after every call of a kernel, and so is what
surrounds that call's outputs: on the calling thread, and in workers with memories of their own. (Of workers that share memory the words are looked at
when a forward is over.) The golden cases, the exact ones (all tails, ragged rows, cuts), resets, timesteps and \`every\` run in it:
[test/canaries.slow.test.ts](../test/canaries.slow.test.ts), \`npm run test:slow -- test/canaries.slow.test.ts\`.

Planted, and found by the same file: seven bugs of kernels that write a row or a token too many, and a store just before and just after a region.

## What is installed is what was built from these sources, and little else.

| promise | looked at by | |
|---|---|---|
| One runtime dependency, Comlink, bundled: nothing is installed along, and the library imports only what Node has and, if it is there, \`webgpu\` | [test/package.node.test.ts](../test/package.node.test.ts) | \`npx vitest run test/package.node.test.ts --project node\` |
| No scripts run at installation: not the package's, nor any of what a clone installs, all of it pinned by its hash | the same | the same |
| The kernels, and every other file of \`dist/\`, are the same to the byte when built again in another folder from nothing | the same | the same |
| The package has these files and no others, and says what it bundles (CycloneDX, \`dist/sbom.cdx.json\`) | the same, and \`prepack\` | \`npm pack\` |
| What is installed was signed by the registry's keys; of a registry without keys that is said | [tools/signatures.mjs](../tools/signatures.mjs) | \`npm run signatures\` |

CI (\`.ci/run\`) runs all of it, on a fresh clone.
`;

const mutantKinds = { kernels: "kernels of the CPU", shaders: "kernels of the GPU", src: "src and workers" };

function mutants(records = {}) {
  const rows = Object.entries(mutantKinds).map(([kind, says]) => {
    const command = `\`npm run mutants -- ${kind}${every(records[kind])} --write\``;
    const record = records[kind];
    if (!record) return `| ${says} | not run yet | | | | | ${command} |`;
    const { all, every: nth = 1, killed, alive, equivalent, date } = record;
    const tried = killed + alive;
    const sample = nth > 1 ? ` (each ${nth}th)` : "";
    const share = tried > 0 ? `${((100 * killed) / tried).toFixed(1)} %${margin(killed, tried, all)}` : "";
    return `| ${says} | ${tried} of ${all}${sample} | ${killed} | ${alive} | ${share} | ${equivalent} | ${command}, ${date} |`;
  });
  return `| mutants of | tried | killed | alive | killed | equivalent | |
|---|---|---|---|---|---|---|
${rows.join("\n")}
`;
}

const every = (record) => (record?.every > 1 ? ` --every ${record.every} --from ${record.from}` : "");

/** Of a sample: the 95 % interval of the share (Wilson's). */
function margin(killed, tried, all) {
  if (tried >= all / 2) return "";
  const [share, z] = [killed / tried, 1.96];
  const middle = share + z ** 2 / (2 * tried);
  const half = z * Math.sqrt((share * (1 - share)) / tried + (z / (2 * tried)) ** 2);
  const [low, high] = [middle - half, middle + half].map((end) => (100 * end) / (1 + z ** 2 / tried));
  return ` (${low.toFixed(1)} to ${high.toFixed(1)} with 95 % confidence)`;
}

function coverage(record) {
  const command = "`npm run coverage`";
  if (!record) return `Not run yet: ${command}\n`;
  const figure = ([run, all]) => `${run} of ${all} (${((100 * run) / all).toFixed(1)} %)`;
  const rows = Object.entries(record.folders)
    .filter(([, { lines }]) => lines[1] > 0)
    .map(([folder, { lines, functions }]) => `| \`${folder}\` | ${figure(lines)} | ${figure(functions)} |`);
  return `${record.machine}, ${record.date}. ${command}

| folder | lines | functions |
|---|---|---|
${rows.join("\n")}
`;
}

function section(name, { promise, how }, record) {
  const title = `## ${promise}\n\n${how}\n`;
  if (!record?.figures) return `${title}\nNot run yet: \`npm run campaigns -- ${name}\`\n`;
  const verdict = record.broken === 0 ? "Holds" : `**Broken ${record.broken} times**`;
  // Absolute values are written with the sign that parts cells.
  const cell = (text) => String(text).replaceAll("|", "\\|");
  const figures = Object.entries(record.figures).map(
    ([label, value]) => `| ${cell(label)} | ${cell(value)} |`,
  );
  const plants = (record.plants ?? []).map(
    ({ says, found, how }) => `- ${says}: ${found ? `found (“${how}”)` : "**not found**"}`,
  );
  return `${title}
${verdict}; ${record.seconds.toFixed(0)} s on ${record.machine}, ${record.date}. \`npm run campaigns -- ${name}\`

| figure | |
|---|---|
${figures.join("\n")}

Planted bugs:
${plants.join("\n")}
`;
}
