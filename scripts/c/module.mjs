// The AssemblyScript sources as a Binaryen module, compiled but not optimised: a function for each function, a name for
// each name, and each constant of assembly/abi.ts still where the source has it.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import asc from "assemblyscript/asc";
import binaryen from "binaryen";

const FLAGS = [
  ...["--outFile", "core.wasm", "--optimizeLevel", "0", "--debug", "--noAssert"],
  ...["--runtime", "stub", "--importMemory", "--noExportMemory"],
  ...["--enable", "bulk-memory", "--disable", "threads", "--disable", "simd", "--disable", "sign-extension"],
];

/**
 * Compiles `entry`, a path below `root`. `replaced` has texts that stand for files, by their paths.
 * Throws an Error with the compiler's words.
 */
export async function compileModule(root, entry, replaced = {}) {
  let binary;
  const { error, stderr } = await asc.main([entry, ...FLAGS], {
    readFile(name, directory) {
      // The checkout's own asconfig.json is for the other builds.
      if (name.endsWith("asconfig.json")) return null;
      const file = join(directory, name);
      return replaced[name] ?? (existsSync(join(root, file)) ? readFileSync(join(root, file), "utf8") : null);
    },
    writeFile(name, contents) {
      if (name.endsWith(".wasm")) binary = contents;
    },
    listFiles: () => [],
  });
  if (error) throw new Error(`${entry}: ${error.message}\n${stderr.toString()}`);
  return binaryen.readBinary(binary);
}
