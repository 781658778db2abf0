// Writes build/blkif-core.h, the core's contract for hosts written in C, from assembly/abi.ts: its comments and order
// from the source, its values from the compiled file, so that they are what the TypeScript host uses.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { writeWhole } from "./write-whole.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

const INTRODUCTION = `/*
 * The contract between blkif.wasm and its host: every code, offset and table. docs/core.md explains them.
 * Generated from assembly/abi.ts; do not edit. Offsets are bytes in linear memory; all numbers are little endian.
 * Names that comments mention have XBD_ in front here. The prototypes show the exports of one instance, which serves
 * one ring; how a host names and reaches them is its WebAssembly runtime's affair.
 */`;

const C_TYPES = { i32: "int32_t", u32: "uint32_t" };

/** "name(a: i32): i32" as a prototype. */
function prototype(name, parameters, result) {
  const list = parameters.split(",").filter(Boolean);
  const types = list.map((parameter) => {
    const [word, type] = parameter.split(":").map((part) => part.trim());
    return `${C_TYPES[type]} ${word}`;
  });
  return `${C_TYPES[result]} xbd_${name}(${types.join(", ") || "void"});`;
}

/** One line of abi.ts as it is in C; null where the header says it in another way. */
function translate(line, values) {
  const constant = /^export const (\w+) = .*;$/.exec(line);
  if (constant) {
    const value = values[constant[1]];
    return `#define XBD_${constant[1]} ${value < 0 ? `(${value})` : value}`;
  }
  const declared = /^\/\/ {3}(\w+)\((.*)\): (\w+) +(.+)$/.exec(line);
  if (declared) return `/** ${declared[4]} */\n${prototype(declared[1], declared[2], declared[3])}`;
  const section = /^\/\/ (-{4} .*[^-])-*$/.exec(line);
  if (section) return `/* ${section[1].trim()} ---- */`;
  if (/^(\/\*\*| \*)/.test(line) || line === "") return line;
  if (line === "//") return null;
  if (line.startsWith("// ")) return `/* ${line.slice(3)} */`;
  throw new Error(`assembly/abi.ts: the C header can't express "${line}"`);
}

/** Needs build/assembly/abi.js. Throws an Error that shows a line of abi.ts that is not understood. */
export async function writeHeader() {
  const values = await import(pathToFileURL(join(root, "build/assembly/abi.js")).href);
  const source = readFileSync(join(root, "assembly/abi.ts"), "utf8");
  // The comment at the top speaks of the source.
  const constants = source.slice(source.indexOf("*/") + 2);
  const lines = constants.replace(/^(export const \w+ =)[^;]*;$/gm, "$1 _;").split("\n");
  const body = lines.map((line) => translate(line, values)).filter((line) => line !== null);
  const text = [
    INTRODUCTION,
    "#ifndef XBD_BLKIF_CORE_H",
    "#define XBD_BLKIF_CORE_H",
    "",
    "#include <stdint.h>",
    "",
    "#ifdef __cplusplus",
    'extern "C" {',
    "#endif",
    ...body,
    "#ifdef __cplusplus",
    "}",
    "#endif",
    "",
    "#endif",
    "",
  ].join("\n");
  writeWhole(join(root, "build/blkif-core.h"), text.replace(/\n{3,}/g, "\n\n"));
}
