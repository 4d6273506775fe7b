export { BidirectionalLru } from "../layers/bidirectional.js";
export { buildDirections, joined } from "../models/directions.js";
