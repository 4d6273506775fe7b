/** Draw a digit: the network reads it pixel by pixel. */
import type { Engine, Memory, Model } from "linrec";
import { Chart } from "./chart.js";
import { CLASSES, type Digits, PIXELS, SIDE } from "./data.js";
import { choices, color, element, make, onTheme, showMs, whole } from "./dom.js";
import { Pad } from "./pad.js";
import { compare, Reader } from "./reader.js";

/** Digits that are offered at a time. */
const OFFERED = 10;
/** Pixels a second at the ends of the slider. */
const [SLOWEST, FASTEST] = [20, 20_000];

export function showDraw(engine: Engine, model: Model, data: Digits): void {
  const reading = element("reading", HTMLCanvasElement);
  const heat = element("heat", HTMLCanvasElement);
  const play = element("play", HTMLButtonElement);
  const timing = element("timing", HTMLElement);
  const speed = element("speed", HTMLInputElement);
  const bars = Array.from({ length: CLASSES }, (_, digit) => makeBar(digit));
  element("bars", HTMLOListElement).replaceChildren(...bars.map(({ row }) => row));
  const chart = new Chart(element("probabilities", HTMLElement), {
    lines: Array.from({ length: CLASSES }, (_, i) => ({ label: String(i), color: "--muted", width: 1 })),
    yRange: [0, 1.02],
    bare: true,
  });
  const memories = model.inspect();
  let pixels: Float32Array = new Float32Array(PIXELS);
  let reader = new Reader(model, pixels);
  let label: number | undefined;
  let layer = 0;
  let playing = false;
  let last = 0;
  let leader = -1;

  const pad = new Pad(
    element("pad", HTMLCanvasElement),
    () => preview(),
    () => start(pad.pixels(), undefined),
  );

  element("runs-on", HTMLElement).textContent = describe(engine, model);
  element("clear", HTMLButtonElement).onclick = () => pad.clear();
  play.onclick = () => {
    if (reader.done) start(pixels, label);
    else setPlaying(!playing);
  };
  element("whole", HTMLButtonElement).onclick = () => {
    reader.read(PIXELS);
    show();
    finish();
  };
  const pace = () => SLOWEST * (FASTEST / SLOWEST) ** (Number(speed.value) / 100);
  const showPace = () => {
    element("speed-out", HTMLOutputElement).value = `${whole(Number(pace().toPrecision(2)))} pixels a second`;
  };
  speed.oninput = showPace;
  showPace();
  choices(
    element("layer", HTMLElement),
    memories.map((_, i) => `Layer ${i + 1}`),
    (i) => {
      layer = i;
      drawHeat(heat, reader, memories[layer] as Memory, layer);
    },
  );
  let page = 0;
  const more = element("more", HTMLButtonElement);
  more.onclick = () => offer(++page);
  offer(0);
  onTheme(() => show());
  const first = page * OFFERED;
  pad.put(data.image(first));
  start(data.image(first), data.labels[first]);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) element("whole", HTMLButtonElement).click();

  function offer(number: number): void {
    const thumbs = Array.from({ length: OFFERED }, (_, i) => {
      const which = (number * OFFERED + i) % data.count;
      const image = data.image(which);
      const canvas = make("canvas", "");
      [canvas.width, canvas.height] = [SIDE, SIDE];
      onTheme(() => drawDigit(canvas, image, PIXELS));
      const button = make("button", "", canvas);
      button.type = "button";
      button.ariaLabel = `A handwritten ${data.labels[which]}`;
      button.onclick = () => {
        pad.put(image);
        start(image, data.labels[which]);
      };
      return button;
    });
    element("picks", HTMLElement).replaceChildren(...thumbs);
  }

  /** While a stroke is drawn: what the network would read. */
  function preview(): void {
    setPlaying(false);
    pixels = pad.pixels();
    reader = new Reader(model, pixels);
    label = undefined;
    show();
    timing.textContent = "";
  }

  function start(image: Float32Array, truth: number | undefined): void {
    pixels = image;
    label = truth;
    reader = new Reader(model, pixels);
    timing.textContent = "";
    show();
    if (pixels.some((value) => value > 0)) setPlaying(true);
  }

  function setPlaying(now: boolean): void {
    if (now && !playing) {
      last = performance.now();
      requestAnimationFrame(frame);
    }
    playing = now;
    showPlay();
  }

  function showPlay(): void {
    play.textContent = playing ? "Pause" : reader.done ? "Read again" : "Read";
  }

  function frame(time: number): void {
    if (!playing) return;
    // A tab that comes back from the background does not catch up.
    const count = Math.floor((Math.min(100, Math.max(0, time - last)) / 1000) * pace());
    if (count > 0) {
      last = time;
      reader.read(count);
      show();
    }
    if (reader.done) finish();
    else requestAnimationFrame(frame);
  }

  async function finish(): Promise<void> {
    setPlaying(false);
    const of = reader;
    const { stepsMs, forwardMs, sameBits } = await compare(model, pixels);
    if (of !== reader) return;
    timing.textContent = `784 steps: ${showMs(stepsMs)}, ${showMs(stepsMs / PIXELS)} a pixel. The whole image through forward: ${showMs(forwardMs)}. ${
      sameBits ? "The same answer, to the bit." : "The answers differ in their last bits."
    }`;
  }

  function show(): void {
    drawDigit(reading, pixels, reader.at);
    const now = reader.now();
    const best = now.indexOf(Math.max(...now));
    for (const [digit, { row, fill, share }] of bars.entries()) {
      const p = now[digit] as number;
      row.classList.toggle("best", reader.at > 0 && digit === best);
      fill.style.width = `${100 * p}%`;
      share.textContent = `${(100 * p).toFixed(1)} %`;
    }
    const row = Math.ceil(reader.at / SIDE);
    element("position", HTMLElement).textContent =
      reader.at === 0 ? "What it reads" : `Pixel ${reader.at} of ${PIXELS}, row ${row}`;
    element("verdict", HTMLElement).textContent = reader.done ? verdict(best, now[best] as number) : "";
    drawHeat(heat, reader, memories[layer] as Memory, layer);
    showChart(best);
    showPlay();
  }

  function verdict(digit: number, p: number): string {
    const sure = `It reads ${digit}, ${(100 * p).toFixed(1)} % sure.`;
    if (label === undefined) return sure;
    return label === digit ? `${sure} Right.` : `${sure} It is a ${label}.`;
  }

  function showChart(best: number): void {
    const tokens = Array.from({ length: PIXELS }, (_, i) => i);
    const lines = Array.from({ length: CLASSES }, (_, digit) =>
      tokens.map((t) => (t < reader.at ? reader.probabilities[t * CLASSES + digit] : null)),
    );
    const options = {
      lines: lines.map((_, i) =>
        i === best
          ? { label: String(i), color: "--accent", width: 2.5 }
          : { label: String(i), color: "--muted", width: 1 },
      ),
      yRange: [0, 1.02] as [number, number],
      bare: true,
    };
    const moved = best !== leader;
    leader = best;
    chart.show([tokens, ...lines] as uPlot.AlignedData, moved ? options : undefined);
  }
}

