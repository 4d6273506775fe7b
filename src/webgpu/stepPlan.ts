/**
 * A program as dispatches over steps of many streams: tokens are [steps, streams], and a stream's states are in a slot of their
 * own. What is local in time is as in a forward. An LRU is two matrix products over all tokens with a scan of each stream
 * between them: a forward's chunks would be all but empty. Plain data, made without a GPU.
 */
import { normalizedB } from "../params.js";
import {
  flopsPerToken,
  inputWidth,
  type LruStage,
  outputWidth,
  type PoolStage,
  type Program,
  readsOf,
} from "../program.js";
import { type StateSlot, stateLayout } from "../state.js";
import { type Dispatch, localDispatch } from "./dispatches.js";
import { type Area, noBytes, SlotAreas } from "./plan.js";

export interface StepPlan extends StepLayout {
  /** In the order of the stages. */
  readonly dispatches: readonly Dispatch[];
}

/** What is left of a plan once its weights have been uploaded. */
export interface StepLayout {
  /** Of each token, but for the states'. */
  readonly areas: readonly Readonly<Area>[];
  /** The areas of x, y, and [tokens, 2] uint32: slot | FRESH, and the tokens since the origin as float32. */
  readonly input: number;
  readonly output: number;
  readonly places: number;
  /** The area of [tokens] uint32: each token's timestep, as a row of the tables. */
  readonly times: number;
  readonly inputWidth: number;
  readonly outputWidth: number;
  /** The area of each slot of the state's layout, [slots, floats]. */
  readonly states: readonly StepState[];
  readonly flopsPerToken: number;
}

export interface StepState {
  readonly slot: StateSlot;
  readonly area: number;
  /** Float32 values of a row: h as (re, im), or what a pool has as two that add up to it. */
  readonly floats: number;
  /** Of an LRU the area of lambda^Delta [values, size]: as many values as tokens, at most. */
  readonly table: number | undefined;
}

/** The arrays must be uploaded before the caller can change them. */
export function makeStepPlan(program: Program): StepPlan {
  const areas: Area[] = [];
  const addArea = (perToken: number): number => areas.push({ ...noBytes, perToken }) - 1;
  const dState = Math.max(0, ...program.stages.map((stage) => (stage.kind === "lru" ? stage.dState : 0)));
  const [h, places, times] = [addArea(8 * dState), addArea(8), addArea(4)];
  const states = stateLayout(program).slots.map((slot): StepState => {
    const isLru = slot.stage.kind === "lru";
    const floats = 2 * slot.size;
    return { slot, area: addArea(0), floats, table: isLru ? addArea(4 * floats) : undefined };
  });
  const slots = new SlotAreas(program, areas);
  const input = slots.take(0, "perToken");
  const dispatches = program.stages.flatMap((stage, index): Dispatch[] => {
    const [x, other] = readsOf(stage).map((slot) => slots.areaOf(slot)) as [number, number?];
    const y = slots.write(index, "perToken");
    const { area: state = addArea(0), table } = states.find(({ slot }) => slot.stage === stage) ?? {};
    if (stage.kind === "lru")
      return lruSteps(stage, { y, u: x, h, state, table: table as number, times, places });
    if (stage.kind === "pool") return [poolSteps(stage, { y, sum: state, x, places })];
    return [localDispatch(stage, y, x, other)];
  });
  return {
    dispatches,
    areas,
    input,
    output: slots.areaOf(program.output),
    places,
    times,
    inputWidth: inputWidth(program),
    outputWidth: outputWidth(program),
    states,
    flopsPerToken: flopsPerToken(program),
  };
}

/** bu = u B_norm^T, its scan, y = Re(C h), + D * u. */
function lruSteps(
  stage: LruStage,
  area: Record<"y" | "u" | "h" | "state" | "table" | "times" | "places", number>,
): Dispatch[] {
  const { y, u, h, state, table, times, places } = area;
  const { dModel, dState, params, name } = stage;
  const B = normalizedB(params);
  const intoH = new Float32Array(2 * dModel * dState); // [dModel, dState] of (re, im)
  const outOfH = new Float32Array(2 * dModel * dState); // [dState, (re, im), dModel]
  for (let n = 0; n < dState; n++) {
    for (let j = 0; j < dModel; j++) {
      intoH[2 * (j * dState + n)] = B.re[n * dModel + j] as number;
      intoH[2 * (j * dState + n) + 1] = B.im[n * dModel + j] as number;
      outOfH[2 * n * dModel + j] = params.CRe[j * dState + n] as number;
      outOfH[(2 * n + 1) * dModel + j] = -(params.CIm[j * dState + n] as number);
    }
  }
  const product = (kernel: Float32Array, inWidth: number, y: number, x: number) => {
    const outWidth = kernel.length / inWidth;
    const sizes = { inWidth, outWidth, kernel, bias: null, name, src: 0, dst: 1 };
    return localDispatch({ kind: "dense", ...sizes }, y, x);
  };
  return [
    product(intoH, dModel, h, u),
    {
      kernel: "slotScan",
      real: params.nuLogIm !== undefined,
      sizes: [dState],
      arrays: [h, state, table, times, places],
      workgroups: ({ rows }) => rows * Math.ceil(dState / 64),
    },
    product(outOfH, 2 * dState, y, h),
    {
      kernel: "skip",
      sizes: [dModel],
      arrays: [y, params.D, u],
      workgroups: ({ tokens }) => Math.ceil((tokens * dModel) / 64),
    },
  ];
}

function poolSteps(
  { width, mode }: PoolStage,
  area: { y: number; sum: number; x: number; places: number },
): Dispatch {
  return {
    kernel: "slotPool",
    sizes: [width, ["mean", "last", "max"].indexOf(mode)],
    arrays: [area.y, area.sum, area.x, area.places],
    workgroups: ({ rows }) => rows * Math.ceil(width / 64),
  };
}
