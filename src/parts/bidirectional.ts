export { BidirectionalLru } from "../bidirectional.js";
export { buildDirections, joined } from "../models/directions.js";
