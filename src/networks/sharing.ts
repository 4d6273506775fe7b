/** The states of a layer that runs in parts (`halves.ts`), as its user sees them. */
import type { LruStage, Share } from "../program.js";
import type { State } from "../state.js";
import type { Hidden } from "./hidden.js";

/** h of one LRU and row, re and im [dState] in float64. */
export function readShared(state: State, { slots, size }: Hidden, row: number) {
  const [re, im] = [new Float64Array(size), new Float64Array(size)];
  for (const slot of slots) {
    const h = state.read(slot, row);
    const { as, states, of } = (slot.stage as LruStage).share as Share;
    for (const [i, m] of states.entries()) {
      const n = of?.[i];
      if (as === "re" || as === "im") (as === "re" ? re : im)[m] = h[i % 2 ? "im" : "re"][i >> 1] as number;
      else if (n === undefined) [re[m], im[m]] = [h.re[i] as number, h.im[i] as number];
      else
        [re[m], im[m]] = [(re[n] as number) + (h.re[i] as number), (h.im[i] as number) - (im[n] as number)];
    }
  }
  return { re, im };
}

/** As `State.write`, of all of an LRU's states. */
export function writeShared(
  state: State,
  { slots }: Hidden,
  row: number,
  re: ArrayLike<number>,
  im: ArrayLike<number>,
): void {
  for (const slot of slots) {
    const { as, states, of } = (slot.stage as LruStage).share as Share;
    const isReal = as === "re" || as === "im";
    /** Of a state there, the part that stands in one part of a state here. */
    const part = (values: ArrayLike<number>, other: 0 | 1, sign: number) =>
      Array.from({ length: slot.size }, (_, i) => {
        if (isReal) return (as === "re" ? re : im)[states[2 * i + other] ?? -1] ?? 0;
        const n = of?.[i];
        const value = values[states[i] as number] as number;
        return n === undefined ? value : value + sign * (values[n] as number);
      });
    state.write(slot, row, part(re, 0, -1), part(im, 1, 1));
  }
}
