// What campaigns of calls have in common: engines for each way to run, and networks that calls are made to. Runs in pages, too.
import { between, random } from "../random.mjs";
import { World } from "./calls.mjs";
import { openNetwork, randomNetwork } from "./networks.mjs";
import { Judge } from "./streams.mjs";

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

/** A network on engines and on the oracles, where it is read from a file that it was written to. */
export async function openWorld(linrec, next, network, engines, oracleEngines) {
  const models = {};
  for (const [name, engine] of Object.entries(engines)) models[name] = await openNetwork(engine, network);
  const file = linrec.writeModel(models.messages);
  const oracles = await Promise.all(oracleEngines.map((engine) => openNetwork(engine, network, file)));
  const judge = new Judge();
  const world = new World(next, network, engines, models, oracles, judge);
  const dispose = () => {
    for (const model of [...Object.values(models), ...oracles]) model.dispose();
  };
  return { world, judge, dispose };
}

/**
 * Calls at random to networks of so many seeds, each on every engine.
 * @returns what was done, and what was `wrong`, in words
 */
export async function play(linrec, { from, networks }) {
  const onCpu = await openOnCpu(linrec);
  const { webgpu } = (await linrec.createEngine({ threads: 0 })).backends;
  const gpu = webgpu.available && { webgpu: await linrec.createEngine({ backend: "webgpu" }) };
  const engines = { ...onCpu, ...gpu };
  const oracleEngines = await openOracles(linrec);
  const furthest = { cpu: 0, gpu: 0 };
  const done = { networks, ways: Object.keys(engines).join(", "), calls: 0, refusals: 0, compared: 0 };
  const wrong = [];
  for (let seed = from; seed < from + networks; seed++) {
    const next = random(seed);
    const network = randomNetwork(next);
    const own = seed % 4 === 0 ? engines : onCpu;
    const { world, judge, dispose } = await openWorld(linrec, next, network, own, oracleEngines);
    for (let round = 0; round < 12 && judge.wrong.length === 0; round++)
      done.calls += await together(linrec, world);
    dispose();
    done.refusals += world.refusals;
    done.compared += judge.compared;
    for (const kind of ["cpu", "gpu"]) furthest[kind] = Math.max(furthest[kind], judge.furthest[kind]);
    if (judge.wrong.length > 0) wrong.push(`seed ${seed}, ${network.kind}: ${judge.wrong[0]}`);
  }
  for (const engine of [...Object.values(engines), ...oracleEngines]) await engine.dispose();
  return { ...done, furthest, wrong };
}

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
    else if (refused && linrec.isLinrecError(reason)) refused(reason);
    else world.judge.wrong.push(`${what}: ${reason?.stack}`);
  }
  return calls.length;
}
