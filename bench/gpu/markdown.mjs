/** The results as a page of tables. */
import { ms, percent, table } from "../report/markdown.mjs";

export function toMarkdown({ date, node, gpu, peaks, shapes, lengths, steps, torch, quick }) {
  return [
    quick ? "**A trial run on tiny shapes: these figures mean nothing.**\n" : "",
    `Measured ${date.slice(0, 10)} on ${gpu.adapter} (${gpu.driver}), Node ${node}.`,
    gpu.software
      ? "\n**This adapter is software: the CPU under another name. The run shows that everything works and is right; its times say nothing about a GPU.**\n"
      : "",
    `Peaks, measured in the same run: copy ${gb(peaks.copyBytesPerMs)} GB/s (read and written, ${peaks.copyBytes / 2 ** 20} MiB each way), ` +
      `float32 multiply-add ${gflops(peaks.flopsPerMs)} GFLOP/s. Times of kernels: ${peaks.method}.`,
    "The limit is the longer of flops / multiply-add peak and bytes / copy peak, for the flops and bytes of the kernels as they are.\n",
    table(
      [
        "",
        "tokens",
        "GPU, ms",
        "GFLOP/s",
        "of the multiply-add peak",
        "GB/s",
        "of the copy peak",
        "limit, ms",
        "of the limit",
        "array to array, ms",
        "error (limit)",
      ],
      shapes.map(overview),
    ),
    ...notes(shapes),
    "### Kernels\n",
    table(
      [
        "",
        "kernel",
        "dispatches",
        "ms",
        "of the GPU's time",
        "GFLOP/s",
        "of the multiply-add peak",
        "GB/s",
        "of the copy peak",
      ],
      shapes
        .filter(({ failed }) => !failed)
        .flatMap((row) => row.kernels.map((kernel) => kernelRow(row, kernel, peaks))),
    ),
    ...(lengths.length ? [sweep(lengths)] : []),
    ...(steps.length ? [streams(steps)] : []),
    beside(torch, shapes),
    "",
  ].join("\n");
}

export const title = ({ name, batch, seqLen, dModel, dState, layers }) =>
  `${name}: B=${batch} L=${seqLen} H=${dModel} N=${dState}${layers ? `, ${layers} layers` : ""}`;

const gb = (bytesPerMs) => (bytesPerMs / 1e6).toPrecision(3);
const gflops = (flopsPerMs) => (flopsPerMs / 1e6).toPrecision(4);
const errorOf = ({ error, limit }) => `${error.toExponential(0)} (${limit.toExponential(0)})`;

function overview({ shape, failed, ...row }) {
  if (failed) return [title(shape), "", failed, ...Array(8).fill("")];
  const { tokens, flops, bytes, gpuMs, host, roofline, shareOfFma, shareOfCopy, shareOfRoofline, check } =
    row;
  return [
    title(shape),
    tokens,
    ms(gpuMs),
    gflops(flops / gpuMs),
    percent(shareOfFma),
    bytes ? gb(bytes / gpuMs) : "—",
    bytes ? percent(shareOfCopy) : "—",
    ms(roofline),
    bytes ? percent(shareOfRoofline) : "—",
    ms(host.median),
    errorOf(check),
  ];
}

function notes(shapes) {
  const names = (list) => list.map(({ shape }) => shape.name).join(", ");
  const scaled = shapes.filter((row) => row.scaled);
  const ran = shapes.filter(({ failed }) => !failed);
  const furthest = Math.max(...ran.map(({ check }) => check.atSize));
  return [
    ...(scaled.length ? [`Fewer tokens than on a GPU: ${names(scaled)}.`] : []),
    ...(ran.length ? [`At full size the GPU's y is within ${furthest.toExponential(0)} of the CPU's.`] : []),
    "",
  ];
}

function kernelRow({ shape, gpuMs }, { name, dispatches, ms: time, flops, bytes }, peaks) {
  return [
    title(shape),
    name,
    dispatches,
    ms(time),
    percent(time / gpuMs),
    ...(flops ? [gflops(flops / time), percent(flops / time / peaks.flopsPerMs)] : ["—", "—"]),
    ...(bytes ? [gb(bytes / time), percent(bytes / time / peaks.copyBytesPerMs)] : ["—", "—"]),
  ];
}

function sweep(lengths) {
  const row = (name, of) => [name, ...lengths.map(of)];
  return `### Time against length: B=1 H=N=64, ms\n\n${table(
    ["", ...lengths.map(({ shape }) => shape.seqLen)],
    [
      row("GPU", ({ gpuMs }) => ms(gpuMs)),
      row("array to array", ({ host }) => ms(host?.median)),
      row("limit", ({ roofline }) => ms(roofline)),
    ],
  )}`;
}

function streams(steps) {
  return `### Steps: one token of each stream, with its readback\n\n${table(
    ["", "p50, ms", "middle half", "stream-steps/s", "error (limit)"],
    steps.map(({ failed, ...step }) =>
      failed
        ? [step.name, failed, "", "", ""]
        : [
            `B=${step.batch} H=${step.dModel} N=${step.dState}`,
            ms(step.ms.median),
            `${ms(step.ms.q1)} – ${ms(step.ms.q3)}`,
            Math.round(step.perSecond),
            errorOf(step),
          ],
    ),
  )}`;
}

function beside(torch, shapes) {
  if (torch.missing) return `PyTorch-CUDA was not measured beside it: ${torch.missing}.`;
  const layers = shapes.filter(({ shape, failed }) => !shape.layers && !failed);
  const ratio = (theirs, ours) => `${ms(theirs)} (${(theirs / ours).toFixed(1)} ×)`;
  return `### Beside PyTorch ${torch.torch} on ${torch.device}\n\nms, and how many times linrec's.\n\n${table(
    ["", "way", "compute only", "with host copies"],
    layers.flatMap(({ shape, gpuMs, host }, i) =>
      torch.rows[i].map(({ way, failed, ms: compute, msWithCopies }) => [
        title(shape),
        way.replace("by_", "by "),
        ...(failed ? [failed, ""] : [ratio(compute, gpuMs), ratio(msWithCopies, host.median)]),
      ]),
    ),
  )}`;
}