function makeBar(digit: number) {
  const fill = make("div", "fill");
  const share = make("span", "share");
  return { row: make("li", "", String(digit), make("div", "track", fill), share), fill, share };
}

function describe(engine: Engine, model: Model): string {
  const { wasm } = engine.backends;
  if (model.backend !== "wasm") return model.backend === "webgpu" ? "your GPU" : "the float64 reference";
  const threads = wasm.threads ?? 0;
  return `WebAssembly with ${wasm.simd} SIMD and ${threads === 0 ? "no worker thread" : `up to ${threads} worker thread${threads === 1 ? "" : "s"}`}`;
}

/** Pixels that are not read yet are faint. */
function drawDigit(canvas: HTMLCanvasElement, pixels: Float32Array, read: number): void {
  const context = canvas.getContext("2d") as CanvasRenderingContext2D;
  const image = context.createImageData(SIDE, SIDE);
  const [ink, accent] = [rgb(color("--ink")), rgb(color("--accent"))];
  for (let i = 0; i < PIXELS; i++) {
    const here = i === read - 1 && read < PIXELS;
    image.data.set(here ? accent : ink, 4 * i);
    const alpha = (i < read || read === 0 ? 255 : 70) * (pixels[i] as number);
    image.data[4 * i + 3] = here ? 255 : alpha;
  }
  context.putImageData(image, 0, 0);
}

/** |h| of each state (rows, the longest memory on top) at each pixel (columns). */
function drawHeat(
  canvas: HTMLCanvasElement,
  { at, sizes }: Reader,
  { halfLife }: Memory,
  layer: number,
): void {
  const values = sizes[layer] as Float32Array;
  const dState = halfLife.length;
  canvas.height = dState;
  const context = canvas.getContext("2d") as CanvasRenderingContext2D;
  const image = context.createImageData(PIXELS, dState);
  const order = [...halfLife.keys()].sort((a, b) => (halfLife[b] as number) - (halfLife[a] as number));
  const accent = rgb(color("--accent"));
  for (const [row, n] of order.entries()) {
    let most = 1e-30;
    for (let t = 0; t < at; t++) most = Math.max(most, values[t * dState + n] as number);
    for (let t = 0; t < at; t++) {
      const i = 4 * (row * PIXELS + t);
      image.data.set(accent, i);
      image.data[i + 3] = 255 * ((values[t * dState + n] as number) / most) ** 0.8;
    }
  }
  context.putImageData(image, 0, 0);
}

/** "#0f766e" */
function rgb(hex: string): [number, number, number] {
  const value = Number.parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
