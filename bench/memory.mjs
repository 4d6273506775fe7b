/** How much memory this process has had at once. */
import { readFileSync, writeFileSync } from "node:fs";

/** Of this process alone: maxRSS of a forked child starts from its parent's. */
export function peakRss() {
  try {
    return 1024 * Number(/VmHWM:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]);
  } catch {
    return 1024 * process.resourceUsage().maxRSS;
  }
}

/** The peak counts from now on, where Linux allows it; elsewhere it stays that of the whole process: an upper bound. */
export function resetPeakRss() {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // No such file.
  }
}
