// @ts-check
// Makes shaders short: no comments, no space that means nothing, and short names for what they declare. One table of names
// serves them all, so that what is alike stays alike for gzip.

const names = /(?<![@\w])[A-Za-z_]\w*/g; // attributes are the language's

/**
 * @param {readonly string[]} sources every shader
 * @param {readonly string[]} elsewhere texts whose words stay as they are
 * @returns {(source: string) => string}
 */
export function wgslMinifier(sources, elsewhere) {
  const kept = elsewhere.flatMap((text) => text.match(names) ?? []);
  /** @type {Map<string, number>} */
  const uses = new Map();
  for (const [name] of sources.map(strip).join("\n").matchAll(names))
    uses.set(name, (uses.get(name) ?? 0) + 1);
  const declared = new Set();
  for (const source of sources.map(strip)) {
    for (const [, name] of source.matchAll(/\b(?:let|const|fn|struct|var(?:<[^>]*>)?) ?(\w+)/g))
      declared.add(name);
    for (const [, name] of source.matchAll(/(\w+):/g)) declared.add(name); // parameters and members
  }
  // Components of a vector could be meant by names of these letters.
  const free = [...declared].filter((name) => !kept.includes(name) && !/^(?:[xyzw]+|[rgba]+)$/.test(name));
  free.sort((a, b) => (uses.get(b) ?? 0) * b.length - (uses.get(a) ?? 0) * a.length);
  const taken = new Set([...uses.keys()].filter((name) => !free.includes(name)).concat(kept));
  /** @type {Map<string, string>} */
  const short = new Map();
  let next = 0;
  for (const name of free) {
    let candidate;
    do candidate = numbered(next++);
    while (taken.has(candidate) || /^[xyzw]+$|^[rgba]+$/.test(candidate));
    short.set(name, candidate);
  }
  return (source) => strip(source).replace(names, (name) => short.get(name) ?? name);
}

/** @param {string} source */
export function strip(source) {
  return source
    .replace(/\/\/.*/g, "")
    .replace(/\s+/g, " ")
    .replace(/ ?([-+*/%=<>!&|^~?:;,.(){}[\]]) ?/g, "$1")
    .replace(/,([)}\]])/g, "$1")
    .trim();
}

/**
 * a, b, ..., Z, a0, b0, ...: no words of WGSL's, nor of those that it reserves.
 * @param {number} i
 */
function numbered(i) {
  const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  return letters.charAt(i % 52) + (i < 52 ? "" : Math.floor(i / 52) - 1);
}
