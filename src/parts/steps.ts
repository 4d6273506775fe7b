export { stepThrough } from "../layers/manySteps.js";
