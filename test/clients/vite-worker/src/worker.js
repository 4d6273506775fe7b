import * as linrec from "linrec";
import { forward } from "../forward.mjs";

forward(linrec).then(postMessage);
