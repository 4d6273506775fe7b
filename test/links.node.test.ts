// What the documents point to is there, and behind every tick of the README's feature table stands a test.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const documents = [
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  "bench/README.md",
  "bench/figures.md",
  "bench/limits.md",
  "test/fixtures/golden/README.md",
];

const read = (path: string) => readFileSync(join(root, path), "utf8");

test.each(documents)("every file that %s links to is there", (document) => {
  const links = [...read(document).matchAll(/\]\(([^)#]+)/g)].map(([, target]) => target as string);
  const files = links.filter((target) => !/^[a-z]+:/.test(target));
  const missing = files.filter((target) => !existsSync(join(root, dirname(document), target)));
  expect(missing).toEqual([]);
});

describe("the feature table", () => {
  const [, section = ""] = read("README.md").split(/^## Beside the Python sources$/m);
  const rows = (section.split(/^## /m)[0] as string)
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .map((line) =>
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  const features = rows.slice(2);

  test("compares with three sources", () => {
    expect(rows[0]).toEqual(["", "linrec", "lrnnx", "minimal-LRU", "lruun"]);
    expect(features.length).toBeGreaterThan(15);
  });

  test.each(features)("%s", (...[, linrec = "", ...others]) => {
    expect(others.join()).not.toContain("✓"); // nothing here tests other people's code
    if (linrec === "no") return;
    const links = [...linrec.matchAll(/\[✓\]\((test\/[^)]+\.test\.ts)\)/g)];
    // Nothing but ticks, each with its link.
    expect(linrec).toBe(links.map(([link]) => link).join(" "));
    expect(links).not.toEqual([]);
    for (const [, file] of links) expect(read(file as string)).toMatch(/\btest(\.(each|for|skipIf)\b|\()/);
  });
});
