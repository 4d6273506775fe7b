// The npm package `webgpu` (Dawn) as test files in Node get it: without the zeros that Dawn writes into workgroup memory
// before each kernel. On SwiftShader they are two thirds of the time that compiling takes, and most of what tests of the GPU
// take; and what a kernel reads without having written it is seen here. (vitest.config.ts tells Chromium the same.)
// Whatever runs the built package, in processes and pages of its own, has Dawn as it is.
const path = new URL("../../node_modules/webgpu/index.js", import.meta.url).href;
const { create: createGpu } = (await import(path)) as typeof import("webgpu");

// While a promise of Dawn's is pending, Dawn asks at every turn of the event loop whether it is done: that takes a core, which
// the GPU in software and other tests could use. Here it asks every millisecond.
const { setImmediate: soon, setTimeout: later } = globalThis;
const ask = (task: (...given: unknown[]) => void, ...given: unknown[]) =>
  /\[native code\] \}$/.test(Function.prototype.toString.call(task)) ? later(task, 1) : soon(task, ...given);
globalThis.setImmediate = Object.assign(ask, soon) as typeof soon;

export function create(flags: string[]): GPU {
  return createGpu([...flags, "enable-dawn-features=disable_workgroup_init"]);
}
