/** What is loaded when it is first wanted: from the built package, and what becomes of a part that is not there. */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { later, parts } from "../src/parts.js";

const dist = new URL("../dist/", import.meta.url);
const folder = mkdtempSync(join(tmpdir(), "linrec-parts-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a script that has `linrec`, the built file of that name beside whatever else is in the folder. */
function run(name: string, script: string): unknown {
  const source = `const module = await import(${JSON.stringify(pathToFileURL(join(folder, name)).href)});
    const linrec = module.default ?? module;
    const told = (error) => ({ code: error.code, message: error.message, own: linrec.isLinrecError(error) });
    ${script}`;
  const args = ["--no-warnings", "--input-type=module", "-e", source];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 });
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout);
}

const wholeModel = `
  const engine = await linrec.createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(linrec.initLru({ dModel: 3, dState: 5, seed: 1 }));
  const x = Float32Array.from({ length: 12 }, (_, i) => Math.sin(i));
  const { y } = await lru.forward(x);
  const stream = await lru.forwardStream(x).next().then(({ value }) => value.y.every((v, i) => v === y[i]), told);
  const transform = new Response(new Blob([x]).stream().pipeThrough(lru.forwardTransform()).pipeThrough(
    new TransformStream({ transform: ({ y }, to) => to.enqueue(new Uint8Array(y.buffer)) }))).arrayBuffer();
  const piped = await transform.then((bytes) => new Float32Array(bytes).every((v, i) => v === y[i]), told);
  const many = await lru.stepMany(x, lru.allocateInferenceCache(1)).then((y) => y.length, told);
  const file = await engine.lru(new Blob([linrec.writeModel(lru)])).then((again) => again.dState === 5, told);
  const model = await engine.model(linrec.writeModel(lru)).catch(told);
  const same = model.forward && (await model.forward(x)).y.every((value, i) => value === y[i]);
  const report = await engine.selfTest().then(({ passed }) => passed, told);
  console.log(JSON.stringify({ steps: y.length, many, stream, piped, file, model: same ?? model, report }));`;

describe("the first file", () => {
  const missing = {
    code: "load-failed",
    own: true,
    message: expect.stringMatching(/^A part of linrec could not be loaded\. .*`linrec\/standalone`.*reload/),
  };

  test("alone runs a layer, and says what to do where it needs more", () => {
    copyFileSync(new URL("index.js", dist), join(folder, "index.js"));
    expect(run("index.js", wholeModel)).toEqual({
      steps: 12,
      many: missing,
      stream: missing,
      piped: missing,
      file: missing,
      model: missing,
      report: missing,
    });
  });

  test("falls back to the CPU where what drives a GPU cannot be loaded, and says why", () => {
    const script = `
      const { backends } = await linrec.createEngine({ gpu: {} });
      console.log(JSON.stringify([backends.wasm.available, backends.webgpu]));`;
    const webgpu = { available: false, reason: missing.message };
    expect(run("index.js", script)).toEqual([true, webgpu]);
  });

  test("works on the calling thread where what starts workers cannot be loaded, and says why", () => {
    const script = `
      const reasons = [];
      const onFallback = ({ reason }) => reasons.push(reason);
      const engine = await linrec.createEngine({ backend: "wasm", threads: 2, onFallback });
      const lru = await engine.lru(linrec.initLru({ dModel: 3, dState: 5, seed: 1 }));
      const { y } = await lru.forward(new Float32Array(30000).fill(1));
      console.log(JSON.stringify({ reasons, threads: engine.backends.wasm.threads, last: y.at(-1) !== 0 }));`;
    const reasons = [expect.stringMatching(/^A part of linrec could not be loaded.*calling thread/)];
    expect(run("index.js", script)).toEqual({ reasons, threads: 0, last: true });
  });

  test("takes no part of another build", () => {
    for (const file of readdirSync(dist).filter((name) => name.endsWith(".js"))) {
      const text = readFileSync(new URL(file, dist), "utf8");
      writeFileSync(
        join(folder, file),
        file === "index.js" ? text : text.replace(/\bb[0-9a-f]{8}\b/, "b00000000"),
      );
    }
    expect(run("index.js", wholeModel)).toEqual({
      steps: 12,
      many: missing,
      stream: missing,
      piped: missing,
      file: missing,
      model: missing,
      report: missing,
    });
  });

  test("has the rest beside it", () => {
    for (const file of readdirSync(dist).filter((name) => name.endsWith(".js")))
      copyFileSync(new URL(file, dist), join(folder, file));
    expect(run("index.js", wholeModel)).toEqual({
      steps: 12,
      many: 12,
      stream: true,
      piped: true,
      file: true,
      model: true,
      report: true,
    });
  });
});

test.each(["linrec.min.js", "index.cjs"])("%s needs nothing beside it", (file) => {
  copyFileSync(new URL(file, dist), join(folder, `alone-${file}`));
  expect(readFileSync(new URL(file, dist), "utf8")).not.toMatch(/import\("\.\//);
  expect(run(`alone-${file}`, wholeModel)).toEqual({
    steps: 12,
    many: 12,
    stream: true,
    piped: true,
    file: true,
    model: true,
    report: true,
  });
});

test("README.md says what each file weighs", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const kilobytes = (file: string) => gzipSync(readFileSync(new URL(file, dist)), { level: 9 }).length / 1000;
  const rows = [...readme.matchAll(/^\| `(\w+\.js)` \| (\d+) KB \|/gm)];
  expect(rows.map(([, file]) => file?.slice(0, -3)).sort()).toEqual(["index", ...Object.keys(parts)].sort());
  const whole = /`dist\/(linrec\.min\.js)`[^.]*? of (\d+) KB/.exec(readme) as string[];
  for (const [, file = "", said] of [...rows, whole]) {
    const off = Math.abs(kilobytes(file) - Number(said));
    expect(off, `${file} is ${kilobytes(file)} KB`).toBeLessThan(1 + 0.05 * Number(said));
  }
});

test("a part is loaded once, and tried again after a failure", async () => {
  let [tries, online] = [0, false];
  const part = later(async () => {
    tries++;
    if (!online) throw new TypeError("Failed to fetch");
    return { tries };
  });
  await expect(part()).rejects.toMatchObject({ code: "load-failed", cause: { message: "Failed to fetch" } });
  online = true;
  expect(await part()).toEqual({ tries: 2 });
  expect(await part()).toBe(await part());
});
