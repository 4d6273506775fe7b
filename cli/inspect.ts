/** `linrec inspect`: what a checkpoint holds. */
import { open, openModel, parse, table } from "./usage.js";

export async function inspect(args: string[]): Promise<number> {
  const { values, files } = parse("inspect", args, ["MODEL.safetensors"], ["spec"]);
  const engine = await open({ backend: "reference" });
  try {
    const model = await openModel(engine, files[0] as string, values.spec);
    console.log(model.describe());
    const layers = model.inspect().map(({ name, radius, maxRadius, halfLife }) => {
      const sorted = Float64Array.from(halfLife).sort();
      const at = (share: number) => tokens(sorted[Math.round(share * (sorted.length - 1))] as number);
      return [name, String(radius.length), maxRadius.toFixed(6), at(0), at(0.5), at(1)];
    });
    const head = ["layer", "states", "max |lambda|", "half-life: shortest", "median", "longest"];
    if (layers.length > 0) console.log(`\n${table([head, ...layers])}`);
    return 0;
  } finally {
    await engine.dispose();
  }
}

function tokens(halfLife: number): string {
  return `${halfLife < 100 ? halfLife.toPrecision(2) : Math.round(halfLife)} tokens`;
}
