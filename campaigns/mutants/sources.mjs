// The mutants of src and workers: Stryker's operators, on the syntax tree. Each says at which place it is (a function, a branch,
// what follows a return), so that only the tests that come there need to be run.
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
 * @property {number} place the number of the place it is at, 0 for what runs when the file is imported
 */

/** @returns {Mutant[]} */
export function mutantsOf(file) {
  const text = readFileSync(join(project, file), "utf8");
  const found = [];
  walk(parse(file, text), (node, parents, place) => {
    for (const [start, end, becomes, says] of changes(node, parents, text)) {
      const line = text.slice(0, start).split("\n").length;
      found.push({ file, line, says, start, end, becomes, place });
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

/** The file's text, with a note at every place: `globalThis.reached` is 1 at first + the place's number. */
export function withNotes(file, first) {
  const text = readFileSync(join(project, file), "utf8");
  const inserts = [[0, "globalThis.reached ??= [];"]];
  walk(
    parse(file, text),
    () => {},
    ({ type, start, end }, number, isNext) => {
      const note = `globalThis.reached[${first + number}] = 1`;
      if (type === "BlockStatement") inserts.push([start + 1, `${note};`]);
      else if (isNext || type === "Program") inserts.push([start, `${note};`]);
      else if (/Statement$/.test(type)) inserts.push([start, `{${note};`], [end, "}"]);
      else inserts.push([start, `(${note}, `], [end, ")"]);
    },
  );
  let result = "";
  let at = 0;
  for (const [place, insert] of inserts.sort((a, b) => a[0] - b[0])) {
    result += text.slice(at, place) + insert;
    at = place;
  }
  return result + text.slice(at);
}

/** File -> the number of its first place among those of all files. */
export function firstPlaces() {
  let places = 0;
  return new Map(
    sourceFiles.map((file) => {
      const first = places;
      walk(
        parse(file, readFileSync(join(project, file), "utf8")),
        () => {},
        () => places++,
      );
      return [file, first];
    }),
  );
}

const parse = (file, text) => parseAst(text, { lang: "ts" }, file);

const isFunction = ({ type }) =>
  /^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/.test(type);

/** What of a node runs only sometimes when the node does. */
const branches = {
  ...{ IfStatement: ["consequent", "alternate"], ConditionalExpression: ["consequent", "alternate"] },
  ...{ LogicalExpression: ["right"], CatchClause: ["body"] },
  ...{ ForStatement: ["body"], ForOfStatement: ["body"], ForInStatement: ["body"], WhileStatement: ["body"] },
};
const leaves = /^(Return|Throw|Break|Continue)Statement$|^(Await|Yield)Expression$/;

/** Whether what follows a node may not run though the node does. */
const mayLeave = (node) =>
  leaves.test(node.type) || (!isFunction(node) && childrenOf(node).some(([child]) => mayLeave(child)));

/** The nodes within a node that run, each with its name there. Types do not run; what is wrapped in one does. */
function childrenOf(node) {
  return Object.entries(node)
    .filter(
      ([key]) =>
        !/^(typeAnnotation|returnType|type(Parameters|Arguments)|superTypeArguments|implements)$/.test(key),
    )
    .flatMap(([key, value]) => (Array.isArray(value) ? value : [value]).map((child) => [child, key]))
    .filter(
      ([child]) =>
        typeof child?.type === "string" &&
        (!child.type.startsWith("TS") ||
          /^TS(As|NonNull|Satisfies)Expression$|^TSParameterProperty$/.test(child.type)),
    );
}

/**
 * Calls back with every node that runs, its parents (the nearest last) and the number of the place it is at; and with the node
 * that each place begins with, its number, and whether it only follows others there.
 */
function walk(root, visit, begin = () => {}) {
  let places = 0;
  const descend = (node, parents, around) => {
    let place = around;
    if (isFunction(node)) {
      place = ++places;
      begin(node.body, place, false);
    }
    visit(node, parents, place);
    const isList = /^(BlockStatement|SwitchCase)$/.test(node.type);
    let listed = place;
    let isNext = node.type === "SwitchCase";
    for (const [child, key] of childrenOf(node)) {
      const isStatement = isList && key !== "test";
      const isBranch = branches[node.type]?.includes(key) ?? false;
      if (isBranch || (isStatement && isNext)) {
        listed = ++places;
        begin(child, places, isStatement);
      }
      descend(child, [...parents, node], isBranch || isStatement ? listed : place);
      if (isStatement) isNext = mayLeave(child);
    }
  };
  begin(root, 0, false);
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
      if (node.body.type !== "BlockStatement" && of(node.body) !== "undefined")
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
