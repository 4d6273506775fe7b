/** The checkpoints of every architecture's golden cases. */
import type { ModelSpec } from "../../src/models/architecture.js";
import type { Tensor } from "../../src/tensor.js";
import cases from "../fixtures/lrnnx/cases.json" with { type: "json" };
import { goldenNames, loadGolden } from "./golden.js";
import { loadLrnnx } from "./lrnnx.js";

export const checkpointNames: readonly string[] = [...goldenNames, ...cases.map(({ name }) => name)];

export function loadCheckpoint(
  name: string,
): Promise<{ readonly checkpoint: ReadonlyMap<string, Tensor>; readonly spec: ModelSpec }> {
  return goldenNames.includes(name) ? loadGolden(name) : loadLrnnx(name);
}
