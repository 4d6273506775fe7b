export { readThrough, transformerOf } from "../layers/stream.js";
