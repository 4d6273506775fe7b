import * as linrec from "linrec";
import { forward } from "../forward.mjs";
import Client from "./client";

export const dynamic = "force-dynamic";

export default async function Page() {
  return (
    <>
      <pre id="server">{await forward(linrec)}</pre>
      <Client />
    </>
  );
}
