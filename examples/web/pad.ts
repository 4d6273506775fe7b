/** The drawing pad: by pointer or by keyboard; what is drawn becomes 28 x 28 pixels as MNIST's were made. */
import { PIXELS, SIDE } from "./data.js";

const SIZE = 280;
const PEN = 21;
/** MNIST's digits fill a box of 20 of the 28 pixels, with their centre of mass in the middle. */
const BOX = 20;
const KEY_STEP = 7;

export class Pad {
  readonly #canvas: HTMLCanvasElement;
  readonly #ink = surface(SIZE, SIZE);
  readonly #changed: () => void;
  readonly #done: () => void;
  #pen = { x: SIZE / 2, y: SIZE / 2, down: false };
  /** What is on the pad was put there, not drawn. */
  #given: Float32Array | undefined;

  /** @param changed after each stroke's piece; @param done after a stroke */
  constructor(canvas: HTMLCanvasElement, changed: () => void, done: () => void) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.#done = done;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#startOver();
      this.#pen = { ...this.#place(event), down: true };
      this.#lineTo(this.#pen);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.#pen.down && event.buttons > 0) this.#lineTo(this.#place(event));
    });
    const lift = () => {
      if (!this.#pen.down) return;
      this.#pen.down = false;
      this.#show();
      done();
    };
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const type of ["focus", "blur"]) canvas.addEventListener(type, () => this.#show());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#show());
  }

  clear(): void {
    this.#given = undefined;
    this.#ink.clearRect(0, 0, SIZE, SIZE);
    this.#show();
    this.#changed();
  }

  /** Puts a digit of 28 x 28 pixels on the pad. */
  put(pixels: Float32Array): void {
    this.#given = pixels;
    this.#ink.clearRect(0, 0, SIZE, SIZE);
    this.#ink.drawImage(imageOf(pixels).canvas, 0, 0, SIZE, SIZE);
    this.#show();
  }

  get empty(): boolean {
    return this.#bounds() === undefined;
  }

  /** [784] from 0 to 1, as the network wants it. */
  pixels(): Float32Array {
    if (this.#given) return this.#given;
    const box = this.#bounds();
    if (!box) return new Float32Array(PIXELS);
    const scale = BOX / Math.max(box.width, box.height);
    const [width, height] = [box.width * scale, box.height * scale];
    const draw = (x: number, y: number) => {
      const small = surface(SIDE, SIDE);
      small.imageSmoothingQuality = "high";
      small.drawImage(this.#ink.canvas, box.x, box.y, box.width, box.height, x, y, width, height);
      return alphaOf(small);
    };
    const [x, y] = [(SIDE - width) / 2, (SIDE - height) / 2];
    const { cx, cy } = centreOf(draw(x, y));
    return draw(x + (SIDE - 1) / 2 - cx, y + (SIDE - 1) / 2 - cy);
  }

  #place(event: PointerEvent): { x: number; y: number } {
    const box = this.#canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * SIZE,
      y: ((event.clientY - box.top) / box.height) * SIZE,
    };
  }

  #startOver(): void {
    if (!this.#given) return;
    this.#given = undefined;
    this.#ink.clearRect(0, 0, SIZE, SIZE);
  }

  #lineTo({ x, y }: { x: number; y: number }): void {
    const ink = this.#ink;
    ink.lineWidth = PEN;
    ink.lineCap = "round";
    ink.beginPath();
    ink.moveTo(this.#pen.x, this.#pen.y);
    ink.lineTo(x, y);
    ink.stroke();
    this.#pen = { ...this.#pen, x, y };
    this.#show();
    this.#changed();
  }

  #key(event: KeyboardEvent): void {
    const moves: Record<string, readonly [number, number]> = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
    };
    const move = moves[event.key];
    if (move) {
      const clamp = (value: number) => Math.min(SIZE, Math.max(0, value));
      const to = { x: clamp(this.#pen.x + KEY_STEP * move[0]), y: clamp(this.#pen.y + KEY_STEP * move[1]) };
      if (this.#pen.down) this.#lineTo(to);
      else this.#pen = { ...this.#pen, ...to };
    } else if (event.key === " ") {
      this.#pen.down = !this.#pen.down;
      if (this.#pen.down) {
        this.#startOver();
        this.#lineTo(this.#pen);
      } else this.#done();
    } else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else if (event.key === "Enter") this.#done();
    else return;
    event.preventDefault();
    this.#show();
  }

  #show(): void {
    const context = this.#canvas.getContext("2d") as CanvasRenderingContext2D;
    context.clearRect(0, 0, SIZE, SIZE);
    context.globalCompositeOperation = "source-over";
    context.drawImage(this.#ink.canvas, 0, 0);
    // The ink is black on nothing: here it takes the theme's colour.
    context.globalCompositeOperation = "source-in";
    const style = getComputedStyle(this.#canvas);
    context.fillStyle = style.color;
    context.fillRect(0, 0, SIZE, SIZE);
    context.globalCompositeOperation = "source-over";
    if (document.activeElement !== this.#canvas || !this.#canvas.matches(":focus-visible")) return;
    context.strokeStyle = style.getPropertyValue("--second");
    context.lineWidth = this.#pen.down ? 4 : 2;
    context.beginPath();
    context.arc(this.#pen.x, this.#pen.y, PEN / 2 + 2, 0, 2 * Math.PI);
    context.stroke();
  }

  #bounds(): { x: number; y: number; width: number; height: number } | undefined {
    const { data } = this.#ink.getImageData(0, 0, SIZE, SIZE);
    let [left, right, top, bottom] = [SIZE, -1, SIZE, -1];
    for (let i = 0; i < SIZE * SIZE; i++) {
      if ((data[4 * i + 3] as number) < 32) continue;
      const [x, y] = [i % SIZE, Math.floor(i / SIZE)];
      [left, right, top, bottom] = [
        Math.min(left, x),
        Math.max(right, x),
        Math.min(top, y),
        Math.max(bottom, y),
      ];
    }
    return right < 0 ? undefined : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
  }
}

function surface(width: number, height: number): CanvasRenderingContext2D {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
}

function imageOf(pixels: Float32Array): CanvasRenderingContext2D {
  const small = surface(SIDE, SIDE);
  const image = small.createImageData(SIDE, SIDE);
  for (let i = 0; i < PIXELS; i++) image.data[4 * i + 3] = 255 * (pixels[i] as number);
  small.putImageData(image, 0, 0);
  return small;
}

function alphaOf(context: CanvasRenderingContext2D): Float32Array {
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  return Float32Array.from({ length: PIXELS }, (_, i) => (data[4 * i + 3] as number) / 255);
}

function centreOf(pixels: Float32Array): { cx: number; cy: number } {
  let [mass, mx, my] = [0, 0, 0];
  for (const [i, value] of pixels.entries()) {
    mass += value;
    mx += value * (i % SIDE);
    my += value * Math.floor(i / SIDE);
  }
  return { cx: mx / mass, cy: my / mass };
}
