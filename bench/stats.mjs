/** What is said of a list of times. */

export function summarize(times) {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (part) => {
    const place = part * (sorted.length - 1);
    const low = Math.floor(place);
    return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  };
  return { median: at(0.5), min: sorted[0], q1: at(0.25), q3: at(0.75), runs: sorted.length };
}

export const median = (values) => summarize(values).median;

/** Of runs { ms, probe } (calm.mjs). */
export const timesOf = (runs) => runs.map(({ ms }) => ms);

/** Of runs as calm.mjs gives them: there may be more of them than a call takes arguments. */
export const leastProbe = (runs) =>
  runs.reduce((least, { probe }) => Math.min(least, probe), Number.POSITIVE_INFINITY);
