import * as linrec from "linrec";
import { forward } from "./forward.mjs";

console.log(await forward(linrec));
