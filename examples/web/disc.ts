/** Inside the unit disc: what a checkpoint remembers; the visitor's own, too. */
import { type Engine, type Lru, type Memory, type Model, readSafetensors, toLruParams } from "linrec";
import { Chart } from "./chart.js";
import { choices, element, fastest, inUnits, make, messageOf, short, showMs, whole } from "./dom.js";
import { makePlane } from "./plane.js";

const LONGEST_RESPONSE = 2000;
/** The response is shown until it stays below this much of its largest value. */
const FADED = 0.01;
/** Bars of the histogram, and the half-lives between which they stand. */
const BINS = 24;
/** What takes longer is run once, what is shorter as often as fits into this. */
const LONG_MS = 2000;
const MEASURE_MS = 100;
/** As the page's field says. */
const MOST_TOKENS = 65_536;
/** Points that a chart of y shows at most: more than it is wide. */
const MOST_POINTS = 2000;

interface Opened {
  readonly name: string;
  readonly model: Model;
  readonly layers: readonly Memory[];
  /** The bare layers, where the checkpoint has them under their usual names. */
  readonly lrus: readonly (Lru | undefined)[];
}

export function showDisc(engine: Engine, digits: Uint8Array<ArrayBuffer>): void {
  const note = element("model-note", HTMLElement);
  const drop = element("drop", HTMLElement);
  const file = element("file", HTMLInputElement);
  const stretch = element("stretch", HTMLInputElement);
  const [from, to] = [element("from", HTMLInputElement), element("to", HTMLInputElement)];
  const memories = new Chart(element("memories", HTMLElement), {
    lines: [{ label: "states", color: "--accent", bars: true, width: 0 }],
    logX: true,
  });
  const impulse = new Chart(element("impulse", HTMLElement), {
    lines: [{ label: "response", color: "--accent" }],
  });
  const output = new Chart(element("output", HTMLElement), { lines: [{ label: "y", color: "--accent" }] });
  const plane = makePlane(element("plane", HTMLElement), (n) => {
    chosen = n;
    show();
  });
  let opened: Opened | undefined;
  let [layer, chosen] = [0, 0];

  const open = async (name: string, bytes: Uint8Array<ArrayBuffer>) => {
    note.textContent = `Reading ${name} …`;
    try {
      const next = await openCheckpoint(engine, name, bytes);
      opened?.model.dispose();
      for (const lru of opened?.lrus ?? []) lru?.dispose();
      opened = next;
    } catch (error) {
      note.textContent = `${name}: ${messageOf(error)}${opened ? ` Still open: ${opened.name}.` : ""}`;
      return;
    }
    const { model, layers } = opened;
    note.textContent = `${name}: ${model.architecture}, ${model.inputWidth} → ${model.outputWidth} features, ${layers.length} LRU layer${layers.length === 1 ? "" : "s"}.`;
    showStages(model);
    output.show([
      [0, 1],
      [null, null],
    ]);
    element("run-note", HTMLElement).textContent = "";
    choices(
      element("disc-layer", HTMLElement),
      layers.map((_, i) => String(i + 1)),
      (i) => {
        layer = i;
        chosen = longest(layers[i] as Memory);
        show();
      },
    );
    await run(model, output);
  };

  const show = () => {
    if (!opened) return;
    const memory = opened.layers[layer] as Memory;
    plane.show(opened.layers, layer, chosen, stretch.checked);
    const [radius, angle, halfLife] = [memory.radius, memory.angle, memory.halfLife].map(
      (values) => values[chosen] as number,
    ) as [number, number, number];
    const turn = Math.abs(Math.atan2(Math.sin(angle), Math.cos(angle)));
    element("state", HTMLElement).textContent =
      `State ${chosen + 1} of ${memory.radius.length}: |λ| = ${radius.toFixed(5)}, half forgotten after ${showTokens(halfLife)}${turn > 1e-3 ? `, a turn every ${showTokens((2 * Math.PI) / turn)}` : ""}.`;
    showMemories(memories, memory);
    showImpulse();
  };

  const showImpulse = () => {
    const lru = opened?.lrus[layer];
    const memory = opened?.layers[layer];
    for (const input of [from, to]) {
      input.max = String((lru?.dModel ?? 1) - 1);
      input.disabled = lru === undefined;
    }
    if (!lru || !memory) {
      impulse.show([
        [0, 1],
        [null, null],
      ]);
      return;
    }
    const length = Math.min(LONGEST_RESPONSE, Math.max(32, Math.ceil(6 * Math.max(...memory.halfLife))));
    const clamp = (input: HTMLInputElement) =>
      Math.min(lru.dModel - 1, Math.max(0, Math.round(Number(input.value) || 0)));
    const response = responseOf(lru, clamp(to), clamp(from), length);
    const limit = FADED * response.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const end = Math.max(32, response.findLastIndex((value) => Math.abs(value) > limit) + 1);
    const shown = response.subarray(0, end);
    impulse.show([Array.from(shown, (_, t) => t), [...shown]]);
  };

  stretch.onchange = show;
  from.oninput = showImpulse;
  to.oninput = showImpulse;
  file.onchange = async () => {
    const [given] = file.files ?? [];
    if (given) await open(given.name, new Uint8Array(await given.arrayBuffer()));
    file.value = "";
  };
  drop.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const given = event.dataTransfer?.files[0];
    if (given) await open(given.name, new Uint8Array(await given.arrayBuffer()));
  };
  element("digits-again", HTMLButtonElement).onclick = () => open("The digits network", digits);
  element("run", HTMLButtonElement).onclick = () => opened && run(opened.model, output);
  open("The digits network", digits);
}

