/** The little that the parts share: elements by id, colours of the theme, numbers in words. */

/** The element with that id, which must be of that class. */
export function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`The page has no ${type.name} #${id}.`);
  return found;
}

/** A new element with its properties, its class and what it holds. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A row of toggles of which one is pressed. */
export function choices(host: HTMLElement, labels: readonly string[], choose: (i: number) => void): void {
  const buttons = labels.map((label, i) => {
    const button = make("button", "", label);
    button.type = "button";
    button.onclick = () => press(i);
    return button;
  });
  const press = (pressed: number) => {
    for (const [i, button] of buttons.entries()) button.setAttribute("aria-pressed", String(i === pressed));
    choose(pressed);
  };
  host.replaceChildren(...buttons);
  press(0);
}

/** A colour of the theme: "--accent". */
export function color(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Runs now, and again whenever light turns to dark or back. */
export function onTheme(run: () => void): void {
  run();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", run);
}

export function showMs(ms: number): string {
  const [value, unit] = ms >= 1000 ? [ms / 1000, "s"] : ms < 0.1 ? [1000 * ms, "µs"] : [ms, "ms"];
  return `${value >= 100 ? Math.round(value) : value.toPrecision(3)} ${unit}`;
}

/** A reason of the scheduler, with its times as the page writes them. */
export function inUnits(reason: string): string {
  return reason.replace(/([\d.]+) ms\b/g, (_, ms) => showMs(Number(ms)));
}

/** Some clocks tick once a millisecond, and say no more of a pause that is shorter. */
const SAMPLE_MS = 2;

/** How long `run` takes, in ms, the fastest of as many times as fit into `budget`: what else the machine does is not its time. */
export async function fastest(run: () => Promise<unknown>, budget: number): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  let runs = 1;
  for (const start = performance.now(); best === Infinity || performance.now() - start < budget; ) {
    const from = performance.now();
    for (let i = 0; i < runs; i++) await run();
    const ms = performance.now() - from;
    if (ms < SAMPLE_MS) runs *= 2;
    else best = Math.min(best, ms / runs);
  }
  return best;
}

/** "1k" for a power of ten, for the axes of logarithmic charts. */
export function short(value: number): string {
  return Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
}

export function whole(value: number): string {
  return Math.round(value).toLocaleString("en");
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Lets the browser paint what has been set. */
export function painted(): Promise<void> {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}
