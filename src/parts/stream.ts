export { readThrough, transformerOf } from "../stream.js";
