/** The digits and the network's answers to them, from examples/data, and the little arithmetic on answers. */
import { readFile } from "node:fs/promises";
import { readSafetensors } from "linrec";

/** Steps that a digit takes: one for each of its 28 x 28 pixels. */
export const PIXELS = 784;
export const CLASSES = 10;

/** The checkpoint's bytes, which is what `engine.model` reads. */
export const network = await readData("smnist.safetensors");

export const digits = readDigits(await readData("digits.safetensors"));

function readData(name) {
  return readFile(new URL(`../data/${name}`, import.meta.url));
}

function readDigits(bytes) {
  const { tensors } = readSafetensors(bytes);
  const get = (name) => tensors.get(name).data;
  return {
    count: get("labels").length,
    /** [count, 784] float32: what the network reads */
    pixels: Float32Array.from(get("images"), (byte) => byte / 255),
    labels: get("labels"),
    /** [count, 10] log-probabilities computed in float64: what is right */
    exact: get("log_probs"),
    /** [count, 10] the same from PyTorch in float32: what is usual */
    pytorch: get("log_probs_pytorch_f32"),
  };
}

/** The most probable class of each digit: logProbs [count, 10] -> [count] */
export function classesOf(logProbs) {
  const classes = [];
  for (let at = 0; at < logProbs.length; at += CLASSES) {
    const row = logProbs.subarray(at, at + CLASSES);
    classes.push(row.indexOf(Math.max(...row)));
  }
  return classes;
}

/** max |a - b| over the length of `a`; NaN if any is NaN. */
export function largestDifference(a, b) {
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i])), 0);
}

/** Equal as bytes: unlike ===, this tells 0 from -0 and finds NaN equal to itself. */
export function sameBits(a, b) {
  const bytes = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength);
  return bytes(a).equals(bytes(b));
}
