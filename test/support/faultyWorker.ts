/** Workers that fail on purpose: the real one, with something in front that spoils one of its calls. */
import { workerSource } from "../../src/cpu/embedded.gen.js";

/**
 * - exit: the thread ends, without a word in a browser
 * - throw: it throws outside of the call, which is then never answered
 * - reject: the call throws inside
 * - silence: the call is never answered
 */
export type Fault = "exit" | "throw" | "reject" | "silence";

export const isNode = typeof globalThis.process?.versions?.node === "string";

/** For `workerUrl`: a worker that does so on the `nth` piece of work that it is given (1 is the first). */
export function faultyWorkerUrl(fault: Fault, nth: number): string {
  const actions: Record<Fault, string> = {
    exit: isNode ? "process.exit(7);" : "close();",
    throw: 'throw new Error("a worker that fails on purpose");',
    reject: 'data.path = ["missing"];',
    silence: 'data.type = "none";',
  };
  // The worker's guard hears a message first; what Comlink will get passes through here.
  const spoil = `
    let [calls, listeners] = [0, 0];
    function spoil(data) {
      const isWork = data.type === "APPLY" && ["run", "begin"].includes(data.path[0]);
      if (isWork && ++calls === ${nth}) { ${actions[fault]} }
    }`;
  const source = isNode
    ? `import { parentPort as port } from "node:worker_threads";
       const on = port.on.bind(port);
       port.on = (type, listener) =>
         on(type, listeners++ === 0 ? listener : (data) => { spoil(data); listener(data); });`
    : `const listen = addEventListener.bind(globalThis);
       globalThis.addEventListener = (type, listener) =>
         listen(type, listeners++ === 0 ? listener : (event) => { spoil(event.data); listener(event); });`;
  return moduleUrl(`${source}\n${spoil}\n${workerSource}`);
}

/** The address of a module's source. */
export function moduleUrl(source: string): string {
  if (isNode) return `data:text/javascript,${encodeURIComponent(source)}`;
  return URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
}
