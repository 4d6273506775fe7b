/** What is shown while the digits are read, and the table afterwards. */
import { Presets, SingleBar } from "cli-progress";
import Table from "cli-table3";
import { PIXELS } from "./data.mjs";

const onTerminal = process.stdout.isTTY === true;

/** A bar that moves on a terminal; elsewhere one line when it is done. */
export function startProgress({ name, count }) {
  const label = name.padEnd(28);
  const format = `  ${label} {bar} {value} of {total} digits`;
  const bar = new SingleBar(
    { format, barsize: 30, stream: process.stdout, hideCursor: true },
    Presets.shades_classic,
  );
  if (onTerminal) bar.start(count, 0);
  return {
    update: (read) => bar.update(read),
    done(words) {
      if (onTerminal) bar.stop();
      else console.log(`  ${label} ${words}`);
    },
  };
}

const columns = [
  { title: "Backend", width: 29 },
  { title: "Digits read", width: 8, align: "right" },
  { title: "Right", width: 8, align: "right" },
  { title: "Tokens per second", width: 11, align: "right" },
  { title: "Difference from float64", width: 12, align: "right" },
  { title: "Difference from PyTorch", width: 12, align: "right" },
  { title: "Verdict, error / allowed", width: 12 },
];

/** 100 columns wide. Rows come from the functions below. */
export function tableOf(rows) {
  const table = new Table({
    head: columns.map(({ title }) => title),
    colWidths: columns.map(({ width }) => width),
    colAligns: columns.map(({ align }) => align ?? "left"),
    wordWrap: true,
    style: { head: [], border: [] },
  });
  table.push(...rows);
  return table.toString();
}

/** @param {{ name: string, what: string, count: number, seconds?: number, verdict: string }} row with what `judge` found */
export function resultRow({ name, what, count, seconds, accuracy, fromExact, fromPytorch, verdict }) {
  return [
    `${name}\n${what}`,
    count.toLocaleString("en"),
    `${(100 * accuracy).toFixed(1)} %`,
    seconds === undefined ? "" : Math.round((count * PIXELS) / seconds).toLocaleString("en"),
    scientific(fromExact),
    scientific(fromPytorch),
    verdict,
  ];
}

/** A row for a backend that gave no numbers, which says why. */
export function missingRow(name, why) {
  return [name, { colSpan: columns.length - 1, content: why, hAlign: "left" }];
}

function scientific(value) {
  return value === 0 ? "0" : value.toExponential(1);
}
