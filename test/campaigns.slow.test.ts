/**
 * The short form of the campaigns that take seconds; and every planted bug, and every excused mutant, must still find its
 * place in the sources.
 */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { runInProcess } from "../campaigns/inProcess.mjs";
import { campaigns } from "../campaigns/list.mjs";
import { list } from "../campaigns/mutants/equivalent.mjs";

const library = new URL("../dist/index.js", import.meta.url);

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

test.each(list)("what excuses a mutant is still there: $file, $line", ({ file, line }) => {
  const source = readFileSync(new URL(`../${file}`, import.meta.url), "utf8");
  expect(source.split("\n").map((text) => text.trim())).toContain(line);
});

test.each([
  "crowd",
  "arguments",
  "checkpoints",
  "any-calls",
  "failing-calls",
  "not-finite",
  "same-bits",
  "lifecycle",
  "interleavings",
  "failing-gpu",
])("%s holds", async (name) => {
  expect(existsSync(library), "dist/index.js is missing: npm run build").toBe(true);
  const { url } = campaigns.find((campaign) => campaign.name === name) ?? {};
  const report = await runInProcess(String(url), library.href, "short");
  expect(report).toMatchObject({ broken: 0, examples: [] });
});
