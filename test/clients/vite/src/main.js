import * as linrec from "linrec";
import { forward } from "../forward.mjs";

document.getElementById("client").textContent = await forward(linrec);
