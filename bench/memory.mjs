/** How much memory this process has had at once. */
import { readFileSync, writeFileSync } from "node:fs";

/** Of this process alone, or of another: maxRSS of a forked child starts from its parent's. */
export function peakRss(pid = "self") {
  try {
    return 1024 * Number(/VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]);
  } catch {
    if (pid !== "self") return undefined;
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
