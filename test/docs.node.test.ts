/** The guides' snippets, run as they stand, against the built package. Those for browsers are in docs.browser.test.ts. */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const pages = readdirSync(`${root}/docs`).filter((name) => name.endsWith(".md"));
const textOf = (name: string) => readFileSync(`${root}/docs/${name}`, "utf8");

/** What a snippet must print for the page to be right. */
const prints: Readonly<Record<string, RegExp>> = {
  "from-python.md 1": /minimal-lru\/classification 1 -> 10\nFloat32Array\(10\)/,
  "streaming.md 1": /^50000 32\n/,
  "streaming.md 2": /^1000 tokens\n/,
  "streaming.md 4": /^4 \d+\n/,
  "choosing-a-backend.md 1": /wasm true .*\n[\s\S]*wasm \d+ wasm on /,
  "choosing-a-backend.md 3": /^true \d+\n/,
  "how-it-works.md 1": /^true\ntrue\n$/,
};

// test/clients follows that page as a whole.
const snippets = pages
  .filter((page) => page !== "first-steps.md")
  .flatMap((page) =>
    [...textOf(page).matchAll(/```js([^\n]*)\n(.*?)```/gs)].map(([, where, code], i) => ({
      name: `${page} ${i + 1}`,
      browser: where === " browser",
      code: code as string,
    })),
  );

describe("docs", () => {
  test.concurrent.each(snippets.filter(({ browser }) => !browser))("$name", async ({ name, code }) => {
    const run = promisify(execFile)(process.execPath, ["--input-type=module", "--eval", code], {
      cwd: root,
      timeout: 50_000,
    });
    const { stdout } = await run;
    expect(stdout).toMatch(prints[name] ?? /./);
  });

  test("every expectation has its snippet", () => {
    expect(snippets.map(({ name }) => name)).toEqual(expect.arrayContaining(Object.keys(prints)));
  });

  test.each(pages)("%s links to what is there", (page) => {
    for (const [, link] of textOf(page).matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g))
      expect(() => readFileSync(`${root}/docs/${link}`), link).not.toThrow();
  });
});
