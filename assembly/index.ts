// Every kernel. They are guests in the host's memory: pointers come in, nothing is allocated, output first.
export * from "./core";
export * from "./wide";
