/** A line on stderr that says how far the work is; nothing but the last word where stderr is no terminal. */
const WIDTH = 28;
const BETWEEN_MS = 80;

export class Progress {
  readonly #total: number;
  readonly #shown: boolean;
  readonly #start = performance.now();
  #done = 0;
  #drawn = 0;

  constructor(total: number, shown: boolean) {
    this.#total = total;
    this.#shown = shown;
  }

  add(tokens: number): void {
    this.#done += tokens;
    const now = performance.now();
    if (!this.#shown || !process.stderr.isTTY || now - this.#drawn < BETWEEN_MS) return;
    this.#drawn = now;
    const share = this.#done / this.#total;
    const left = ((now - this.#start) / 1000) * (1 / share - 1);
    const bar = "█".repeat(Math.round(share * WIDTH)).padEnd(WIDTH, "░");
    process.stderr.write(
      `\r${bar} ${Math.floor(100 * share)} %  ${this.#rate()}  ${left.toFixed(0)} s left \x1b[K`,
    );
  }

  finish(what: string): void {
    if (!this.#shown) return;
    const clear = process.stderr.isTTY ? "\r\x1b[K" : "";
    const seconds = (performance.now() - this.#start) / 1000;
    process.stderr.write(`${clear}${what}, ${seconds.toFixed(2)} s, ${this.#rate()}\n`);
  }

  #rate(): string {
    const perSecond = (1000 * this.#done) / (performance.now() - this.#start);
    return `${Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(perSecond)} tokens/s`;
  }
}
