export { Chain } from "../chain.js";
export { buildProgram } from "../models/build.js";
export { Model } from "../models/model.js";
