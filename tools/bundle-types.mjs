// @ts-check
// Bundles the declarations that tsc wrote to build/types into dist/index.d.ts and dist/index.d.cts: the public names and
// what they mention, nothing else, so that no type of a GPU, a worker or Node can get in a user's way. Needs no more than
// what tsc promises: every declaration starts at a line's first column, and modules name what they import.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

/**
 * @typedef {object} Declarations
 * @property {Map<string, string>} own texts by name
 * @property {Map<string, string>} imported files by name
 */

/** Of use to subclasses only, and none are made outside. */
const protectedMember =
  /^ {4}(?:\/\*\*(?:(?!\*\/)[\s\S])*\*\/\n {4})?protected [^;{]*(?:\{[^}]*\}[^;]*)?;\n/gm;

/** @type {Map<string, Declarations>} */
const modules = new Map();
/** @type {Map<string, string>} the bundle: texts by name, in the order in which they were met */
const bundle = new Map();

const index = readFileSync("build/types/index.d.ts", "utf8");
/** @type {string[]} */
const values = [];
/** @type {string[]} */
const types = [];
for (const { typesOnly, names, file } of imports(index, "build/types/index.d.ts")) {
  for (const { name, type } of names) {
    take(file, name);
    (typesOnly || type ? types : values).push(name);
  }
}
const [title] = /^\/\*\*.*?\*\/\n/s.exec(index) ?? [""];
// For users without the DOM's types or with an older `lib`; where these are known, nothing is added.
const ambient = `declare global {
    namespace WebAssembly {
        interface Module {}
    }
}
`;
// Before TypeScript 5.7 typed arrays take no argument: what `of` gives is of the right type in either.
const declarations = [...bundle.values()]
  .join("")
  .replace(/\b(\w+Array)<ArrayBuffer>/g, 'ReturnType<$1Constructor["of"]>')
  .replaceAll("ArrayBufferView<ArrayBuffer>", "ArrayBufferView");
const text = `/// <reference lib="esnext.disposable" />
${title}${ambient}${declarations}export { ${values.join(", ")} };
export type { ${types.join(", ")} };
`;
if (/\bimport\b|\bGPU[A-Z]\w+|\bnode:/.test(text.replace(/\/\*.*?\*\//gs, ""))) {
  throw new Error("dist/index.d.ts would need types that its user may lack (import, GPU… or node:…)");
}
for (const path of ["dist/index.d.ts", "dist/index.d.cts"]) writeFileSync(path, text);

/**
 * Adds a declaration, and first those that it mentions.
 * @param {string} file
 * @param {string} name
 */
function take(file, name) {
  const { own, imported } = read(file);
  const from = imported.get(name);
  if (from) return take(from, name);
  const text = own.get(name);
  if (text === undefined) throw new Error(`${file} declares no ${name}`);
  if (bundle.has(name)) {
    if (bundle.get(name) !== text) throw new Error(`two declarations are called ${name}: rename one of them`);
    return;
  }
  bundle.set(name, text);
  for (const [word] of text.replace(/\/\*.*?\*\//gs, "").matchAll(/[A-Za-z_$][\w$]*/g)) {
    if (own.has(word) || imported.has(word)) take(file, word);
  }
}

/**
 * @param {string} file
 * @returns {Declarations}
 */
function read(file) {
  const known = modules.get(file);
  if (known) return known;
  const text = readFileSync(file, "utf8");
  const imported = new Map(
    imports(text, file).flatMap((from) => from.names.map(({ name }) => [name, from.file])),
  );
  /** @type {Map<string, string>} */
  const own = new Map();
  const declaration =
    /^((?:\/\*\*(?:(?!\*\/)[\s\S])*\*\/\n)?)(?:export )?((?:declare )?(?:abstract )?(?:class|interface|type|function|const|enum) ([\w$]+)[\s\S]*?)(?=^(?:\/\*\*|export|import|declare|class|interface|type|function|const|enum)|$(?![\s\S]))/gm;
  for (const { 1: comment, 2: code = "", 3: name = "", index } of text.matchAll(declaration)) {
    const doc = index === 0 ? "" : comment; // the first is the file's own
    const declared = /^(?:interface|type|declare)/.test(code) ? code : `declare ${code}`;
    own.set(name, `${own.get(name) ?? ""}${doc}${declared.replace(protectedMember, "")}`); // overloads follow each other
  }
  const module = { own, imported };
  modules.set(file, module);
  return module;
}

/**
 * Imports and re-exports of the project's own modules; others are not followed, and what needs them fails above.
 * @param {string} text
 * @param {string} file
 */
function imports(text, file) {
  const statements = text.matchAll(/^(?:import|export) (type )?\{([^}]*)\} from "(\.[^"]*)\.js";/gm);
  return [...statements].map(([, typesOnly, list = "", path = ""]) => ({
    typesOnly: Boolean(typesOnly),
    file: join(dirname(file), `${path}.d.ts`),
    names: list
      .split(",")
      .map((entry) => entry.trim())
      .filter(Boolean)
      .map((entry) => {
        const [, type, name, as] = /^(type )?([\w$]+)( as .*)?$/.exec(entry) ?? [];
        if (!name || as) throw new Error(`${file}: "${entry}" cannot be bundled`);
        return { name, type: Boolean(type) };
      }),
  }));
}
