/** A bidirectional layer's checkpoint. */
import { LinrecError } from "../errors.js";
import type { SafetensorsFile } from "../io/safetensors.js";
import type { Tensor } from "../io/tensor.js";
import type { Network } from "../program.js";
import { readLru } from "./lrnnxLru.js";

type Direction = "forward" | "backward";

/** Both directions of a bidirectional layer: all tensors are under "forward." or "backward.". Throws what {@link readLru} does. */
export function buildDirections({ tensors, metadata }: SafetensorsFile): Record<Direction, Network> {
  const parts = { forward: new Map<string, Tensor>(), backward: new Map<string, Tensor>() };
  for (const [name, tensor] of tensors) {
    const [, direction, own] = /^(forward|backward)[./](.+)$/s.exec(name) ?? [];
    if (own === undefined) {
      throw new LinrecError(
        "unknown-model",
        `${name} is under neither "forward." nor "backward.", the two layers of a bidirectional one.`,
      );
    }
    parts[direction as Direction].set(own, tensor);
  }
  const { forward, backward } = parts;
  return {
    forward: readLru({ tensors: forward, metadata }),
    backward: readLru({ tensors: backward, metadata }),
  };
}
