// Writes build/blkif-core.h, the core's contract for hosts written in C, from assembly/abi.ts: its comments and order
// from the source, its values from the compiled file, so that they are what the TypeScript host uses.
//
// The core in C (scripts/build-c.mjs) has a header of its own, in which values are expressions, so that a host can choose
// the sizes of tables.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { writeWhole } from "./write-whole.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

const MODULE_INTRODUCTION = `/*
 * The contract between blkif.wasm and its host: every code, offset and table. docs/core.md explains them.
 * Generated from assembly/abi.ts; do not edit. Offsets are bytes in linear memory; all numbers are little endian.
 * Names that comments mention have XBD_ in front here. The prototypes show the exports of one instance, which serves
 * one ring; how a host names and reaches them is its WebAssembly runtime's affair.
 */`;

const CORE_INTRODUCTION = `/*
 * The contract between blkif-core.c and its host: every code, offset and table. docs/core.md of xbdback explains them.
 * Generated from assembly/abi.ts; do not edit. Offsets are bytes in the memory of a core; all numbers are little endian.
 * Names that comments mention have XBD_ in front here. SPDX-License-Identifier: BSD-2-Clause
 *
 * A host may define the five sizes below, the same for every file that includes this: XBD_MAX_RING_PAGES (1, 2, 4, 8 or
 * 16), XBD_MAX_SEGMENTS (11 to 256), XBD_MAX_COPIES (a multiple of 4, XBD_MAX_SEGMENTS to 4096), XBD_MAX_PERSISTENT (a power of two up to
 * 2048) and XBD_MAX_LARGE (1 to 64). XBD_MEMORY_BYTES follows from them.
 */`;

/** What a host may choose. */
export const SIZES = ["MAX_RING_PAGES", "MAX_SEGMENTS", "MAX_COPIES", "MAX_PERSISTENT", "MAX_LARGE"];

const C_TYPES = { i32: "int32_t", u32: "uint32_t" };

/** "name(a: i32): i32" as a prototype. */
function prototype(name, parameters, result, first) {
  const list = parameters.split(",").filter(Boolean);
  const types = list.map((parameter) => {
    const [word, type] = parameter.split(":").map((part) => part.trim());
    return `${C_TYPES[type]} ${word}`;
  });
  return `${C_TYPES[result]} xbd_${name}(${[...first, ...types].join(", ") || "void"});`;
}

/** One line of abi.ts as it is in C; null where the header says it in another way. `define` writes constants. */
function translate(line, define, first) {
  const constant = /^export const (\w+) = (.*);$/.exec(line);
  if (constant) return define(constant[1], constant[2]);
  const declared = /^\/\/ {3}(\w+)\((.*)\): (\w+) +(.+)$/.exec(line);
  if (declared) return `/** ${declared[4]} */\n${prototype(declared[1], declared[2], declared[3], first)}`;
  const section = /^\/\/ (-{4} .*[^-])-*$/.exec(line);
  if (section) return `/* ${section[1].trim()} ---- */`;
  if (/^(\/\*\*| \*)/.test(line) || line === "") return line;
  if (line === "//") return null;
  if (line.startsWith("// ")) return `/* ${line.slice(3)} */`;
  throw new Error(`assembly/abi.ts: the C header can't express "${line}"`);
}

function header(introduction, before, define, first = []) {
  const source = readFileSync(join(root, "assembly/abi.ts"), "utf8");
  // The comment at the top speaks of the source.
  const constants = source.slice(source.indexOf("*/") + 2);
  const lines = constants.replace(/^(export const \w+ =)\s+/gm, "$1 ").split("\n");
  const body = lines.map((line) => translate(line, define, first)).filter((line) => line !== null);
  const text = [
    introduction,
    "#ifndef XBD_BLKIF_CORE_H",
    "#define XBD_BLKIF_CORE_H",
    "",
    "#include <stdint.h>",
    "",
    "#ifdef __cplusplus",
    'extern "C" {',
    "#endif",
    ...before,
    ...body,
    "#ifdef __cplusplus",
    "}",
    "#endif",
    "",
    "#endif",
    "",
  ].join("\n");
  return text.replace(/\n{3,}/g, "\n\n");
}

/** The header of the core in C, as text. `state` are the declarations of what the core keeps outside its memory. */
export function coreHeader(state) {
  const define = (name, expression) => {
    const isNumber = /^-?\d/.test(expression) && !expression.includes(" ");
    const value = expression.replaceAll(/\b[A-Z]\w+/g, "XBD_$&");
    const text = `#define XBD_${name} ${isNumber && !value.startsWith("-") ? value : `(${value})`}`;
    return SIZES.includes(name) ? `#ifndef XBD_${name}\n${text}\n#endif` : text;
  };
  const before = [
    "",
    "/** One ring's core, which a host allocates. Its fields are the core's own. */",
    "struct xbd_core {",
    "\tuint8_t *memory;",
    "\tuint8_t *ring;",
    ...state.map((line) => `\t${line}`),
    "};",
    "",
    "/**",
    " * Makes a core of `memory`: XBD_MEMORY_BYTES, page aligned, which need not be zero and is this core's until its ring has",
    " * been detached. Nothing else has to be undone. `ring` is where the ring's pages are mapped, one behind the other; NULL",
    " * if that is at XBD_SRING of the memory. With a ring elsewhere and no persistent grants, XBD_SRING bytes are enough.",
    " */",
    "void xbd_init(struct xbd_core *core, void *memory, void *ring);",
  ];
  return header(CORE_INTRODUCTION, before, define, ["struct xbd_core *core"]);
}

/** Needs build/assembly/abi.js. Throws an Error that shows a line of abi.ts that is not understood. */
export async function writeHeader() {
  const values = await import(pathToFileURL(join(root, "build/assembly/abi.js")).href);
  const define = (name) => `#define XBD_${name} ${values[name] < 0 ? `(${values[name]})` : values[name]}`;
  writeWhole(join(root, "build/blkif-core.h"), header(MODULE_INTRODUCTION, [], define));
}
