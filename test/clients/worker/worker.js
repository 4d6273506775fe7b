import { forward } from "./forward.mjs";
import * as linrec from "./node_modules/linrec/dist/index.js";

postMessage(await forward(linrec));
