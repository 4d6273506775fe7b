export { BidirectionalLru } from "../bidirectional.js";
export { buildDirections } from "../models/directions.js";
