/**
 * Every kernel by itself against plain loops in float64, and to the bit where several kernels promise the same bits.
 * A check throws at the first fault. Weights and tables are random numbers, unrelated to each other: a kernel that takes
 * one for another is off.
 */
import type { Checks } from "./kernelChecks/compare.js";
import { poolChecks } from "./kernelChecks/pools.js";
import { productChecks } from "./kernelChecks/products.js";
import { realScanChecks } from "./kernelChecks/realScans.js";
import { scanChecks } from "./kernelChecks/scans.js";
import { stageChecks } from "./kernelChecks/stages.js";
import { timedScanChecks } from "./kernelChecks/timedScans.js";

export const kernelChecks: Checks = {
  ...productChecks,
  ...scanChecks,
  ...realScanChecks,
  ...timedScanChecks,
  ...poolChecks,
  ...stageChecks,
};
