/** Two plots, as SVG text: no library, no fonts of its own, readable on white and on dark. */

export const colours = [
  "#d62728",
  "#ff9896",
  "#1f77b4",
  "#9ecae1",
  "#2ca02c",
  "#98df8a",
  "#9467bd",
  "#8c564b",
  "#bcbd22",
  "#17becf",
  "#9edae5",
  "#e377c2",
  "#f7b6d2",
  "#7f7f7f",
  "#c7c7c7",
];
export const INK = "#666";
const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
export const text = (x, y, content, more = "") =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" fill="${INK}" ${more}>${escaped(content)}</text>`;
export const line = (x1, y1, x2, y2, more = "") =>
  `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="${INK}" ${more}/>`;
export const page = (width, height, parts) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">\n${parts.join("\n")}\n</svg>\n`;

/** Time against length, both logarithmic, with the least that flops / peak allows. */
export function lengthPlot(sweep) {
  const [width, height, left, top, right, bottom] = [820, 460, 60, 40, 270, 45];
  const ids = [
    ...new Map(sweep.flatMap(({ rows }) => rows.filter((r) => !r.skipped).map((r) => [r.id, r.label]))),
  ];
  const roof = sweep.map(({ shape, flops, peaks }) => [
    shape.seqLen,
    flops / (peaks.fma1 ?? peaks.mulAdd1) / 1e6,
  ]);
  const series = ids.map(([id, label], i) => ({
    label,
    colour: colours[i % colours.length],
    points: sweep.flatMap(({ shape, rows }) => {
      const row = rows.find((r) => r.id === id && !r.skipped);
      return row ? [[shape.seqLen, row.median]] : [];
    }),
  }));
  const all = [...series.flatMap(({ points }) => points), ...roof].filter(([, y]) => y > 0);
  const range = (axis) =>
    [Math.min(...all.map((p) => p[axis])), Math.max(...all.map((p) => p[axis]))].map(Math.log);
  const [[x0, x1], [y0, y1]] = [range(0), range(1)];
  const px = (x) => left + ((Math.log(x) - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => height - bottom - ((Math.log(y) - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const parts = [
    text(left, 22, "Time of a forward, ms, against length (B=1, H=N=64); both logarithmic", 'font-size="14"'),
  ];
  for (const [x] of roof) parts.push(text(px(x), height - 22, x, 'text-anchor="middle"'));
  for (let power = Math.ceil(y0 / Math.LN10); power <= y1 / Math.LN10; power++) {
    const y = py(10 ** power);
    parts.push(
      line(left, y, width - right, y, 'stroke-opacity="0.3"'),
      text(left - 6, y + 4, 10 ** power, 'text-anchor="end"'),
    );
  }
  const path = (points, colour, more) =>
    `<polyline fill="none" stroke="${colour}" stroke-width="2" ${more} points="${points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ")}"/>`;
  const drawn = [
    ...series,
    { label: "limit: flops / peak of one thread", colour: INK, points: roof, dashed: true },
  ];
  drawn.forEach(({ label, colour, points, dashed }, i) => {
    const y = top + 10 + 20 * i;
    parts.push(path(points, colour, dashed ? 'stroke-dasharray="6 4"' : ""));
    for (const [x, value] of dashed ? [] : points)
      parts.push(`<circle cx="${px(x).toFixed(1)}" cy="${py(value).toFixed(1)}" r="3" fill="${colour}"/>`);
    const x = width - right + 14;
    parts.push(
      `<rect x="${x}" y="${y - 9}" width="12" height="10" fill="${colour}"/>`,
      text(x + 18, y, label),
    );
  });
  return page(width, height, parts);
}

/** Share of the peak, a group of bars for each shape. */
export function sharePlot(shapes) {
  const [width, left, bar, gap] = [820, 330, 15, 34];
  const parts = [
    text(
      10,
      22,
      "Share of the 128-bit SIMD peak of as many threads, measured in the same run",
      'font-size="14"',
    ),
  ];
  const order = [...new Map(shapes.flatMap(({ rows }) => rows.map((r) => [r.id, r.label]))).keys()];
  let y = 50;
  const scale =
    (width - left - 60) / Math.max(1, ...shapes.flatMap(({ rows }) => rows.map((r) => r.share ?? 0)));
  for (const { shape, rows } of shapes) {
    const { name, batch, seqLen, dModel, dState } = shape;
    parts.push(text(10, y, `${name}: B=${batch} L=${seqLen} H=${dModel} N=${dState}`, 'font-weight="bold"'));
    y += 6;
    for (const row of rows) {
      const colour =
        row.peer === "linrec" ? colours[0] : colours[2 + (order.indexOf(row.id) % (colours.length - 2))];
      parts.push(text(left - 8, y + 12, row.label, 'text-anchor="end"'));
      if (row.share === undefined)
        parts.push(text(left + 4, y + 12, row.skipped ? "not run" : "no peak measured"));
      else {
        parts.push(
          `<rect x="${left}" y="${y + 2}" width="${(row.share * scale).toFixed(1)}" height="${bar - 3}" fill="${colour}"/>`,
        );
        parts.push(text(left + row.share * scale + 5, y + 12, `${(100 * row.share).toFixed(0)} %`));
      }
      y += bar;
    }
    y += gap;
  }
  const end = left + scale;
  parts.push(
    line(end, 34, end, y - gap, 'stroke-dasharray="4 4"'),
    text(end, 44, "100 %", 'text-anchor="end" dx="-4"'),
  );
  return page(width, y, parts);
}
