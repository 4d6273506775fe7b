// @ts-check
// The library as text: all in one file, or a first file and one for each module of src/parts/.
//
// A part uses much of the first file. It does not import it: the first file would have exports that are not for users, and
// where it is known under another address (a query, a CDN's bundle) a second copy would be loaded. So a part is a function
// of what it uses, and the first file calls it.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { basename, relative, resolve } from "node:path";
import { build } from "esbuild";
import { minifySync } from "rolldown/utils";

/** @typedef {import("esbuild").Plugin} Plugin */

/** The modules of src/parts/, each with the file's name. */
export const partNames = readdirSync(new URL("../src/parts", import.meta.url)).map((file) =>
  basename(file, ".ts"),
);

/** What a part is exported as; a digest in the end, so that files of different builds are found out. */
const BUILD = "$BUILD";

/**
 * @typedef {object} Embedded expressions for what src/cpu/embedded.gen.ts has
 * @property {string} kernels
 * @property {string} wideKernels
 * @property {string} workerSource
 */

/** @typedef {Pick<Embedded, "kernels" | "wideKernels">} Kernels */

/**
 * Everything in one file. Library and worker have much in common: it is minified once and put in front of both, so that gzip
 * finds the worker's text to be a copy of what stands before it.
 * @param {Kernels} kernels
 * @param {Plugin[]} plugins
 */
export async function bundleWhole(kernels, plugins) {
  const entryPoints = { index: "src/index.ts", worker: "workers/worker.ts" };
  const { text } = await bundle(entryPoints, [partLoader(false), ...plugins]);
  const [index, worker, shared] = [
    minified(text("index")),
    minified(text("worker")),
    minified(text("shared")),
  ];
  const [common = "", library = ""] = withShared(index, shared);
  const workerSource = quote(withShared(worker, shared).join(""));
  const { names, rest } = takeImport(library, "embedded");
  const last = Object.entries(kernels).map(([name, value]) => `const ${names[name]}=${value};`);
  return forBundlers(`${common}const ${names["workerSource"]}=${workerSource};${rest}${last.join("")}`);
}

/**
 * A first file and its parts.
 * @param {Kernels} kernels
 * @param {Plugin[]} plugins
 * @returns {Promise<{ files: Map<string, string>, worker: string }>} the text of "index" and of the parts; the worker's
 */
export async function bundleSplit(kernels, plugins) {
  const { text: workerText } = await bundle({ worker: "workers/worker.ts" }, plugins);
  const worker = minified(workerText("worker"));
  /** @type {Embedded} */
  const embedded = { ...kernels, workerSource: quote(worker) };
  const parts = await bundleParts(embedded, plugins);
  const entry = `export * from "./src/index.ts";${parts.exports}`;
  const { text } = await bundle({ index: "entry" }, [virtual("entry", entry), partLoader(true), ...plugins]);
  const files = new Map(parts.files).set("index", provide(embed(minified(text("index")), embedded)));
  const digest = createHash("sha256")
    .update([...files.values()].join())
    .digest("hex");
  for (const [name, text] of files) {
    files.set(name, forBundlers(text.replaceAll(BUILD, `b${digest.slice(0, 8)}`)));
  }
  return { files, worker };
}

/**
 * The parts, without what they share with the first file.
 * @param {Embedded} embedded
 * @param {Plugin[]} plugins
 * @returns {Promise<{ files: Map<string, string>, exports: string }>} exports: of the first file, for the parts
 */
async function bundleParts(embedded, plugins) {
  const first = await bundle({ index: "src/index.ts" }, [partLoader(true), ...plugins]);
  const files = new Map();
  /** @type {string[]} what the first file provides, "module#name" */
  const provided = [];
  const owners = new Map();
  for (const name of partNames) {
    const part = await bundle({ [name]: `src/parts/${name}.ts` }, [only(first.modules), ...plugins]);
    for (const module of part.modules) {
      if (owners.has(module)) fail(`${module} would be in ${owners.get(module)}.js and in ${name}.js`);
      owners.set(module, name);
    }
    files.set(name, minified(asFunction(embed(part.text(name), embedded), provided)));
  }
  const exports = provided.map((key, i) => {
    const [module, name] = key.split("#");
    return `export{${name} as $${i}}from"./${module}";`;
  });
  return { files, exports: exports.join("") };
}

