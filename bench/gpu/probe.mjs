/** Says what adapter WebGPU finds with the environment as it is, as a line of JSON: offline.mjs tries drivers with it. */
import { openGpu } from "./open.mjs";

const { gpu, ...facts } = await openGpu();
console.log(JSON.stringify(facts));
process.exit(); // whatever the driver still has running
