export { stepThrough } from "../manySteps.js";
