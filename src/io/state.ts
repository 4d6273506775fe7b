/**
 * State files: a State as .safetensors, with each value under a name that other tools can read. Slots are numbered in
 * stage order; every bit that matters is kept, so a state that went through a file continues as if it had not. A layer with
 * conjugate pairs has two slots: see `halves.ts`.
 *
 *   slots.0.carry  F64 [batch, 2, dState], re then im, of an LRU; F64 [batch, width] of anything else
 *   slots.0.loc    F32 [batch, 2, dState]                       ; F64 [batch, width]
 *   k              I32 [batch]
 *   count          F64 [batch]
 *   parts.0. ...   the same of each link, where the network's rate changes
 *   metadata       linrec.state (the version), fingerprint, architecture
 */
import { LinrecError } from "../errors.js";
import { CHUNK, groupIndex, State, type StateLayout, type StateSlot } from "../state.js";
import { elementCount, showShape } from "../tensor.js";
import { readSafetensors, type Tensor, writeSafetensors } from "./safetensors.js";

const VERSION = "1";

type Floats = Float32Array | Float64Array;

/** What a state file says of the program it belongs to. */
export interface StateOwner {
  /** From `fingerprint(program)`. */
  readonly fingerprint: string;
  readonly architecture: string;
}

export function encodeState(state: State, owner: StateOwner): Uint8Array<ArrayBuffer> {
  const tensors = new Map<string, Tensor>();
  encodeInto(tensors, state, "");
  const { fingerprint, architecture } = owner;
  return writeSafetensors(tensors, { "linrec.state": VERSION, fingerprint, architecture });
}

function encodeInto(tensors: Map<string, Tensor>, state: State, prefix: string): void {
  const { batch } = state;
  for (const [index, slot] of state.layout.slots.entries()) {
    const shape = slotShape(slot, batch);
    const carry = new Float64Array(elementCount(shape));
    const loc = slot.stage.kind === "lru" ? new Float32Array(carry.length) : new Float64Array(carry.length);
    for (let row = 0; row < batch; row++) {
      copyRow(slot, state.carry(slot, row), rowOf(carry, row, batch), "to file");
      copyRow(slot, locOf(state, slot, row), rowOf(loc, row, batch), "to file");
    }
    tensors.set(`${prefix}slots.${index}.carry`, { dtype: "F64", shape, data: carry });
    tensors.set(`${prefix}slots.${index}.loc`, { dtype: dtypeOfLoc(slot), shape, data: loc } as Tensor);
  }
  tensors.set(`${prefix}k`, { dtype: "I32", shape: [batch], data: state.k });
  tensors.set(`${prefix}count`, { dtype: "F64", shape: [batch], data: state.count });
  for (const [index, part] of state.parts.entries()) encodeInto(tensors, part, `${prefix}parts.${index}.`);
}

/**
 * The state of a program from a file that {@link encodeState} wrote.
 *
 * Throws `foreign-cache` when it belongs to another model, `malformed-file` when it is no state file, of another
 * version, or damaged.
 */
