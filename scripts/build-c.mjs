// Makes build/c/blkif-core.c and .h, the core as plain C11: `npm run build:c`.
//
// The AssemblyScript sources are compiled without optimisation, and what comes out is written down as C, function by
// function (scripts/c/). Nothing of WebAssembly is left: the memory is a block of the host's, the state a struct, and the
// sizes of the tables are macros that the host may define (the header, from assembly/abi.ts, says which).
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { digest, version } from "./build-core.mjs";
import { coreHeader } from "./c-header.mjs";
import { writeWhole } from "./write-whole.mjs";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

const INTRODUCTION = `/*
 * The back half of Xen's paravirtual block driver, as plain C11. docs/core.md of xbdback says how a host uses it.
 * Generated from assembly/ of xbdback; do not edit. SPDX-License-Identifier: BSD-2-Clause
 *
 * Each function has the name of its file and its own there. An address is an offset in the memory of struct xbd_core.
 */
#include "blkif-core.h"
`;

function exported({ name, function: called, takes, needsCore }) {
  const parameter = takes ? `, int32_t ${name === "step" ? "n" : "now"}` : "";
  const list = [
    ...(needsCore ? ["core"] : []),
    ...(takes ? [`(uint32_t)${name === "step" ? "n" : "now"}`] : []),
  ];
  const unused = needsCore ? [] : ["\t(void)core;"];
  return [
    `int32_t xbd_${name}(struct xbd_core *core${parameter})`,
    "{",
    ...unused,
    `\treturn (int32_t)${called}(${list.join(", ")});`,
    "}",
    "",
  ].join("\n");
}

async function translated(root, entry, replaced) {
  // The compilers take half a second to load, and are seldom needed.
  const { compileModule } = await import("./c/module.mjs");
  const { translateModule } = await import("./c/program.mjs");
  return translateModule(await compileModule(root, entry, replaced), root);
}

const memoryPart = () => readFileSync(join(ROOT, "scripts/c/memory.c"), "utf8");

function initialiser(program) {
  return [
    "void xbd_init(struct xbd_core *core, void *memory, void *ring)",
    "{",
    "\tcore->memory = memory;",
    "\tcore->ring = ring ? ring : core->memory + XBD_SRING;",
    ...program.initial.map((line) => `\t${line}`),
    "}",
    "",
  ];
}

/** The texts of the C file and its header. `replaced` as in compileModule. */
export async function coreInC(root = ROOT, replaced = {}) {
  const program = await translated(root, "assembly/index.ts", replaced);
  const source = [
    INTRODUCTION,
    memoryPart(),
    ...program.constants,
    "",
    ...program.prototypes,
    "",
    program.functions,
    "/* ---- The exports ---- */",
    "",
    ...initialiser(program),
    program.exports.map(exported).join("\n"),
  ].join("\n");
  return { source, header: coreHeader(program.state) };
}

/**
 * The same with the player of sessions (assembly/session), of which `byHand` has a part, for fuzzers to include. Its own
 * tables lie behind the core's, so it is made for one choice of `sizes`, which are in the text as macros, too.
 */
export async function playerInC(root, byHand, sizes) {
  let abi = readFileSync(join(root, "assembly/abi.ts"), "utf8");
  for (const [name, value] of Object.entries(sizes))
    abi = abi.replace(new RegExp(`^(export const ${name} =) \\d+;`, "m"), `$1 ${value};`);
  const program = await translated(root, "assembly/session/index.ts", { "assembly/abi.ts": abi });
  const macros = Object.entries(sizes).map(([name, value]) => `#define XBD_${name} ${value}`);
  const parts = [memoryPart(), byHand, ...program.constants, ...program.prototypes, program.functions];
  const source = [...macros, coreHeader(program.state), ...parts, ...initialiser(program)];
  return source.join("\n");
}

/** What both files are made of, as one hash. */
function inputs() {
  const directories = ["assembly", "scripts"];
  const sources = directories.flatMap((directory) =>
    readdirSync(join(ROOT, directory), { recursive: true })
      .filter((name) => /^[^/]*\.ts$|^c\/|^(build-c|c-header)\.mjs$/.test(name))
      .sort()
      .flatMap((name) => [name, readFileSync(join(ROOT, directory, name))]),
  );
  return digest(version(ROOT, "assemblyscript"), version(ROOT, "binaryen"), ...sources);
}

/** Makes both files, if what they are made of has changed. */
export async function writeCore() {
  const [source, header, stamp] = ["blkif-core.c", "blkif-core.h", "stamp"].map((name) =>
    join(ROOT, "build/c", name),
  );
  const files = () => digest(readFileSync(source), readFileSync(header));
  const isThere = [source, header, stamp].every((file) => existsSync(file));
  if (isThere && readFileSync(stamp, "utf8") === `${inputs()} ${files()}\n`) return;
  const texts = await coreInC();
  mkdirSync(join(ROOT, "build/c"), { recursive: true });
  writeWhole(source, texts.source);
  writeWhole(header, texts.header);
  writeWhole(stamp, `${inputs()} ${files()}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeCore();
  process.stdout.write("build/c/blkif-core.c\nbuild/c/blkif-core.h\n");
}
