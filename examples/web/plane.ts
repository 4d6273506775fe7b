/** The unit disc with the eigenvalues of every layer, one of them chosen: by pointer, or by the arrow keys. */
import type { Memory } from "linrec";

const CENTRE = 200;
const UNIT = 172;
/** In the stretched view, the half-lives (in tokens) of the centre and of the circle. */
const [SHORTEST, LONGEST] = [0.5, 5000];
const HALF_LIVES = [1, 10, 100, 1000];
/** Of the outermost ring, which has room to say what it is. */
const LONG = 1000;

export interface Plane {
  /** Draws the layers, with `layer` in front and its state `n` chosen. */
  show(layers: readonly Memory[], layer: number, n: number, stretched: boolean): void;
}

export function makePlane(host: HTMLElement, choose: (n: number) => void): Plane {
  const root = svg("svg", { viewBox: "0 0 400 400", tabindex: "0", role: "img" });
  host.replaceChildren(root);
  let [count, chosen] = [0, 0];
  root.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (by === undefined || count === 0) return;
    event.preventDefault();
    choose((chosen + by + count) % count);
  });
  root.addEventListener("click", (event) => {
    const n = (event.target as Element).getAttribute("data-n");
    if (n !== null) choose(Number(n));
  });
  return {
    show(layers, layer, n, stretched) {
      const front = layers[layer] as Memory;
      [count, chosen] = [front.radius.length, n];
      const place = (memory: Memory, i: number) => {
        const r = UNIT * (stretched ? stretch(memory.halfLife[i] as number) : (memory.radius[i] as number));
        const angle = memory.angle[i] as number;
        return { cx: CENTRE + r * Math.cos(angle), cy: CENTRE - r * Math.sin(angle) };
      };
      const dots = (memory: Memory, on: boolean) =>
        Array.from(memory.radius, (_, i) => {
          const name = `dot${on ? " on" : ""}${on && i === n ? " chosen" : ""}`;
          const r = on && i === n ? 7 : on ? 4 : 2.5;
          return svg("circle", { class: name, r, ...place(memory, i), ...(on ? { "data-n": i } : {}) });
        });
      const rings = (
        stretched
          ? HALF_LIVES.map(
              (tokens) => [stretch(tokens), `${tokens < LONG ? "" : "half-life "}${tokens}`] as const,
            )
          : [0.25, 0.5, 0.75].map((r) => [r, String(r)] as const)
      ).flatMap(([r, text]) => [
        svg("circle", { class: "grid", cx: CENTRE, cy: CENTRE, r: r * UNIT }),
        label(text, CENTRE + 3, CENTRE - r * UNIT - 3),
      ]);
      const cross = [
        svg("path", {
          class: "grid",
          d: `M${CENTRE - UNIT} ${CENTRE}h${2 * UNIT}M${CENTRE} ${CENTRE - UNIT}v${2 * UNIT}`,
        }),
        svg("circle", { class: "unit", cx: CENTRE, cy: CENTRE, r: UNIT }),
        label("|λ| = 1", CENTRE + UNIT * 0.72, CENTRE - UNIT * 0.76),
      ];
      const front_ = dots(front, true);
      // The chosen one last, so that it is on top.
      front_.push(...front_.splice(n, 1));
      const others = layers.flatMap((memory, i) => (i === layer ? [] : dots(memory, false)));
      root.replaceChildren(...cross, ...rings, ...others, ...front_);
      root.setAttribute(
        "aria-label",
        `${count} eigenvalues of ${front.name} in the unit disc. Arrow keys choose one.`,
      );
    },
  };
}

/** 0 at the centre to 1 at the circle, logarithmic in the half-life: what matters happens close to the circle. */
function stretch(halfLife: number): number {
  const share = Math.log(halfLife / SHORTEST) / Math.log(LONGEST / SHORTEST);
  return Math.min(1, Math.max(0, share));
}

function label(text: string, x: number, y: number): SVGElement {
  const made = svg("text", { x, y });
  made.textContent = text;
  return made;
}

function svg(tag: string, attributes: Record<string, string | number>): SVGElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}