export function decodeState(
  bytes: ArrayBufferLike | ArrayBufferView,
  layout: StateLayout,
  owner: StateOwner,
): State {
  const { tensors, metadata } = readSafetensors(bytes);
  checkOwner(metadata, owner);
  const batch = tensors.get("k")?.data.length ?? 0; // not its shape: [10^9, 0] takes no bytes
  const taken = new Set<string>();
  const take = (name: string, dtype: "I32" | "F32" | "F64", shape: readonly number[]) => {
    const tensor = tensors.get(name);
    const expected = `${dtype} ${showShape(shape)}`;
    const came = tensor ? `${tensor.dtype} ${showShape(tensor.shape)}` : "nothing";
    if (came !== expected) damaged(`it has ${came} for ${name}, expected ${expected}`);
    taken.add(name);
    return tensor?.data as Floats;
  };
  const fill = (state: State, prefix: string) => {
    state.k.set(take(`${prefix}k`, "I32", [batch]));
    state.count.set(take(`${prefix}count`, "F64", [batch]));
    checkCounters(state);
    for (const [index, slot] of state.layout.slots.entries()) {
      const name = `${prefix}slots.${index}`;
      const carry = take(`${name}.carry`, "F64", slotShape(slot, batch));
      const loc = take(`${name}.loc`, dtypeOfLoc(slot), slotShape(slot, batch));
      for (let row = 0; row < batch; row++) {
        copyRow(slot, state.carry(slot, row), rowOf(carry, row, batch), "from file");
        copyRow(slot, locOf(state, slot, row), rowOf(loc, row, batch), "from file");
      }
    }
    for (const [index, part] of state.parts.entries()) fill(part, `${prefix}parts.${index}.`);
  };
  const state = new State(layout, batch);
  fill(state, "");
  if (tensors.size !== taken.size) damaged(`it has ${tensors.size} tensors, expected ${taken.size}`);
  return state;
}

function checkOwner(metadata: Readonly<Record<string, string>>, owner: StateOwner): void {
  const version = metadata["linrec.state"];
  if (version === undefined) {
    const remedy = "Pass the bytes that serializeState gave; a checkpoint goes to engine.model.";
    throw new LinrecError(
      "malformed-file",
      `This .safetensors file is no state file: its metadata has no "linrec.state". ${remedy}`,
    );
  }
  if (version !== VERSION) {
    const remedy = "Read it with the version of linrec that wrote it, or start from a fresh state.";
    throw new LinrecError(
      "malformed-file",
      `The state file has version ${JSON.stringify(version)}; this linrec reads ${VERSION}. ${remedy}`,
    );
  }
  if (metadata["fingerprint"] !== owner.fingerprint) {
    throw new LinrecError(
      "foreign-cache",
      `The state belongs to another model: ${metadata["architecture"]} with fingerprint ${metadata["fingerprint"]}; this one is ` +
        `${owner.architecture} with ${owner.fingerprint}. Load the checkpoint that the state was saved with, or start from a fresh state.`,
    );
  }
}

function checkCounters(state: State): void {
  for (let row = 0; row < state.batch; row++) {
    const [k, count] = [state.k[row] as number, state.count[row] as number];
    if (!(k >= 0 && k < CHUNK)) damaged(`k of row ${row} is ${k}, expected 0 to ${CHUNK - 1}`);
    if (!Number.isSafeInteger(count) || count < 0)
      damaged(`count of row ${row} is ${count}, expected an integer of at least 0`);
  }
}

function damaged(fault: string): never {
  throw new LinrecError(
    "malformed-file",
    `The state file is damaged: ${fault}. Save it again, or start from a fresh state.`,
  );
}

function slotShape(slot: StateSlot, batch: number): number[] {
  return slot.stage.kind === "lru" ? [batch, 2, slot.size] : [batch, slot.size];
}

function dtypeOfLoc(slot: StateSlot): "F32" | "F64" {
  return slot.stage.kind === "lru" ? "F32" : "F64";
}

function locOf(state: State, slot: StateSlot, row: number): Floats {
  return slot.stage.kind === "lru" ? state.loc(slot, row) : state.poolLoc(slot, row);
}

/** One row of an array of `batch` rows. */
function rowOf(values: Floats, row: number, batch: number): Floats {
  const width = values.length / batch;
  return values.subarray(row * width, (row + 1) * width);
}

/** Between a row of a State, in groups with padding, and a row of a file, re then im without padding. */
function copyRow(slot: StateSlot, inState: Floats, inFile: Floats, direction: "to file" | "from file"): void {
  for (let i = 0; i < inFile.length; i++) {
    const n = i % slot.size;
    const index = slot.stage.kind === "lru" ? groupIndex(n) + (i < slot.size ? 0 : 4) : n;
    if (direction === "to file") inFile[i] = inState[index] as number;
    else inState[index] = inFile[i] as number;
  }
}
