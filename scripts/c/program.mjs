// A whole module as C: its constants, its state, and its functions in the order of their files, with their comments.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import binaryen from "binaryen";
import { effectsOf } from "./effects.mjs";
import { translate } from "./function.mjs";
import { functionName, globalName } from "./names.mjs";
import { literal, TYPES } from "./operators.mjs";

/** Functions that memory.c has, and fuzz/native/player.c. */
const BY_HAND = /^assembly\/((shared|session\/(log|violation))\/|session\/ring\/compareRing$)/;

/** Guests and hosts, in the player of sessions, reach all of memory: their accesses have a word in front. */
const accessOf = (name) => (name.startsWith("assembly/session/") ? "any_" : "");

function readFunctions(module) {
  return Array.from({ length: module.getNumFunctions() }, (_, i) => {
    const pointer = module.getFunctionByIndex(i);
    const { name, params, results, vars, body } = binaryen.getFunctionInfo(pointer);
    const list = binaryen.expandType(params);
    const locals = Array.from({ length: list.length + vars.length }, (_, local) =>
      binaryen.Function.hasLocalName(pointer, local)
        ? binaryen.Function.getLocalName(pointer, local)
        : `${local}`,
    );
    return { name, params: list, results, vars, locals, body };
  });
}

function readGlobals(module) {
  return Array.from({ length: module.getNumGlobals() }, (_, i) => {
    const { name, type, mutable, init } = binaryen.getGlobalInfo(module.getGlobalByIndex(i));
    const { id, value } = binaryen.getExpressionInfo(init);
    if (id !== binaryen.ConstId) throw new Error(`${name}: C needs its first value as a constant`);
    return { name, type, mutable, value };
  });
}

function asBlockComment(text) {
  return text.replaceAll(/^ *\/\/ ?/gm, "").trim();
}

/** By function name of C, the comments above functions; by file, the one at its top. */
function readComments(root, files) {
  const functions = new Map();
  const tops = new Map();
  for (const file of files) {
    const text = readFileSync(join(root, `${file}.ts`), "utf8");
    const top = /^(?:\/\/.*\n)+/.exec(text)?.[0] ?? "";
    const lines = asBlockComment(top)
      .split("\n")
      .map((line) => ` * ${line}`.trimEnd());
    tops.set(file, ["/*", ` * ---- ${file}.ts ----`, " *", ...lines, " */"].join("\n"));
    const documented = /^(\/\*\*(?:[^*]|\*(?!\/))*\*\/)\n(?:export )?function (\w+)\(/gm;
    for (const [, comment, name] of text.matchAll(documented)) functions.set(`${file}/${name}`, comment);
  }
  return { functions, tops };
}

function usedConstants(globals, text) {
  return globals.filter(({ name, mutable }) => {
    const word = globalName(name);
    return !mutable && !word.startsWith("XBD_") && new RegExp(`\\b${word}\\b`).test(text);
  });
}

/** The parts of a C file, as texts: {state, initial, constants, prototypes, functions, exports}. */
export function translateModule(module, root) {
  const functions = readFunctions(module);
  const globals = readGlobals(module);
  const state = globals.filter(({ name, mutable }) => mutable && name.startsWith("assembly/"));
  const written = functions.filter(({ name }) => name.startsWith("assembly/") && !BY_HAND.test(name));
  const outside = functions.map(({ name }) => name).filter((name) => BY_HAND.test(name));
  const effects = effectsOf(
    module,
    functions.filter(({ name }) => !BY_HAND.test(name)),
    outside,
  );
  const names = [
    ...functions.map(({ name }) => functionName(name)),
    ...globals.map(({ name }) => globalName(name)),
  ];
  const isState = new Set(state.map(({ name }) => name));
  const program = {
    names,
    isState: (name) => isState.has(name),
    changes: (name) => effects.get(name).changes,
    needsCore: (name) => effects.get(name).needsCore,
  };
  const fileOf = (name) => /^(.*?)\/[^/]*$/.exec(name)[1];
  const files = [...new Set(written.map(({ name }) => fileOf(name)))];
  const comments = readComments(root, files);
  const prototypes = [];
  const texts = [];
  for (const file of files) {
    texts.push(comments.tops.get(file), "");
    for (const it of written.filter(({ name }) => fileOf(name) === file)) {
      const { prototype, text } = translate(
        { ...it, comment: comments.functions.get(it.name) },
        { ...program, access: accessOf(it.name) },
      );
      prototypes.push(prototype);
      texts.push(text);
    }
  }
  const text = texts.join("\n");
  const define = ({ name, type, value }) => `#define ${globalName(name)} ${literal(value, type)}`;
  const exports = Array.from({ length: module.getNumExports() }, (_, i) =>
    binaryen.getExportInfo(module.getExportByIndex(i)),
  );
  return {
    state: state.map(({ name, type }) => `${TYPES.get(type)} ${globalName(name)};`),
    initial: state.map(({ name, type, value }) => `core->${globalName(name)} = ${literal(value, type)};`),
    constants: usedConstants(globals, text).map(define),
    prototypes,
    functions: text,
    exports: exports
      .filter(({ kind, value }) => kind === binaryen.ExternalFunction && !BY_HAND.test(value))
      .map(({ name, value }) => {
        const { params } = functions.find((it) => it.name === value);
        return {
          name,
          function: functionName(value),
          takes: params.length,
          needsCore: program.needsCore(value),
        };
      }),
  };
}
