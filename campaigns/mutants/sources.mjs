// The mutants of src and workers: Stryker's operators, on the syntax tree. Each says which function it is in, so that only
// the tests that come there need to be run.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAst } from "rolldown/parseAst";
import { project } from "../plant.mjs";

/** What an operator becomes. */
const operators = {
  ...{ "+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["*"], "**": ["*"] },
  ...{ "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"] },
  ...{ "===": ["!=="], "!==": ["==="], "==": ["!="], "!=": ["=="] },
  ...{ "&&": ["||"], "||": ["&&"], "??": ["&&"], "&": ["|"], "|": ["&"], "^": ["&"] },
  ...{ "<<": [">>"], ">>": ["<<"], ">>>": ["<<"] },
  ...{ "+=": ["-="], "-=": ["+="], "*=": ["/="], "/=": ["*="], "%=": ["*="], "??=": ["&&="], "||=": ["&&="] },
  ...{ "++": ["--"], "--": ["++"] },
};

/** What a method becomes; "" is the object alone. */
const methods = {
  ...{ some: "every", every: "some", startsWith: "endsWith", endsWith: "startsWith", min: "max", max: "min" },
  ...{ toLowerCase: "toUpperCase", toUpperCase: "toLowerCase", floor: "ceil", ceil: "floor" },
  ...{ filter: "", slice: "", sort: "", reverse: "", trim: "", subarray: "" },
};

/** Every file with mutants: those that are compiled or only declare have none. */
export const sourceFiles = ["src", "workers"].flatMap((folder) =>
  readdirSync(join(project, folder), { recursive: true })
    .map((name) => `${folder}/${name}`)
    .filter((file) => file.endsWith(".ts") && !/\.(d|gen)\.ts$/.test(file))
    .sort(),
);

/**
 * @typedef {object} Mutant
 * @property {string} file
 * @property {number} line from 1
 * @property {string} says
 * @property {number} start of the text that is replaced
 * @property {number} end
 * @property {string} becomes
 * @property {number} within the number of the function around it, 0 for none
 */

/** @returns {Mutant[]} */
export function mutantsOf(file) {
  const text = readFileSync(join(project, file), "utf8");
  const found = [];
  walk(parse(file, text), (node, parents, within) => {
    for (const [start, end, becomes, says] of changes(node, parents, text)) {
      const line = text.slice(0, start).split("\n").length;
      found.push({ file, line, says, start, end, becomes, within });
    }
  });
  return found;
}

/** The file's text with the mutant in it; undefined if it is none that parses, as `a ?? b && c`. */
export function mutate({ file, start, end, becomes }) {
  const text = readFileSync(join(project, file), "utf8");
  const mutated = text.slice(0, start) + becomes + text.slice(end);
  try {
    return parse(file, mutated) && mutated;
  } catch {
    return undefined;
  }
}

/** The file's text, with a note at the start of every function: `globalThis.reached` gets "file:number". */
export function withNotes(file) {
  const text = readFileSync(join(project, file), "utf8");
  const inserts = [[0, note(file, 0)]];
  let number = 0;
  walk(parse(file, text), (node) => {
    if (!isFunction(node)) return;
    number++;
    if (node.body.type === "BlockStatement") inserts.push([node.body.start + 1, note(file, number)]);
    else inserts.push([node.body.start, `(${note(file, number).replace(";", ",")}`], [node.body.end, ")"]);
  });
  let result = "";
  let at = 0;
  for (const [place, insert] of inserts.sort((a, b) => a[0] - b[0])) {
    result += text.slice(at, place) + insert;
    at = place;
  }
  return result + text.slice(at);
}

const note = (file, number) => `globalThis.reached?.add("${file}:${number}");`;

const parse = (file, text) => parseAst(text, { lang: "ts" }, file);

const isFunction = ({ type, body }) =>
  /^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/.test(type) && body !== null;

