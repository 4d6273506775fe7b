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

${parts.join("\n")}`;
}

function section(name, { promise, how }, record) {
  const title = `## ${promise}\n\n${how}\n`;
  if (!record?.figures) return `${title}\nNot run yet: \`npm run campaigns -- ${name}\`\n`;
  const verdict = record.broken === 0 ? "Holds" : `**Broken ${record.broken} times**`;
  const figures = Object.entries(record.figures).map(([label, value]) => `| ${label} | ${value} |`);
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
