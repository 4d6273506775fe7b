// The README's browser snippet, run as it stands but for the two addresses, against the built package.
import { expect, test } from "vitest";
import readme from "../README.md?raw";

test("the README's browser example runs and shows ten log-probabilities", async () => {
  const snippet = /<script type="module">\n(.*?)<\/script>/s.exec(readme)?.[1] ?? "";
  const address = (path: string) => new URL(path, location.origin).href;
  const script = snippet
    .replace("./linrec/linrec.min.js", address("/dist/linrec.min.js"))
    .replace("./smnist.safetensors", address("/examples/data/smnist.safetensors"));
  expect(script.match(/http/g)).toHaveLength(2);
  await import(/* @vite-ignore */ URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  const [backend, numbers] = (document.body.textContent ?? "").split(": ");
  expect(backend).toBe("wasm");
  const logProbabilities = (numbers ?? "").split(",").map(Number);
  expect(logProbabilities).toHaveLength(10);
  expect(logProbabilities.reduce((sum, value) => sum + Math.exp(value), 0)).toBeCloseTo(1, 5);
});
