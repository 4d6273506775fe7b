// What campaigns of calls have in common: engines for each way to run, and calls that are made at once.
import { between, isTyped } from "../support.mjs";

const ways = {
  "the calling thread": { threads: 0, shared: true },
  "shared memory": { threads: 2, shared: true },
  messages: { threads: 3, shared: false },
};

/** An engine for each way to run on the CPU. */
export async function openOnCpu(linrec, options = {}) {
  const engines = {};
  const Real = globalThis.SharedArrayBuffer;
  for (const [name, { threads, shared }] of Object.entries(ways)) {
    // So it is on a page that is not cross-origin isolated.
    if (!shared) globalThis.SharedArrayBuffer = undefined;
    engines[name] = await linrec.createEngine({ backend: "wasm", threads, ...options });
    const lru = await engines[name].lru(linrec.initLru({ dModel: 2, dState: 2, seed: 1 }));
    await lru.forward(new Float32Array(400)); // its workers have started
    lru.dispose();
    globalThis.SharedArrayBuffer = Real;
  }
  return engines;
}

/** The engines of what calls are held against: see `Stream`. */
export const openOracles = async (linrec) => [
  await linrec.createEngine({ backend: "wasm", threads: 0 }),
  await linrec.createEngine({ backend: "reference" }),
];

/** Up to three calls at once, none of which changes what another one reads. Gives how many. */
export async function together(linrec, world) {
  const calls = [];
  for (let n = between(world.next, 1, 3); n > 0; n--) {
    const call = world.call();
    const taken = calls.flatMap(({ touches }) => touches);
    if (!call.touches.some((stream) => taken.includes(stream))) calls.push(call);
  }
  const results = await Promise.allSettled(calls.map(({ run }) => run()));
  for (const [i, { status, value, reason }] of results.entries()) {
    const { what, check, refused } = calls[i];
    if (status === "fulfilled") check(value);
    else if (refused && isTyped(linrec, reason)) refused(reason);
    else world.judge.wrong.push(`${what}: ${reason?.stack}`);
  }
  return calls.length;
}
