/** A browser whose GPU process ends in the middle of a forward, and again on the GPU that was opened anew. */
import { expect, test } from "vitest";
import { crashBrowser } from "../campaigns/faults/crashedBrowser.mjs";

test("the CPU finishes what two GPU processes began", { timeout: 180_000 }, async (context) => {
  const result = await crashBrowser();
  if (result.reason !== undefined) return context.skip(result.reason);
  expect(result).toMatchObject({
    crashes: 2,
    told: [
      expect.stringMatching(/^webgpu -> webgpu: .*lost/),
      expect.stringMatching(/^webgpu -> wasm: .*lost/),
    ],
    webgpu: { available: false, reason: expect.stringMatching(/twice/) },
  });
  expect(result.y).toBeLessThan(5e-6);
  expect(result.h).toBeLessThan(5e-6);
});
