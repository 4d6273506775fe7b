/** How fast the kernels of assembly/peak.ts run on this thread, of Node or of a page. */

/** Flops of one round for each accumulator: 4 lanes, a multiplication and an addition each. */
const FLOPS = 4 * 2;
/** About a millisecond's worth: calls are short, so that V8's optimised code is taken up while it is measured. */
const ROUNDS = 300_000;
/** V8 optimises a function only after many calls, and a long call stays as slow as it started: warm up with short ones. */
const WARM_UP_CALLS = 3000;
const WARM_UP_ROUNDS = 50;

const instances = new Map();

/** One instance for each module in a process: what is optimised once stays so. */
export function instantiate(bytes) {
  const known = instances.get(bytes.length);
  if (known) return known;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { abort() {} } });
  exports.memory.grow(1); // peak.ts reads a little of it
  instances.set(bytes.length, exports);
  return exports;
}

/** GFLOP/s of this thread: the better of two kernels, which get half of `ms` each. */
export async function peakHere(bytes, ms) {
  const { peak12, peak10 } = instantiate(bytes);
  return Math.max(await rateOf(peak12, 12, ms / 2), await rateOf(peak10, 10, ms / 2));
}

/** Calls a kernel often and briefly, until V8 has optimised it. */
export async function warmUp(call) {
  for (let time = 0; time < 3; time++) {
    for (let i = 0; i < WARM_UP_CALLS; i++) call(WARM_UP_ROUNDS);
    await new Promise((resolve) => setTimeout(resolve, 30)); // the optimised code comes from another thread
  }
}

/** The median of what calls of about a millisecond reached. */
async function rateOf(kernel, accumulators, ms) {
  await warmUp((rounds) => kernel(rounds, 0.75, 0.25));
  const rates = [];
  const end = performance.now() + ms;
  for (let before = performance.now(); before < end || rates.length === 0; ) {
    kernel(ROUNDS, 0.75, 0.25);
    const now = performance.now();
    rates.push((ROUNDS * accumulators * FLOPS) / (now - before) / 1e6);
    before = now;
  }
  return rates.sort((a, b) => a - b)[rates.length >> 1];
}