async function openCheckpoint(engine: Engine, name: string, bytes: Uint8Array<ArrayBuffer>): Promise<Opened> {
  const model = await engine.model(bytes);
  const layers = model.inspect();
  if (layers.length === 0) throw new Error("it has no LRU layer.");
  const { tensors } = readSafetensors(bytes);
  const lrus = await Promise.all(
    layers.map(async (memory) => {
      const own = [...tensors.keys()].find(
        (key) => key.endsWith(`${memory.name}.nu_log`) || (layers.length === 1 && key.endsWith("nu_log")),
      );
      if (own === undefined) return undefined;
      const prefix = own.slice(0, -"nu_log".length);
      return Promise.resolve()
        .then(() => engine.lru(toLruParams(tensors, prefix)))
        .catch(() => undefined);
    }),
  );
  return { name, model, layers, lrus };
}

/** y's feature `to` at each time after a 1 in x's feature `from`: the sum over n of Re(C[to, n] lambda_n^t BNorm[n, from]), and D. */
function responseOf(lru: Lru, to: number, from: number, length: number): Float64Array {
  const { K, BNorm } = lru.kernel(length);
  const { C } = lru.discretize();
  const response = new Float64Array(length);
  for (let n = 0; n < lru.dState; n++) {
    const [cr, ci] = [C.re[to * lru.dState + n] as number, C.im[to * lru.dState + n] as number];
    const [br, bi] = [BNorm.re[n * lru.dModel + from] as number, BNorm.im[n * lru.dModel + from] as number];
    const [re, im] = [cr * br - ci * bi, cr * bi + ci * br];
    for (let t = 0; t < length; t++) {
      const at = n * length + t;
      response[t] = (response[t] as number) + re * (K.re[at] as number) - im * (K.im[at] as number);
    }
  }
  return response;
}

/** How many states have which half-life. */
function showMemories(chart: Chart, { halfLife }: Memory): void {
  const [least, most] = [0.5, Math.max(2000, ...halfLife)];
  const edge = (i: number) => least * (most / least) ** (i / BINS);
  const counts = new Array<number>(BINS).fill(0);
  for (const tokens of halfLife) {
    const bin = Math.floor((BINS * Math.log(Math.max(tokens, least) / least)) / Math.log(most / least));
    const i = Math.min(BINS - 1, bin);
    counts[i] = (counts[i] as number) + 1;
  }
  chart.show([counts.map((_, i) => Math.sqrt(edge(i) * edge(i + 1))), counts], {
    lines: [{ label: "states", color: "--accent", bars: true, width: 0 }],
    logX: true,
    yRange: [0, Math.max(...counts) * 1.1],
    xRange: [least, most],
    xValues: (splits) => splits.map(short),
    yValues: (splits) => splits.map((value) => (Number.isInteger(value) ? String(value) : "")),
  });
}

