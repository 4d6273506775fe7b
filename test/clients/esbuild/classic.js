import * as linrec from "linrec";
import { forward } from "./forward.mjs";

forward(linrec).then((line) => {
  document.getElementById("client").textContent = line;
});
