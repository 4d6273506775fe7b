/** Why this backend: what was found, what would be picked for a piece of work, and whether that holds. */
import { type BackendName, type Candidate, createEngine, type Engine, initLru } from "linrec";
import { Chart, type Line } from "./chart.js";
import { element, fastest, inUnits, make, messageOf, painted, short, showMs } from "./dom.js";

interface Size {
  readonly name: "batch" | "seqLen" | "dModel" | "dState";
  readonly title: string;
  /** Of 2, the slider's ends and where it starts. */
  readonly powers: readonly [from: number, to: number, start: number];
}

const sizes: readonly Size[] = [
  { name: "batch", title: "B, sequences", powers: [0, 8, 0] },
  { name: "seqLen", title: "L, tokens", powers: [0, 18, 12] },
  { name: "dModel", title: "H, features", powers: [2, 9, 6] },
  { name: "dState", title: "N, states", powers: [2, 9, 6] },
];

type Work = Record<Size["name"], number>;

/** Of x and of y: 64 MB each. */
const MOST_VALUES = 1 << 24;
/** What is predicted to take longer is not measured. */
const MOST_MS = 4000;
/** Of each backend. */
const MEASURE_MS = 400;

export function showWhy(engine: Engine): void {
  showFound(engine);
  const work = { batch: 1, seqLen: 4096, dModel: 64, dState: 64 };
  const crossover = new Chart(element("crossover", HTMLElement), { lines: [] });
  const measured = new Map<string, string | number>();
  const update = () => {
    measured.clear();
    showPlan(engine, work, measured);
    showCrossover(engine, work, crossover);
  };
  showSliders(work, update);
  update();

  const button = element("measure", HTMLButtonElement);
  button.onclick = async () => {
    button.disabled = true;
    const frozen = { ...work };
    const same = () => Object.entries(frozen).every(([name, value]) => work[name as Size["name"]] === value);
    try {
      for (const candidate of engine.explain("forward", frozen).candidates) {
        if (!candidate.available) continue;
        note("measure-note", `Measuring ${nameOf(candidate)} …`);
        await painted();
        const result = await measure(frozen, candidate).catch(messageOf);
        if (!same()) break;
        measured.set(nameOf(candidate), result);
        showPlan(engine, frozen, measured);
      }
      note(
        "measure-note",
        same()
          ? "Measured: the fastest of several forwards, copies included. While the machine is busy with other things, most take longer."
          : "The sizes were changed meanwhile.",
      );
    } finally {
      button.disabled = false;
    }
  };
  showSelfTest(engine);
}

function showFound({ backends }: Engine): void {
  const { wasm, webgpu } = backends;
  const facts: [string, string, string][] = [
    [
      "Cross-origin isolation",
      crossOriginIsolated ? "yes" : "no",
      crossOriginIsolated
        ? "Threads share one memory."
        : "Threads exchange messages: the same bits, a little slower. The headers COOP and COEP change that.",
    ],
    [
      "Worker threads",
      wasm.available ? String(wasm.threads ?? 0) : "none",
      `${navigator.hardwareConcurrency} logical cores`,
    ],
    ["SIMD", wasm.available ? String(wasm.simd) : "none", wasm.reason],
    ["WebGPU", webgpu.available ? (webgpu.software ? "in software" : "yes") : "no", webgpu.reason],
  ];
  element("found", HTMLElement).replaceChildren(
    ...facts.map(([term, value, why]) =>
      make("div", "", make("dt", "", term), make("dd", "", value, make("small", "", why))),
    ),
  );
}

function showSliders(work: Work, changed: () => void): void {
  const rows = sizes.map(({ name, title, powers: [from, to, start] }) => {
    const input = make("input", "");
    Object.assign(input, {
      type: "range",
      min: String(from),
      max: String(to),
      value: String(start),
      id: `size-${name}`,
    });
    const output = make("output", "");
    const read = () => {
      work[name] = 2 ** Number(input.value);
      output.value = work[name].toLocaleString("en");
      input.setAttribute("aria-valuetext", output.value);
    };
    input.oninput = () => {
      read();
      changed();
    };
    read();
    return make("label", "", title, input, output);
  });
  element("sizes", HTMLElement).replaceChildren(...rows);
}

function showPlan(engine: Engine, work: Work, measured: ReadonlyMap<string, string | number>): void {
  const plan = engine.explain("forward", work);
  const { batch, seqLen, dModel, dState } = work;
  element("picked", HTMLElement).replaceChildren(
    make("strong", "", `auto picks ${inUnits(plan.reason)}.`),
    ` For y [${batch}, ${seqLen.toLocaleString("en")}, ${dModel}] from ${dState} states.`,
  );
  const times = [...plan.candidates.map(({ ms }) => ms), ...measured.values()].filter(
    (value): value is number => typeof value === "number" && Number.isFinite(value),
  );
  const [least, most] = [Math.min(...times) / 3, Math.max(...times)];
  // On a logarithmic scale: what is compared is often a thousand times apart.
  const width = (ms: number) => `${(100 * Math.log(ms / least)) / Math.log(most / least)}%`;
  element("costs", HTMLElement).replaceChildren(
    ...plan.candidates.map((candidate) => {
      const chosen = candidate.backend === plan.backend && candidate.threads === plan.threads;
      const row = make("div", `cost${chosen ? " chosen" : ""}`);
      row.append(make("span", "title", `${nameOf(candidate)}${chosen ? " · picked" : ""}`));
      if (!candidate.available) {
        row.append(make("span", "", candidate.reason), make("span", "number", "not here"));
        return row;
      }
      const bar = (kind: "predicted" | "measured", value: string | number | undefined) => {
        const fill = make("div", `fill ${kind}`);
        fill.style.width = typeof value === "number" ? width(value) : "0";
        const words = typeof value === "number" ? showMs(value) : (value ?? "·");
        row.append(make("div", "track", fill), make("span", "number", words));
        row.lastElementChild?.setAttribute("title", kind);
      };
      bar("predicted", candidate.ms);
      bar("measured", measured.get(nameOf(candidate)));
      return row;
    }),
  );
}

