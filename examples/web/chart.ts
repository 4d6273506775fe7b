/** uPlot with the page's colours, as wide as its place, made anew when the theme changes. */
import uPlot from "uplot";
import { color, onTheme } from "./dom.js";

export interface Line {
  readonly label: string;
  /** "--accent" */
  readonly color: string;
  readonly width?: number;
  readonly dash?: number[];
  readonly points?: boolean;
  readonly bars?: boolean;
}

export interface ChartOptions {
  readonly lines: readonly Line[];
  readonly logX?: boolean;
  readonly logY?: boolean;
  readonly xRange?: [number, number];
  readonly yRange?: [number, number];
  readonly xValues?: (values: readonly number[]) => string[];
  readonly yValues?: (values: readonly number[]) => string[];
  /** Where on x a vertical line stands. */
  readonly mark?: () => number | undefined;
  /** An axis without figures, so that the plot is as wide as its place. */
  readonly bare?: boolean;
}

export class Chart {
  readonly #host: HTMLElement;
  #options: ChartOptions;
  #data: uPlot.AlignedData;
  #plot: uPlot | undefined;

  constructor(host: HTMLElement, options: ChartOptions) {
    this.#host = host;
    this.#options = options;
    this.#data = [[0, 1], ...options.lines.map(() => [null, null])] as uPlot.AlignedData;
    onTheme(() => this.#make());
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(host);
  }

  show(data: uPlot.AlignedData, options?: ChartOptions): void {
    this.#data = data;
    if (options) {
      this.#options = options;
      this.#make();
    } else this.#plot?.setData(data);
  }

  #size() {
    return { width: Math.max(80, this.#host.clientWidth), height: Math.max(40, this.#host.clientHeight) };
  }

  #make(): void {
    this.#plot?.destroy();
    const { lines, logX, logY, xRange, yRange, xValues, yValues, mark, bare } = this.#options;
    const axis = (log: boolean | undefined, values: ChartOptions["xValues"]): uPlot.Axis => ({
      stroke: color("--muted"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: color("--line"), width: 1 },
      ticks: { stroke: color("--line"), width: 1, size: 4 },
      ...(log
        ? {
            splits: (_: uPlot, __: number, least: number, most: number) => powersOfTen(least, most),
            filter: (_: uPlot, splits: number[]) => splits, // uPlot's own leaves some of them without a figure
          }
        : {}),
      ...(values ? { values: (_: uPlot, splits: number[]) => values(splits) } : {}),
    });
    const scale = (log: boolean | undefined): uPlot.Scale =>
      log ? { distr: 3, time: false } : { time: false };
    this.#plot = new uPlot(
      {
        ...this.#size(),
        pxAlign: false,
        cursor: { show: false },
        legend: { show: false },
        padding: bare ? [6, 0, 0, 0] : [10, 12, 0, 0],
        scales: {
          x: { ...scale(logX), ...(xRange ? { range: xRange } : {}) },
          y: { ...scale(logY), ...(yRange ? { range: yRange } : {}) },
        },
        axes: [
          { ...axis(logX, xValues), size: 26, show: !bare },
          { ...axis(logY, yValues), size: 58, show: !bare },
        ],
        series: [
          {},
          ...lines.map(({ label, color: name, width = 1.5, dash, points, bars }) => ({
            label,
            stroke: color(name),
            width,
            ...(dash ? { dash } : {}),
            ...(bars
              ? {
                  paths: uPlot.paths.bars?.({ size: [0.8, 40] }) as uPlot.Series.PathBuilder,
                  fill: color(name),
                }
              : {}),
            points: { show: points === true, size: 5, fill: color(name) },
          })),
        ],
        hooks: mark
          ? {
              draw: [
                (plot) => {
                  const at = mark();
                  if (at === undefined) return;
                  const x = plot.valToPos(at, "x", true);
                  const { ctx, bbox } = plot;
                  ctx.save();
                  ctx.strokeStyle = color("--second");
                  ctx.setLineDash([4, 4]);
                  ctx.beginPath();
                  ctx.moveTo(x, bbox.top);
                  ctx.lineTo(x, bbox.top + bbox.height);
                  ctx.stroke();
                  ctx.restore();
                },
              ],
            }
          : {},
      },
      this.#data,
      this.#host,
    );
  }
}

/** Where a logarithmic axis has its lines. */
function powersOfTen(least: number, most: number): number[] {
  const [from, to] = [Math.ceil(Math.log10(least) - 1e-9), Math.floor(Math.log10(most) + 1e-9)];
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => 10 ** (from + i));
}
