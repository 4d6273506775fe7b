/** The trained network and some digits that it has not seen, as the build put them beside the page. */

/** A digit is 28 x 28 pixels, read row by row. */
export const SIDE = 28;
export const PIXELS = SIDE * SIDE;
export const CLASSES = 10;

export interface Digits {
  /** The checkpoint's bytes. */
  readonly network: Uint8Array<ArrayBuffer>;
  readonly count: number;
  readonly labels: Uint8Array;
  /** [784] float32 from 0 to 1 */
  image(i: number): Float32Array;
}

export async function loadDigits(): Promise<Digits> {
  const [network, digits] = await Promise.all([load("smnist.safetensors"), load("digits.bin")]);
  const count = digits.length / (PIXELS + 1);
  return {
    network,
    count,
    labels: digits.subarray(0, count),
    image(i) {
      const start = count + i * PIXELS;
      return Float32Array.from(digits.subarray(start, start + PIXELS), (byte) => byte / 255);
    },
  };
}

async function load(name: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}