/** The time of a forward, in ms; in words why not. */
async function measure(work: Work, { backend, threads, ms }: Candidate): Promise<number | string> {
  const { batch, seqLen, dModel, dState } = work;
  const values = batch * seqLen * dModel;
  if (values > MOST_VALUES) return "too large";
  if (ms > MOST_MS) return "too slow";
  const engine = await createEngine({ backend, threads: backend === "wasm" ? threads : 0 });
  try {
    const lru = await engine.lru(initLru({ dModel, dState, rMin: 0.9, rMax: 0.999, seed: 1 }));
    const x = Float32Array.from({ length: values }, (_, i) => Math.sin(i));
    const start = performance.now();
    await lru.forward(x, { batch }); // starts threads, or compiles shaders
    const first = performance.now() - start;
    return first > MOST_MS ? first : await fastest(() => lru.forward(x, { batch }), MEASURE_MS);
  } finally {
    await engine.dispose();
  }
}

const looks: Record<BackendName, Omit<Line, "label">> = {
  wasm: { color: "--accent", width: 2 },
  webgpu: { color: "--second", width: 2 },
  reference: { color: "--muted", width: 1 },
};

function showCrossover(engine: Engine, work: Work, chart: Chart): void {
  const lengths = Array.from({ length: 73 }, (_, i) => Math.round(2 ** (i / 4)));
  const plans = lengths.map((seqLen) => engine.explain("forward", { ...work, seqLen }).candidates);
  const here = (plans[0] as readonly Candidate[])
    .map((candidate, i) => ({ candidate, i }))
    .filter(({ candidate }) => candidate.available);
  const lines = here.map(({ candidate }) => ({
    ...looks[candidate.backend],
    label: nameOf(candidate),
    ...(candidate.backend === "wasm" && candidate.threads === 0 ? { dash: [6, 4] } : {}),
  }));
  const data = here.map(({ i }) => plans.map((candidates) => candidates[i]?.ms ?? null));
  chart.show([lengths, ...data] as uPlot.AlignedData, {
    lines,
    logX: true,
    logY: true,
    xRange: [1, lengths.at(-1) as number],
    xValues: (splits) => splits.map(short),
    yValues: (splits) => splits.map(showTick),
    mark: () => work.seqLen,
  });
  const host = element("crossover-key", HTMLElement);
  host.replaceChildren(
    ...lines.map((line) => {
      const swatch = make("i", line.dash ? "dashed" : "");
      swatch.style.color = `var(${line.color})`;
      return make("span", "", swatch, line.label);
    }),
  );
}

/** A power of ten, in ms, without noughts after the point. */
function showTick(ms: number): string {
  const [value, unit] = ms >= 1000 ? [ms / 1000, "s"] : ms < 0.9 ? [1000 * ms, "µs"] : [ms, "ms"];
  return `${Number(value.toPrecision(1))} ${unit}`;
}

function showSelfTest(engine: Engine): void {
  const button = element("test", HTMLButtonElement);
  const table = element("test-table", HTMLTableElement);
  button.onclick = async () => {
    button.disabled = true;
    note("test-note", "Testing …");
    await painted();
    try {
      const { passed, results } = await engine.selfTest();
      const head = make("tr", "", ...["Backend", "Error", "Limit", ""].map((title) => make("th", "", title)));
      // Each case has a line of its own above its backends.
      const rows = results.flatMap((result, i) => {
        const { name, error, limit, passed: right, reason } = result;
        const cells = [
          make("td", "", nameOf(result)),
          make("td", "", Number.isFinite(error) ? error.toExponential(1) : reason),
          make("td", "", limit.toExponential(1)),
          make("td", right ? "ok" : "bad", right ? "right" : "wrong"),
        ];
        const title = make("th", "case", name);
        title.colSpan = cells.length;
        return [...(name === results[i - 1]?.name ? [] : [make("tr", "", title)]), make("tr", "", ...cells)];
      });
      table.replaceChildren(make("thead", "", head), make("tbody", "", ...rows));
      table.hidden = false;
      note(
        "test-note",
        passed
          ? `All ${results.length} right: max |error| / max |y| against float64.`
          : "A backend is wrong: it will not be used any more on this page.",
      );
      showFound(engine);
    } catch (error) {
      note("test-note", messageOf(error));
    } finally {
      button.disabled = false;
    }
  };
}

function nameOf({ backend, threads }: { backend: BackendName; threads: number }): string {
  if (backend === "webgpu") return "WebGPU";
  if (backend === "reference") return "float64 reference";
  if (threads === 0) return "WASM, this thread";
  return `WASM, ${threads} worker${threads === 1 ? "" : "s"}`;
}

function note(id: string, text: string): void {
  element(id, HTMLElement).textContent = text;
}
