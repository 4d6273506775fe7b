/** A program as a table, for people to read. */
import {
  countParameters,
  flopsPerToken,
  inputWidth,
  type Network,
  outputWidth,
  poolOf,
  slotWidth,
} from "../program.js";

const header = ["stage", "name", "shape", "parameters", "flops/token"];

/**
 * Plain text in aligned columns: each stage with its widths, what it holds and what a token costs in it (0 for what runs
 * once for a sequence, after a pool), and the sums.
 */
export function describeProgram(program: Network): string {
  const { architecture, stages } = program;
  // What a stage adds to the whole: it may depend on those before it.
  const flopsOf = (count: number) => flopsPerToken({ ...program, stages: stages.slice(0, count) });
  const rows = stages.map((stage, i) => {
    const [from, to] = [slotWidth(program, stage.src), slotWidth(program, stage.dst)];
    const states = stage.kind === "lru" ? `, dState ${stage.dState}` : "";
    const shape = (from === to ? `${to}` : `${from} -> ${to}`) + states;
    const parameters = countParameters({ ...program, stages: [stage] });
    return [stage.kind, stage.name, shape, count(parameters), count(flopsOf(i + 1) - flopsOf(i))];
  });
  const table = [
    header,
    ...rows,
    ["total", "", "", count(countParameters(program)), count(flopsPerToken(program))],
  ];
  const widths = header.map((_, column) => Math.max(...table.map((row) => (row[column] as string).length)));
  const lines = table.map((row) =>
    // Numbers stand under numbers.
    row
      .map((cell, i) => (i < 3 ? cell.padEnd(widths[i] as number) : cell.padStart(widths[i] as number)))
      .join("  "),
  );
  const rule = widths.map((width) => "-".repeat(width)).join("  ");
  const y = `${poolOf(program) ? "" : "seqLen, "}${outputWidth(program)}`;
  const title = `${architecture}: x [batch, seqLen, ${inputWidth(program)}] -> y [batch, ${y}]`;
  return [title, "", lines[0], rule, ...lines.slice(1, -1), rule, lines.at(-1)].join("\n");
}

function count(value: number): string {
  return Math.round(value).toLocaleString("en");
}
