/** The short form of the campaigns that take seconds; and every planted bug must still find its place in the sources. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { campaigns } from "../campaigns/list.mjs";

const library = new URL("../dist/index.js", import.meta.url);
const child = fileURLToPath(new URL("../campaigns/child.mjs", import.meta.url));

describe.each(campaigns)("$name", async ({ url }) => {
  const { default: campaign } = await import(url);

  test.each(campaign.plants as { says: string; file: string; find: string }[])(
    "a bug can be planted: $says",
    ({ file, find }) => {
      const source = readFileSync(new URL(`../${file}`, import.meta.url), "utf8");
      expect(source.split(find)).toHaveLength(2);
    },
  );
});

test.each([
  "crowd",
  "arguments",
  "checkpoints",
  "not-finite",
  "same-bits",
  "lifecycle",
  "interleavings",
  "failing-gpu",
])("%s holds", (name) => {
  expect(existsSync(library), "dist/index.js is missing: npm run build").toBe(true);
  const { url } = campaigns.find((campaign) => campaign.name === name) ?? {};
  const args = ["--expose-gc", child, String(url), library.href, "short"];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  const report = JSON.parse(stdout.trimEnd().split("\n").at(-1) || "{}");
  expect(report, stderr).toMatchObject({ broken: 0, examples: [] });
});
