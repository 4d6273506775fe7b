/** Typed arrays of another realm, whose `instanceof` is false here, must do as well as our own. */
import { expect } from "vitest";
import { createEngine, initLru, readSafetensors, writeSafetensors } from "../../src/index.js";
import { fromLruParams } from "../../src/models/lru.js";
import { expectSameBits } from "./bits.js";
import { floats } from "./problems.js";

/** @param Foreign the other realm's Float32Array @param ForeignBytes its Uint8Array */
export async function checkForeignRealm(
  Foreign: Float32ArrayConstructor,
  ForeignBytes: Uint8ArrayConstructor,
): Promise<void> {
  const foreign = (values: Float32Array) => {
    const copy = new Foreign(values);
    expect(copy).not.toBeInstanceOf(Float32Array);
    return copy;
  };
  const engine = await createEngine({ backend: "wasm", threads: 1, nonFinite: "reject" });
  const params = initLru({ dModel: 3, dState: 5 });
  const lru = await engine.lru(params);
  const entries = Object.entries(params).map(([name, values]) => [name, foreign(values)]);
  const other = await engine.lru(Object.fromEntries(entries));
  const x = floats(2 * 40 * 3, 1);

  const expected = await lru.forward(x, { batch: 2 });
  const out = foreign(new Float32Array(x.length));
  const { y, state } = await other.forward(foreign(x), { batch: 2, out, lengths: new Foreign([40, 40]) });
  expect(y).toBe(out);
  expectSameBits(y, expected.y, "forward");

  const xt = floats(2 * 3, 2);
  const stepped = lru.stepSync(xt, expected.state.clone());
  expectSameBits(other.stepSync(foreign(xt), state.clone()), stepped, "stepSync");
  expectSameBits(await other.step(foreign(xt), state.clone()), stepped, "step");

  const { re, im } = expected.state.get();
  const cache = other.allocateInferenceCache(2);
  cache.set(foreign(re), foreign(im));
  expectSameBits(cache.get().re, re, "set");

  const bytes = writeSafetensors(fromLruParams(params));
  const loaded = await engine.lru(new ForeignBytes(bytes).buffer);
  expectSameBits((await loaded.forward(x, { batch: 2 })).y, expected.y, "a checkpoint");
  expect(readSafetensors(new ForeignBytes(bytes)).tensors.size).toBe(8);
  await engine.dispose();
}
