export { buildProgram } from "../models/build.js";
export { Model } from "../models/model.js";
export { Chain } from "../networks/chain.js";
