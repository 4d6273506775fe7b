/** Where a GPU may be: looked at first, since what drives one need not be loaded where there is none. */
import { messageOf } from "../errors.js";
import { importLater } from "./importLater.js";

/** The browser's, else in Node that of the optional npm package `webgpu` (Dawn); or why there is none, and what would help. */
export async function findGpu(nodePackage = "webgpu"): Promise<{ gpu: unknown } | { reason: string }> {
  const { navigator, process } = globalThis as {
    navigator?: { gpu?: unknown };
    process?: { versions?: { node?: string } };
  };
  if (navigator?.gpu) return { gpu: navigator.gpu };
  if (!process?.versions?.node) {
    return {
      reason:
        "this browser has no WebGPU (no navigator.gpu): it needs a page from https or localhost, and a recent browser",
    };
  }
  try {
    // A parameter, not a constant: a bundler that knew the name would put a native module into every web page.
    const module = await importLater(nodePackage);
    return { gpu: (module as { create(flags: string[]): unknown }).create([]) };
  } catch (error) {
    const missing = (error as { code?: string }).code === "ERR_MODULE_NOT_FOUND";
    return {
      reason: missing
        ? `Node has no WebGPU of its own: install the optional package \`${nodePackage}\` (npm install ${nodePackage})`
        : `the package \`${nodePackage}\` could not be loaded: ${messageOf(error)}`,
    };
  }
}
