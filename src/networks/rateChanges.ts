/**
 * Networks whose rate changes (pooled windows, strided and transposed convolutions) as chains of programs, each of one
 * rate, that any backend runs like any other, and what lies between them. `chain.ts` runs it; both come with the first model.
 */
import {
  inputWidth,
  type Network,
  outputWidth,
  poolOf,
  type RateStage,
  readsOf,
  type Stage,
  slotWidth,
} from "../program.js";
import { type Link, noteRates, type PartLink } from "../rates.js";

/** The network, with what `rates.ts` tells of it where its rate changes. */
export function withRates(network: Network): Network {
  if (network.stages.some(isRate)) {
    const links = split(network);
    const padding = paddingOf(network);
    const segmentTokens = (batch: number) => segmentOf(network, links, padding, batch);
    noteRates(network, { links, padding, shortest: shortestOf(network), segmentTokens });
  }
  return network;
}

function isRate(stage: Stage | RateStage): stage is RateStage {
  return stage.kind === "window" || stage.kind === "reshape" || stage.kind === "shift";
}

/**
 * A part reads one slot from outside, and what it ends on is all that is read of it later: so it ends at every stage that
 * changes the rate, before every stage that reads a second slot from outside, and after whatever is read beyond the next
 * change (a skip). Only `add` may read two slots from outside.
 */
function split(network: Network): Link[] {
  const links: Link[] = [];
  let run: Stage[] = [];
  const end = () => {
    if (run.length > 0) links.push(partOf(network, run));
    run = [];
  };
  network.stages.forEach((stage, i) => {
    const own = new Set(run.map(({ dst }) => dst));
    if (run[0] && readsOf(stage).some((slot) => !own.has(slot) && slot !== run[0]?.src)) end();
    const outside = run.length === 0 && new Set(readsOf(stage)).size > 1;
    if (isRate(stage) || (outside && stage.kind === "add")) {
      end();
      links.push(stage);
    } else {
      run.push(stage);
      if (isSkip(network, i)) end();
    }
  });
  end();
  if (poolOf(network))
    links.push({ kind: "hold", src: network.output, dst: network.output, width: outputWidth(network) });
  return links;
}

/** Whether what stage i writes is read on the other side of a change of rate, but by that change itself. */
function isSkip({ stages }: Network, i: number): boolean {
  let changed = false;
  for (const stage of stages.slice(i + 1)) {
    const slot = stages[i]?.dst as number;
    if (readsOf(stage).includes(slot) && changed) return true;
    if (stage.dst === slot) return false;
    changed ||= isRate(stage);
  }
  return false;
}

/** The stages with slots of their own: 0 is x, and never written. */
function partOf(network: Network, run: readonly Stage[]): PartLink {
  const src = (run[0] as Stage).src;
  const slots = [slotWidth(network, src)];
  const own = new Map<number, number>();
  const stages = run.map((stage): Stage => {
    const [from, second] = readsOf(stage).map((slot) => own.get(slot) ?? 0) as [number, number];
    if (!own.has(stage.dst)) own.set(stage.dst, slots.push(slotWidth(network, stage.dst)) - 1);
    const moved = { ...stage, src: from, dst: own.get(stage.dst) as number };
    if (moved.kind === "glu") return { ...moved, gate: second };
    return moved.kind === "add" ? { ...moved, other: second } : moved;
  });
  const { dst } = run.at(-1) as Stage;
  const program = { architecture: network.architecture, slots, stages, output: own.get(dst) as number };
  return { kind: "part", src, dst, program };
}

function paddingOf(network: Network): number {
  let [rows, most] = [1, 1];
  for (const stage of network.stages) {
    if (stage.kind !== "reshape") continue;
    rows *= stage.outWidth / stage.inWidth;
    most = Math.max(most, rows);
  }
  return Math.round(most);
}

/** How many tokens a row must have before there is anything to pool. */
function shortestOf({ stages }: Network): number {
  return stages.reduceRight(
    (rows, stage) =>
      stage.kind !== "window"
        ? rows
        : stage.mode === "stride"
          ? (rows - 1) * stage.factor + 1
          : rows * stage.factor,
    1,
  );
}

/** Of activations between the parts: as much as a large cache holds. */
const SEGMENT_BYTES = 4 * 2 ** 20;

/** Tokens of each row that go through the chain together. */
function segmentOf(network: Network, links: readonly Link[], padding: number, batch: number): number {
  let [rate, floats] = [1, inputWidth(network)];
  for (const link of links) {
    if (link.kind === "reshape") rate *= link.inWidth / link.outWidth;
    if (link.kind === "window") rate /= link.factor;
    floats += rate * slotWidth(network, link.dst);
  }
  return padding * Math.max(1, Math.floor(SEGMENT_BYTES / (4 * floats * batch * padding)));
}
