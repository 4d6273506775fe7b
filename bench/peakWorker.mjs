/** One of several threads that measure the peak at the same time. */
import { parentPort, workerData } from "node:worker_threads";
import { peakHere } from "./rate.mjs";

parentPort.postMessage(await peakHere(workerData.bytes, workerData.ms));
