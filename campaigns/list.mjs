// The campaigns, in the order of docs/guarantees.md. A new one: a file with a default export, and a line here.
const files = {
  "killed-workers": "faults/killed-workers.mjs",
  "worker-faults": "faults/worker-faults.mjs",
  "stopped-anywhere": "faults/stopped-anywhere.mjs",
  interleavings: "faults/interleavings.mjs",
  "failing-gpu": "faults/failing-gpu.mjs",
  "no-memory": "faults/no-memory.mjs",
  soak: "load/soak.mjs",
  lifecycle: "load/lifecycle.mjs",
  crowd: "load/crowd.mjs",
  exits: "load/exits.mjs",
  checkpoints: "input/checkpoints.mjs",
  models: "input/models.mjs",
  arguments: "input/arguments.mjs",
  messages: "input/messages.mjs",
  accuracy: "numbers/accuracy.mjs",
  "any-calls": "calls/any-calls.mjs",
  "failing-calls": "calls/failing-calls.mjs",
  "not-finite": "numbers/not-finite.mjs",
  "same-bits": "numbers/same-bits.mjs",
};

export const campaigns = Object.entries(files).map(([name, file]) => ({
  name,
  url: new URL(file, import.meta.url).href,
}));
