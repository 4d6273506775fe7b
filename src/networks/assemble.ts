/** What runs a network, of what runs its programs: one runner, a chain of them where the rate changes, a halved one. */
import type { Backend, Runner } from "../backend.js";
import type { Stepper } from "../engine/host.js";
import type { Network, Program } from "../program.js";
import { partsOf } from "../rates.js";
import type { runReference } from "../reference.js";
import type { Chain } from "./chain.js";
import type { Halved } from "./halves.js";
import { halvesOf, waysOf } from "./hidden.js";

/** @param exact keep what is between the programs in float64 */
export function assemble<Part extends Partial<Runner & Stepper>>(
  program: Network,
  exact: boolean,
  chain: typeof Chain | undefined,
  prepare: (part: Program) => Part,
  /** What only some states want. */
  prepareLater: (part: Program) => Part | Promise<Part> = prepare,
): Part | Chain<Part> | Halved<Part> {
  const halves = halvesOf(program);
  if (halves) return new halves.Halved(halves, prepare(halves.lean), () => prepareLater(halves.full));
  const parts = partsOf(program);
  return parts[0] === program
    ? prepare(parts[0])
    : new (chain as typeof Chain)(program, parts.map(prepare), exact);
}

export async function prepareParts(
  backend: Backend,
  program: Network,
  chain: typeof Chain | undefined,
): Promise<Runner> {
  const ways = waysOf.get(program);
  if (ways)
    return new ways.BothWays(backend, program as Program, (part) => prepareParts(backend, part, chain));
  const halves = halvesOf(program);
  const parts = halves ? [halves.lean] : partsOf(program);
  if (!halves && parts[0] !== program && backend.prepareLinked) {
    const linked = await backend.prepareLinked(program);
    return new (chain as typeof Chain)<Runner>(program, [], false, linked);
  }
  const runners = parts.map(async (part) => [part, await backend.prepare(part)] as const);
  try {
    const ready = new Map(await Promise.all(runners));
    const prepared = (part: Program) => ready.get(part) as Runner;
    return assemble(program, backend.name === "reference", chain, prepared, (part) => backend.prepare(part));
  } catch (error) {
    for (const runner of runners) runner.then(([, made]) => made.dispose()).catch(() => {});
    throw error;
  }
}

/** Where there is no WASM, or only the reference was asked for. */
export function referenceStepper(program: Program, run: typeof runReference): Stepper {
  return {
    step(x, y, state, timesteps) {
      const result = run(program, { x, batch: state.batch, seqLen: 1, timesteps, state });
      y.set(result.y);
      state.copyFrom(result.state);
    },
  };
}
