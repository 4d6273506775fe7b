// The README's way to read a written model with nothing but numpy, run as it stands.
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
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

test.for(checkpointNames)("numpy reads what writeModel wrote: %s", async (name, context) => {
  if (python.status !== 0)
    context.skip(`python3 with numpy: ${python.error?.message ?? python.stderr.trim()}`);
  expect(snippet).toContain("numpy.frombuffer");
  const { checkpoint, spec } = await loadCheckpoint(name);
  const engine = await createEngine({ backend: "reference" });
  const folder = mkdtempSync(join(tmpdir(), "linrec-write-"));
  try {
    const file = join(folder, "model.safetensors");
    writeFileSync(file, writeModel(await engine.model(writeSafetensors(checkpoint), spec)));
    const output = execFileSync("python3", ["-c", snippet + report, file], { encoding: "utf8" });
    const [readSpec, facts, roots] = JSON.parse(output);
    const expected = [...checkpoint].map(([key, { shape, data }]) => {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      return [key, ["float32", shape, createHash("sha256").update(bytes).digest("hex")]];
    });
    expect(facts).toEqual(Object.fromEntries(expected));
    expect(readSpec).toMatchObject(spec);
    // Flax's collections are the roots of the tree.
    if (name.startsWith("ml_")) expect(["batch_stats", "params"]).toEqual(expect.arrayContaining(roots));
  } finally {
    rmSync(folder, { recursive: true });
    await engine.dispose();
  }
});