/**
 * A bundle's text with what it imports as embedded.
 * @param {string} text
 * @param {Embedded} embedded
 */
function embed(text, embedded) {
  if (!text.includes('from"embedded"')) return text;
  const { names, rest } = takeImport(text, "embedded");
  const values = Object.entries(names).map(
    ([name, local]) => `const ${local}=${embedded[/** @type {keyof Embedded} */ (name)]};`,
  );
  const end = rest.lastIndexOf("export{");
  return rest.slice(0, end) + values.join("") + rest.slice(end);
}

/**
 * A part's text as a function of the list of what is provided, to which it adds.
 * @param {string} text
 * @param {string[]} provided
 */
function asFunction(text, provided) {
  /** @type {string[]} */
  const parameters = [];
  let again = "";
  const body = text.replace(/import\{([^}]*)\}from"first:([^"]*)";/g, (_, list, module) => {
    for (const entry of list.split(",")) {
      const [name, local = name] = entry.split(" as ");
      const key = `${module}#${name}`;
      if (!provided.includes(key)) provided.push(key);
      const at = provided.indexOf(key);
      // Each module of the part has its own import, and may have its own name for the same thing.
      if (parameters[at]) again += `const ${local}=${parameters[at]};`;
      else parameters[at] = local;
    }
    return "";
  });
  const [exported = "", list = ""] = /export\{([^}]*)\};\s*$/.exec(body) ?? fail("a part exports nothing");
  return `export const ${BUILD}=([${parameters}])=>{${again}${body.replace(exported, "")}return{${asObject(list)}}};`;
}

/**
 * The first file's text, with the exports that are for parts turned into the list that it hands to them.
 * @param {string} text
 */
function provide(text) {
  const { names, rest } = takeImport(text, "provided");
  /** @type {string[]} */
  const list = [];
  const own = rest.replace(/(?<=export\{)[^}]*(?=\};\s*$)/, (exports) => {
    const isProvided = (/** @type {string} */ entry) => / as \$\d+$/.test(entry);
    for (const entry of exports.split(",").filter(isProvided)) {
      const [local = "", name = ""] = entry.split(" as $");
      list[Number(name)] = local;
    }
    return exports
      .split(",")
      .filter((entry) => !isProvided(entry))
      .join();
  });
  return `${own}const ${names["provided"]}=()=>[${list}];`;
}

/**
 * @param {Record<string, string>} entryPoints
 * @param {Plugin[]} plugins
 */
async function bundle(entryPoints, plugins) {
  const { outputFiles, metafile } = await build({
    ...{
      bundle: true,
      splitting: true,
      minify: true,
      metafile: true,
      write: false,
      outdir: ".",
      entryPoints,
    },
    ...{ format: "esm", platform: "neutral", mainFields: ["module", "main"], target: "es2022" },
    ...{ chunkNames: "shared", external: ["node:*", "webgpu"], logLevel: "warning", legalComments: "none" },
    plugins,
  });
  const text = (/** @type {string | undefined} */ name) =>
    outputFiles.find(({ path }) => basename(path) === `${name}.js`)?.text ?? fail(`there is no ${name}.js`);
  return { modules: Object.keys(metafile.inputs), text };
}

/** @returns {Plugin} an entry point that is no file */
function virtual(/** @type {string} */ name, /** @type {string} */ contents) {
  return {
    name,
    setup({ onResolve, onLoad }) {
      onResolve({ filter: new RegExp(`^${name}$`) }, () => ({ path: name, namespace: name }));
      onLoad({ filter: /.*/, namespace: name }, () => ({ contents, resolveDir: "." }));
    },
  };
}

