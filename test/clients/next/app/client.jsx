"use client";
import * as linrec from "linrec";
import { useEffect, useState } from "react";
import { forward } from "../forward.mjs";

export default function Client() {
  const [line, setLine] = useState("");
  useEffect(() => {
    forward(linrec).then(setLine);
  }, []);
  return <pre id="client">{line}</pre>;
}
