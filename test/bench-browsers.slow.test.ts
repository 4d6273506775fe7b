// bench/browsers in Chromium, on a few tokens: who is there is measured and right, who is not is left out, with the reason.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { findBrowser } from "../tools/browser.mjs";

interface Row {
  contender: string;
  threads: number;
  failed?: string;
  median?: number;
  share?: number;
}

test("a tab of linrec on the calling thread, and one with threads", (context) => {
  const { reason } = findBrowser();
  if (reason) context.skip(reason);
  const out = mkdtempSync(join(tmpdir(), "linrec-browsers-"));
  try {
    const script = resolve("bench/browsers/run.mjs");
    const options = [
      "--quick",
      "--only",
      "S1",
      "--browsers",
      "chromium",
      "--python",
      "no-python",
      "--out",
      out,
    ];
    const said = execFileSync(process.execPath, [script, ...options], { encoding: "utf8" });
    expect(said).toMatch(/PyTorch, .* is left out: there is no no-python/);
    const { shapes } = JSON.parse(readFileSync(join(out, "quick-browsers.json"), "utf8"));
    const rows: Row[] = shapes[0].rows;
    expect(rows).toHaveLength(4);
    for (const { threads, median, share } of rows.filter(({ contender }) => contender === "linrec")) {
      expect(median).toBeGreaterThan(0);
      if (threads === 0) expect(share).toBeGreaterThan(0);
    }
    // Peers are there where `npm ci --prefix bench` has been run.
    for (const { failed, median } of rows) expect((failed ?? "") !== "" || median !== undefined).toBe(true);
    expect(readdirSync("bench/build").filter((name) => name.startsWith("jobs-"))).toEqual([]);
  } finally {
    rmSync(out, { recursive: true });
  }
});