function showStages(model: Model): void {
  const head = make(
    "tr",
    "",
    ...["Stage", "Width", "In the checkpoint"].map((title) => make("th", "", title)),
  );
  const rows = model.stages.map(({ kind, name, inWidth, outWidth }) =>
    make("tr", "", make("td", "", kind), make("td", "", `${inWidth} → ${outWidth}`), make("td", "", name)),
  );
  element("stages", HTMLTableElement).replaceChildren(make("thead", "", head), make("tbody", "", ...rows));
}

/** Runs the model over a signal, and draws the first features of what comes out. */
async function run(model: Model, chart: Chart): Promise<void> {
  const note = element("run-note", HTMLElement);
  const kind = element("signal", HTMLSelectElement).value;
  const tokens = element("tokens", HTMLInputElement);
  const asked = tokens.value;
  const seqLen = Math.min(MOST_TOKENS, Math.max(1, Math.round(Number(asked)) || 1));
  tokens.value = String(seqLen);
  const limits = asked === tokens.value ? "" : ` Tokens are whole numbers from 1 to ${whole(MOST_TOKENS)}.`;
  const width = model.inputWidth;
  const value = (t: number) =>
    kind === "impulse" ? Number(t === 0) : kind === "sine" ? Math.sin(t / 8) : 2 * Math.random() - 1;
  const length = seqLen * width;
  const { vocabulary } = model;
  const x =
    vocabulary === undefined
      ? Float32Array.from({ length }, (_, i) => value(Math.floor(i / width)))
      : Int32Array.from({ length }, () => Math.floor(Math.random() * vocabulary));
  try {
    const start = performance.now();
    const { y } = await model.forward(x);
    const first = performance.now() - start;
    // The first forward also starts threads and warms up: what comes after it takes what was predicted.
    const ms = first > LONG_MS ? first : await fastest(() => model.forward(x), MEASURE_MS);
    const cold = first > 3 * ms ? ` (the first time ${showMs(first)})` : "";
    const out = model.outputWidth;
    const rows = y.length / out;
    note.textContent = `x [${whole(seqLen)}, ${width}] → y [${whole(rows)}, ${out}] in ${showMs(ms)}${cold}, on ${inUnits(model.explain("forward", { seqLen }).reason)}.${limits}`;
    if (rows === 1) {
      // One answer for the whole sequence: its features side by side.
      chart.show([Array.from(y, (_, i) => i), [...y]], {
        lines: [{ label: "y", color: "--accent", bars: true }],
        xRange: [-0.6, out - 0.4],
        xValues: (splits) => splits.map((i) => (Number.isInteger(i) ? String(i) : "")),
      });
      return;
    }
    const every = Math.ceil(rows / MOST_POINTS);
    const shown = Array.from({ length: Math.ceil(rows / every) }, (_, i) => i * every);
    const colors = ["--accent", "--second", "--third"].slice(0, out);
    const lines = colors.map((color, feature) => ({ label: `y[${feature}]`, color }));
    chart.show(
      [
        shown,
        ...lines.map((_, feature) => shown.map((t) => y[t * out + feature] ?? null)),
      ] as uPlot.AlignedData,
      { lines },
    );
  } catch (error) {
    note.textContent = messageOf(error);
  }
}

function longest({ halfLife }: Memory): number {
  return halfLife.indexOf(Math.max(...halfLife));
}

function showTokens(tokens: number): string {
  const value = tokens < 10 ? tokens.toPrecision(2) : whole(tokens);
  return `${value} token${value === "1" ? "" : "s"}`;
}
