// The README's way to read a written model with nothing but numpy, run as it stands.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { createEngine, writeModel, writeSafetensors } from "../src/index.js";
import { checkpointNames, loadCheckpoint } from "./support/checkpoints.js";

const python = spawnSync("python3", ["-c", "import numpy"], { encoding: "utf8" });
const readme = readFileSync(fileURLToPath(new URL("../README.md", import.meta.url)), "utf8");
const snippet = /```python\n(.*?)```/s.exec(readme)?.[1] ?? "";

/** What numpy makes of the tensors: dtype, shape and the bytes' hash, and what Flax's unflatten_dict makes of the names. */
const report = `
import hashlib
tree = {}
for name, array in tensors.items():
    *path, leaf = name.split(".")
    node = tree
    for part in path: node = node.setdefault(part, {})
    assert leaf not in node
    node[leaf] = 0
facts = {n: [str(a.dtype), list(a.shape), hashlib.sha256(numpy.ascontiguousarray(a).tobytes()).hexdigest()] for n, a in tensors.items()}
print(json.dumps([spec, facts, sorted(tree)]))
`;

/** Runs what it is given for each file that it is given, in one process and each by itself: a line of each, or what was raised. */
const driver = `
import sys, json
code, *files = sys.argv[1:]
for file in files:
    sys.argv = ["", file]
    try: exec(code, {})
    except Exception as raised: print(json.dumps(repr(raised)))
`;

/** By the checkpoint's name. */
const reports = new Map<string, unknown>();

beforeAll(async () => {
  if (python.status !== 0) return;
  expect(snippet).toContain("numpy.frombuffer");
  const engine = await createEngine({ backend: "reference" });
  const folder = mkdtempSync(join(tmpdir(), "linrec-write-"));
  try {
    const files: string[] = [];
    for (const name of checkpointNames) {
      const { checkpoint, spec } = await loadCheckpoint(name);
      files.push(join(folder, `${name}.safetensors`));
      const bytes = writeModel(await engine.model(writeSafetensors(checkpoint), spec));
      writeFileSync(files.at(-1) as string, bytes);
    }
    const { stdout } = spawnSync("python3", ["-c", driver, snippet + report, ...files], { encoding: "utf8" });
    for (const [i, line] of stdout.trim().split("\n").entries())
      reports.set(checkpointNames[i] as string, JSON.parse(line));
  } finally {
    rmSync(folder, { recursive: true });
    await engine.dispose();
  }
});

test.for(checkpointNames)("numpy reads what writeModel wrote: %s", async (name, context) => {
  if (python.status !== 0)
    context.skip(`python3 with numpy: ${python.error?.message ?? python.stderr.trim()}`);
  const { checkpoint, spec } = await loadCheckpoint(name);
  expect(reports.get(name)).toBeInstanceOf(Array); // else it is what was raised
  const [readSpec, facts, roots] = reports.get(name) as [object, object, string[]];
  const expected = [...checkpoint].map(([key, { shape, data }]) => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return [key, ["float32", shape, createHash("sha256").update(bytes).digest("hex")]];
  });
  expect(facts).toEqual(Object.fromEntries(expected));
  expect(readSpec).toMatchObject(spec);
  // Flax's collections are the roots of the tree.
  if (name.startsWith("ml_")) expect(["batch_stats", "params"]).toEqual(expect.arrayContaining(roots));
});
