/** The results as a page of tables, ready for a README. */

export function toMarkdown({ machine, node, date, versions, shapes, sweep, extras, quick }) {
  return [
    quick ? "**A trial run on tiny shapes: these figures mean nothing.**\n" : "",
    `Measured ${date.slice(0, 10)} on ${machine.cpu} (${machine.cores} cores, ${machine.memory} GiB), ${machine.os}, Node ${node}.`,
    `Peers: ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(", ")}.`,
    "Times are medians of one forward in ms, taken in turns within one run. A share is of the 128-bit SIMD peak of as many threads, measured in the same process.\n",
    ...(shapes.length ? [overview(shapes), calmOverview(shapes), ...shapes.map(detail)] : []),
    ...(sweep.length ? [lengths(sweep)] : []),
    ...Object.values(extras)
      .flat()
      .flatMap(({ lines }) => lines.map((line) => `- ${line}`)),
    "",
  ].join("\n");
}

const title = ({ name, batch, seqLen, dModel, dState }) =>
  `${name}: B=${batch} L=${seqLen} H=${dModel} N=${dState}`;

/** Contenders by shapes: what goes into the README. */
function overview(shapes) {
  return byShapes("ms (share of the peak)", shapes, ({ median, share }) => ms(median) + inBrackets(share));
}

/** The same of the runs in calm stretches alone. */
function calmOverview(shapes) {
  const heading = "calm runs only: ms (share of the peak), how many";
  return byShapes(heading, shapes, ({ calm }) =>
    calm ? `${ms(calm.median)}${inBrackets(calm.share)}, ${howMany(calm)}` : "none was calm",
  );
}

/** Of a long shape: so many calm pieces, each such a part of it. */
const howMany = ({ runs, pieces }) => (pieces ? `${runs} of 1/${pieces}` : runs);

const inBrackets = (share) => (share ? ` (${percent(share)})` : "");

function byShapes(heading, shapes, write) {
  const ids = [...new Map(shapes.flatMap(({ rows }) => rows.map(({ id, label }) => [id, label])))];
  const cell = ({ rows }, id) => {
    const row = rows.find((row) => row.id === id);
    if (!row) return "";
    return row.skipped ? "—" : write(row);
  };
  return table(
    [heading, ...shapes.map(({ shape }) => title(shape))],
    ids.map(([id, label]) => [label, ...shapes.map((shape) => cell(shape, id))]),
  );
}

function detail({ shape, rows, peaks, flops }) {
  const ran = rows.filter(({ skipped }) => !skipped);
  const fastest = Math.min(...ran.map(({ median }) => median));
  return [
    `### ${title(shape)}\n`,
    `${(flops / 1e9).toPrecision(4)} Gflop; ${peakLine(peaks)}.\n`,
    table(
      [
        "",
        "median",
        "min",
        "middle half",
        "runs",
        "GFLOP/s",
        "of the peak",
        "calm: median",
        "of the peak",
        "runs",
        "× fastest",
        "peak RSS",
        "error",
        "how",
      ],
      ran.map((row) => [
        row.label,
        ms(row.median),
        ms(row.min),
        `${ms(row.q1)} – ${ms(row.q3)}`,
        row.runs,
        row.gflops.toFixed(1),
        row.share ? percent(row.share) : "",
        ms(row.calm?.median),
        row.calm?.share ? percent(row.calm.share) : "",
        row.calm ? howMany(row.calm) : 0,
        (row.median / fastest).toFixed(2),
        `${Math.round(row.peakRss / 2 ** 20)} MiB`,
        row.error.toExponential(0),
        row.peer === "linrec" ? "" : row.formulation,
      ]),
    ),
    ...notes(rows),
    "",
  ].join("\n");
}

function notes(rows) {
  const lines = rows
    .filter(({ skipped }) => skipped)
    .map(({ label, skipped }) => `- ${label}: not run: ${skipped}`);
  for (const { label, formulations = [], pilotTokens } of rows) {
    const tried = formulations.filter(({ msOfPilot }) => msOfPilot !== undefined);
    const others = tried.map(({ name, msOfPilot }) => `${name} ${ms(msOfPilot)}`);
    const left = formulations
      .filter(({ skipped }) => skipped)
      .map(({ name, skipped }) => `${name}: ${skipped}`);
    if (others.length > 1) lines.push(`- ${label}, tried on ${pilotTokens} tokens, ms: ${others.join("; ")}`);
    if (left.length > 0) lines.push(`- ${label}, left out: ${left.join("; ")}`);
  }
  return lines;
}

function peakLine({ fma1, fma2, mulAdd1, mulAdd2 }) {
  const pair = (name, one, two) =>
    one || two ? `${name} ${[one, two].map((rate) => rate?.toFixed(1) ?? "?").join(" / ")}` : "";
  const parts = [pair("fused multiply-add", fma1, fma2), pair("mul + add", mulAdd1, mulAdd2)].filter(Boolean);
  return `peak on 1 / 2 threads, GFLOP/s: ${parts.join(", ")}`;
}

function lengths(sweep) {
  const ids = [...new Map(sweep.flatMap(({ rows }) => rows.map(({ id, label }) => [id, label])))];
  return `### Time against length: B=1 H=N=64, ms\n\n${table(
    ["", ...sweep.map(({ shape }) => shape.name)],
    ids.map(([id, label]) => [
      label,
      ...sweep.map(({ rows }) => ms(rows.find((row) => row.id === id)?.median)),
    ]),
  )}`;
}

export function table(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return `${[line(head), line(head.map((_, i) => (i === 0 ? "---" : "---:"))), ...rows.map(line)].join("\n")}\n`;
}

export const percent = (part) => `${(100 * part).toFixed(0)} %`;

export function ms(value) {
  if (value === undefined) return "—";
  if (value >= 1000) return String(Math.round(value));
  return value.toPrecision(3);
}
