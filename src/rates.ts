/** What is known of networks whose rate changes, once `rateChanges.ts` has taken them apart. */
import type { Network, Program, RateStage, Stage, WindowStage } from "./program.js";

/** A run of stages as a program of its own: its x is the network's slot `src`, its y the slot `dst`. */
export interface PartLink {
  readonly kind: "part";
  readonly src: number;
  readonly dst: number;
  readonly program: Program;
}

/** dst = src where there is a new row, else what it was when there was one: the last y of a network that pools. */
export interface HoldStage {
  readonly kind: "hold";
  readonly src: number;
  readonly dst: number;
  readonly width: number;
}

export type RateLink = RateStage | HoldStage | Extract<Stage, { kind: "add" }>;
export type Link = PartLink | RateLink;

export interface Rates {
  /** In their order. */
  readonly links: readonly Link[];
  /**
   * Rows are read in whole multiples of this, with zeros after their end: the rows that become one in a network that
   * reshapes, where every one is in the end apart again. 1 for all others.
   */
  readonly padding: number;
  readonly shortest: number;
  /** Tokens of each row of a batch that go through the chain together. */
  readonly segmentTokens: (batch: number) => number;
}

const known = new WeakMap<Network, Rates>();

export function noteRates(network: Network, rates: Rates): void {
  known.set(network, rates);
}

/** Undefined for a network that is a program. */
export function ratesOf(network: Network): Rates | undefined {
  return known.get(network);
}

/** How many tokens a row must have before there is anything to pool. */
export function shortestOf(network: Network): number {
  return known.get(network)?.shortest ?? 1;
}

/** The programs that backends are to prepare: the network itself where its rate does not change. */
export function partsOf(network: Network): readonly Program[] {
  const rates = known.get(network);
  if (!rates) return [network as Program];
  return rates.links.flatMap((link) => (link.kind === "part" ? [link.program] : []));
}

/** What a window's sum is divided by. */
export const partsOfWindow = ({ mode, factor }: WindowStage): number => (mode === "mean" ? factor : 1);
