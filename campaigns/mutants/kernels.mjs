// The mutants of the kernels: one thing changed in one line of AssemblyScript or WGSL.
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { project } from "../plant.mjs";

/** What a change does to a line: a pattern, and what each match becomes. None is meant to leave a program that works. */
const operators = [
  ["add for sub", /(?<=\b(?:f32x4|f64x2)\.)sub(?=\()/g, "add"],
  ["sub for add", /(?<=\b(?:f32x4|f64x2)\.)add(?=\()/g, "sub"],
  ["nmadd for madd", /(?<![a-z_])madd(?=\()/g, "nmadd"],
  ["madd for nmadd", /(?<![a-z_])nmadd(?=\()/g, "madd"],
  ["the real part for the imaginary", /\bcmaddIm(?=\()/g, "cmaddRe"],
  ["the imaginary part for the real", /\bcmaddRe(?=\()/g, "cmaddIm"],
  ["the first half of a group for the second", /(?<=v128\.load\([^()]*), 16(?=\))/g, ""],
  ["one row too few", /(?<=for \(; \w+ )> 0(?=;)/g, "> 1"],
  ["one chunk too short", /\bchunk - k0? - 1\b|\bchunk - k\b/g, (all) => `${all} - 1`],
  ["a chunk that ends one token later", /(?<=k(?: \+ 1)? == )chunk/g, "chunk + 1"],
  ["a mean over one too many", /\/ count\b/g, "/ (count + 1)"],
  ["a factor left out", /multiply\((?:step|leap|lambda), (\w+)\)/g, (_, factor) => factor],
  [
    "minus for plus",
    /(?<= )\+(?= (?:vec2f|multiply|skip|carry|total|last|h\[|bias|x\[|b\[|sigmoid)\b)/g,
    "-",
  ],
  ["the conjugate", /(?<=vec2f\()a\.x \* b\.x - a\.y \* b\.y/g, "a.x * b.x + a.y * b.y"],
  ["one too few", /(?<=; \w+ )<(?= [^;]+; (?:\w+\+\+|last \+= chunk|k = 0|)\))/g, "+ 1 <"],
  [
    "the last one left out",
    /(?<=if \([^;{]*(?:lane|count|column|n|state|i|tokens|first|task|token) )>=(?= )/g,
    "+ 1 >=",
  ],
  ["one token past the end", /(?<=if \([^;{]* )< count(?=\))/g, "< count + 1"],
  ["the largest for the smallest", /(?<!\.p?)\bmin(?=[(<])/g, "max"],
  ["the smallest for the largest", /(?<!\.p?)\bmax(?=[(<])/g, "min"],
  ["no bit is masked", / & ~FRESH/g, ""],
  [
    "the other of two",
    /(?<=\bif \([^{}]*) (==|!=) 0(?=\))/g,
    (_, sign) => ` ${sign === "==" ? "!=" : "=="} 0`,
  ],
];

/** Statements that can be left out: a call or an assignment on a line of its own, or alone in the braces of a shader's line. */
const statement =
  /^\s+(?!return|const|let|var|for|if|else|export|function|break|continue|workgroupBarrier)[\w.]+(?:\[[^=;]*\])?(?:\(.*\)|\s[-+*]?=\s.*);$/;
const inBraces = /(?<=\{ )(?!return)[^{};]*[^{}]*;(?= \})/g;

/** Every file of kernels. */
export const kernelFiles = ["assembly", "src/webgpu/kernels"]
  .flatMap((folder) => readdirSync(join(project, folder)).map((name) => `${folder}/${name}`))
  .filter((file) => /\.(ts|wgsl)$/.test(file) && basename(file) !== "index.ts");

/** All mutants of a kernel's source, line by line. */
export function mutantsOf(file) {
  const found = [];
  let comment = false;
  const lines = readFileSync(join(project, file), "utf8").split("\n");
  const add = (line, says, becomes) => {
    const text = lines.with(line, becomes).join("\n");
    const misses = becomes.includes("nmadd(") && !/import .*\bnmadd\b|function nmadd/.test(text);
    const imports = misses ? 'import { nmadd } from "./simd";\n' : "";
    found.push({ file, line: line + 1, says, text: imports + text, becomes });
  };
  for (const [line, text] of lines.entries()) {
    if (/^\s*\/\*/.test(text)) comment = true;
    const isCode =
      !comment &&
      !/^\s*(\/\/|@|import|struct|export (const|function)|function|fn|const \w+ =.*f32;)/.test(text);
    if (text.includes("*/")) comment = false;
    if (!isCode) continue;
    for (const [says, pattern, replacement] of operators) {
      for (const { index } of text.matchAll(pattern)) {
        const change = (all, ...rest) => {
          const at = rest.findLast((value) => typeof value === "number");
          if (at !== index) return all;
          return typeof replacement === "string" ? replacement : replacement(all, ...rest);
        };
        add(line, says, text.replace(pattern, change));
      }
    }
    if (statement.test(text)) add(line, "left out", "");
    if (file.endsWith(".wgsl"))
      for (const [inside] of text.matchAll(inBraces)) add(line, "left out", text.replace(inside, ""));
  }
  return found;
}
