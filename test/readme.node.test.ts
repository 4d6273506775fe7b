// The README's Node snippet, run as it stands, against the built package.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

test("the README's Node example runs, prints its sizes and exits by itself", async () => {
  const readme = readFileSync(`${root}/README.md`, "utf8");
  const snippet = /## In Node\n+```js\n(.*?)```/s.exec(readme)?.[1] ?? "";
  expect(snippet).toContain("createEngine");
  // In the project's folder "linrec" is the project itself, through package.json's exports: dist/index.js.
  const run = promisify(execFile)(process.execPath, ["--input-type=module", "--eval", snippet], {
    cwd: root,
    timeout: 30_000,
  });
  const { stdout } = await run;
  expect(stdout).toContain(`${8 * 1000 * 64} ${8 * 64} wasm`);
});