/** Calls back with every node that runs, its parents (the nearest last) and the number of the function around it. */
function walk(root, visit) {
  let functions = 0;
  const descend = (node, parents, within) => {
    // Types do not run; what is wrapped in one does.
    const wraps = /^TS(As|NonNull|Satisfies)Expression$|^TSParameterProperty$/.test(node.type);
    if (node.type.startsWith("TS") && !wraps) return;
    const inside = isFunction(node) ? ++functions : within;
    visit(node, parents, inside);
    for (const [key, value] of Object.entries(node)) {
      if (
        /^(typeAnnotation|returnType|typeParameters|typeArguments|superTypeArguments|implements)$/.test(key)
      )
        continue;
      for (const child of Array.isArray(value) ? value : [value]) {
        if (typeof child?.type === "string") descend(child, [...parents, node], inside);
      }
    }
  };
  descend(root, [], 0);
}

/** What a node may become: start, end and text of the change, and what it is in words. */
function* changes(node, parents, text) {
  const parent = parents.at(-1);
  const of = ({ start, end }) => text.slice(start, end);
  switch (node.type) {
    case "BinaryExpression":
    case "LogicalExpression":
    case "AssignmentExpression": {
      if (node.operator === "+" && [node.left, node.right].some(isText)) return; // of strings: there is no minus
      const at = text.indexOf(node.operator, node.left.end);
      for (const becomes of operators[node.operator] ?? [])
        yield [at, at + node.operator.length, becomes, `${becomes} for ${node.operator}`];
      return;
    }
    case "UpdateExpression": {
      const at = node.prefix ? node.start : node.end - 2;
      const [becomes] = operators[node.operator];
      yield [at, at + 2, becomes, `${becomes} for ${node.operator}`];
      return;
    }
    case "UnaryExpression":
      if (/^[!~-]$/.test(node.operator))
        yield [node.start, node.start + 1, node.operator === "-" ? "+" : " ", `no ${node.operator}`];
      return;
    case "IfStatement":
    case "ConditionalExpression":
      for (const value of ["true", "false"])
        yield [node.test.start, node.test.end, value, `${value} for ${short(of(node.test))}`];
      return;
    case "WhileStatement":
    case "DoWhileStatement":
    case "ForStatement":
      if (node.test) yield [node.test.start, node.test.end, "false", "a loop that is not entered"];
      return;
    case "BlockStatement":
      if (node.body.length > 0) yield [node.start, node.end, "{}", `left out: ${short(of(node))}`];
      return;
    case "ArrowFunctionExpression":
      if (node.body.type !== "BlockStatement")
        yield [node.body.start, node.body.end, "undefined", `nothing for ${short(of(node.body))}`];
      return;
    case "ArrayExpression":
      if (node.elements.length > 0) yield [node.start, node.end, "[]", `[] for ${short(of(node))}`];
      return;
    case "ObjectExpression":
      if (node.properties.length > 0 && parent?.type !== "ArrowFunctionExpression")
        yield [node.start, node.end, "{}", `{} for ${short(of(node))}`];
      return;
    case "Literal": {
      if (typeof node.value === "boolean") {
        yield [node.start, node.end, String(!node.value), `${!node.value} for ${node.value}`];
      }
      // Texts for people are another matter: they have a space. So are the names of modules.
      const isName = /^(Import|Export)/.test(parent?.type) || (parent?.key === node && !parent.computed);
      if (typeof node.value === "string" && !isName && !node.value.includes(" ")) {
        const becomes = node.value === "" ? '"something else"' : '""';
        yield [node.start, node.end, becomes, `${becomes} for ${of(node)}`];
      }
      return;
    }
    case "MemberExpression": {
      if (node.optional) yield [node.object.end, node.object.end + 2, node.computed ? "" : ".", "no ?."];
      const isCall = parent?.callee === node && !node.computed && Object.hasOwn(methods, node.property.name);
      const becomes = isCall ? methods[node.property.name] : undefined;
      if (becomes)
        yield [node.property.start, node.property.end, becomes, `${becomes} for ${node.property.name}`];
      if (becomes === "") yield [node.object.end, parent.end, "", `no ${node.property.name}`];
    }
  }
}

const isText = ({ type, value }) => type === "TemplateLiteral" || typeof value === "string";

const short = (text) => text.replace(/\s+/g, " ").slice(0, 60);
