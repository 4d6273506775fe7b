// The golden cases once more, with the package as it is published: minified, its shaders too.
import { expect, test, vi } from "vitest";
import * as source from "../src/index.js";
import "./golden.test.js";

vi.mock("../src/index.js", () => import("../dist/index.js"));

test("what ran is the built package", async () => {
  expect(source.createEngine).toBe((await import("../dist/index.js")).createEngine);
});