/** @returns {Plugin} src/parts.ts with its imports as they are in the end: of a file beside it, or of what is there */
function partLoader(/** @type {boolean} */ split) {
  return {
    name: "part-loader",
    setup({ onResolve, onLoad }) {
      onLoad({ filter: /src\/parts\.ts$/ }, ({ path }) => {
        const text = readFileSync(path, "utf8");
        const found = new Set();
        const code = text.replace(/import\("\.\/parts\/(\w+)\.js"\)/g, (_, name) => {
          found.add(name);
          return split
            ? `import("./${name}.js").then((part) => part.${BUILD}(provided()))`
            : `Promise.resolve(${name})`;
        });
        if (partNames.some((name) => !found.has(name))) fail("src/parts.ts does not import every part");
        const imports = partNames.map((name) => `import * as ${name} from "./parts/${name}.js";`);
        return {
          contents: (split ? `import { provided } from "provided";` : imports.join("")) + code,
          loader: "ts",
        };
      });
      onResolve({ filter: /^provided$/ }, () => ({ path: "provided", external: true }));
      onResolve({ filter: /.*/ }, ({ kind, path }) =>
        kind === "dynamic-import" ? { path, external: true } : undefined,
      );
    },
  };
}

/** @returns {Plugin} of these modules only the names are needed: another file has them */
function only(/** @type {string[]} */ modules) {
  return {
    name: "first",
    setup({ onResolve }) {
      onResolve({ filter: /^\.\.?\/.*\.js$/ }, ({ path, resolveDir }) => {
        const module = relative(".", resolve(resolveDir, path.replace(/\.js$/, ".ts")));
        return modules.includes(module) ? { path: `first:${module}`, external: true } : undefined;
      });
    },
  };
}

/** Oxc finds some per cent that esbuild leaves. */
function minified(/** @type {string} */ text) {
  const { code, errors } = minifySync("bundle.js", text, {
    module: true,
    mangle: { toplevel: true },
    compress: { target: "es2022" },
  });
  if (errors.length > 0) fail(`a bundle could not be minified: ${errors[0]?.message}`);
  return code;
}

/**
 * What users' bundlers need of an import() and minifying drops: the comments of src/runtime/importLater.ts, without which they warn,
 * or follow it; and around a part's name the quotes by which they know that it is constant.
 */
function forBundlers(/** @type {string} */ code) {
  const ignored = "import(/* webpackIgnore: true */ /* @vite-ignore */ ";
  return code.replace(/\bimport\((?=\w+\))/g, ignored).replace(/\bimport\(`([^`]*)`\)/g, 'import("$1")');
}

/**
 * Takes each `import{a as b}from"path"` out of a bundle's text.
 * @param {string} text
 * @param {string} path
 * @returns {{ names: Record<string, string>, rest: string }} the local names by the imported ones, and the text without them
 */
function takeImport(text, path) {
  /** @type {Record<string, string>} */
  const names = {};
  const rest = text.replace(new RegExp(`import\\{([^}]*)\\}from"${path}";`, "g"), (_, list) => {
    for (const entry of list.split(",")) {
      const [name, local = name] = entry.split(" as ");
      names[name] = local;
    }
    return "";
  });
  if (rest === text) fail(`a bundle does not import ${path}`);
  return { names, rest };
}

/** What both have in common, in a scope of its own, and then what one of them has alone. */
function withShared(/** @type {string} */ text, /** @type {string} */ shared) {
  const [exported = "", list = ""] = /export\{([^}]*)\};\s*$/.exec(shared) ?? fail("nothing is shared");
  const { names, rest } = takeImport(text, "./shared.js");
  const wanted = Object.entries(names).map(([name, local]) => `${name}:${local}`);
  return [`const{${wanted}}=(()=>{${shared.replace(exported, "")}return{${asObject(list)}}})();`, rest];
}

/** "a as b,c" -> "b:a,c" */
function asObject(/** @type {string} */ list) {
  return list.replace(/([^\s,]+) as ([^,]+)/g, "$2:$1");
}

/** A string literal in the quotes that leave the text most alike. */
function quote(/** @type {string} */ text) {
  return `'${text.replace(/[\\']/g, "\\$&").replace(/\n/g, "\\n")}'`;
}

/** @returns {never} */
function fail(/** @type {string} */ message) {
  throw new Error(message);
}
