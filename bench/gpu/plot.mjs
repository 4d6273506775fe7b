/** Two plots in one: time against length beside the roofline, and the share of what is possible for each shape. */
import { colours, INK, line, page, text } from "../report/svg.mjs";
import { title } from "./markdown.mjs";

const [WIDTH, LEFT, RIGHT] = [820, 70, 190];

export function plot({ gpu, shapes, lengths }) {
  const warning = gpu.software ? " (software: the figures say nothing about a GPU)" : "";
  const parts = [text(10, 22, `${gpu.adapter}${warning}`, 'font-size="14" font-weight="bold"')];
  const measured = lengths.filter(({ failed }) => !failed);
  const top = 40;
  const middle = measured.length ? top + 380 : top;
  if (measured.length) parts.push(...timePlot(measured, top));
  const [bars, height] = sharePlot(
    shapes.filter(({ failed }) => !failed),
    middle,
  );
  return page(WIDTH, height, [...parts, ...bars]);
}

function timePlot(rows, top) {
  const [height, bottom] = [320, 40];
  const series = [
    { label: "array to array", colour: colours[2], of: ({ host }) => host.median },
    { label: "GPU", colour: colours[0], of: ({ gpuMs }) => gpuMs },
    { label: "roofline", colour: INK, dashed: true, of: ({ roofline }) => roofline },
  ];
  const values = rows.flatMap((row) => series.map(({ of }) => of(row)));
  const tokens = rows.map(({ tokens }) => tokens);
  const [x0, x1] = [Math.min(...tokens), Math.max(...tokens)].map(Math.log2);
  const [y0, y1] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const px = (x) => LEFT + ((Math.log2(x) - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - RIGHT);
  const py = (y) => top + height - bottom - ((Math.log10(y) - y0) / (y1 - y0 || 1)) * (height - bottom - 30);
  const parts = [
    text(LEFT, top + 12, "Time of a forward, ms, against tokens (B=1, H=N=64); both logarithmic"),
  ];
  for (const x of tokens) parts.push(text(px(x), top + height - 18, x, 'text-anchor="middle"'));
  for (let power = Math.ceil(y0); power <= y1; power++) {
    const y = py(10 ** power);
    parts.push(line(LEFT, y, WIDTH - RIGHT, y, 'stroke-opacity="0.3"'));
    parts.push(text(LEFT - 6, y + 4, 10 ** power, 'text-anchor="end"'));
  }
  series.forEach(({ label, colour, dashed, of }, i) => {
    const points = rows.map((row) => [px(row.tokens), py(of(row))]);
    const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    const dash = dashed ? 'stroke-dasharray="6 4"' : "";
    parts.push(`<polyline fill="none" stroke="${colour}" stroke-width="2" ${dash} points="${path}"/>`);
    if (!dashed)
      for (const [x, y] of points)
        parts.push(`<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="3" fill="${colour}"/>`);
    const y = top + 30 + 20 * i;
    parts.push(`<rect x="${WIDTH - RIGHT + 20}" y="${y - 9}" width="12" height="10" fill="${colour}"/>`);
    parts.push(text(WIDTH - RIGHT + 38, y, label));
  });
  return parts;
}

function sharePlot(rows, top) {
  const [left, bar, right] = [360, 15, 60];
  const shares = [
    ["of the multiply-add peak", "shareOfFma", colours[0]],
    ["of the copy peak", "shareOfCopy", colours[2]],
    ["of the limit that both set", "shareOfRoofline", INK],
  ];
  const parts = [text(10, top + 12, "Shares of what this GPU was measured to give, GPU time only")];
  const most = Math.max(1, ...rows.flatMap((row) => shares.map(([, key]) => row[key] ?? 0)));
  const scale = (WIDTH - left - right) / most;
  let y = top + 36;
  for (const row of rows) {
    parts.push(text(10, y, title(row.shape), 'font-weight="bold"'));
    y += 6;
    for (const [label, key, colour] of shares) {
      parts.push(text(left - 8, y + 12, label, 'text-anchor="end"'));
      const share = row[key];
      if (share === undefined) parts.push(text(left + 4, y + 12, "bytes not counted"));
      else {
        parts.push(
          `<rect x="${left}" y="${y + 2}" width="${(share * scale).toFixed(1)}" height="${bar - 3}" fill="${colour}"/>`,
        );
        parts.push(text(left + share * scale + 5, y + 12, `${(100 * share).toFixed(0)} %`));
      }
      y += bar;
    }
    y += 24;
  }
  const end = left + scale;
  parts.push(line(end, top + 20, end, y - 24, 'stroke-dasharray="4 4"'));
  return [parts, y];
}
