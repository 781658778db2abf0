// Checks style, types and what is dead: `npm run lint`, or `npm run format` to put right what can be.
//
// biome.jsonc and knip.jsonc have the rules and their exceptions. The two programs live in build/tools, not among the
// packages that `npm ci` installs: they are large, the two commands do not need them, and a lock file can only name Biome
// on registries that carry all its platforms. The core holds no free-standing decorators, so that Biome and tsc (with
// AssemblyScript's own declarations) read it as TypeScript.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function run(command, args) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

/** The path of a package's program, after it is installed where it is not. */
function installed(name, version, program) {
  const directory = join(root, "build/tools", `${name.replace(/.*\//, "")}-${version}`);
  const path = join(directory, "node_modules", name, program);
  if (!existsSync(path)) {
    mkdirSync(directory, { recursive: true });
    const quiet = [
      "--no-audit",
      "--no-fund",
      "--no-save",
      "--no-package-lock",
      "--loglevel=error",
      "--ignore-scripts",
    ];
    run("npm", ["install", ...quiet, "--prefix", directory, `${name}@${version}`]);
  }
  return path;
}

// The types are checked with the packages' own compiler, which a fresh clone does not have yet.
run(process.execPath, [join(root, "scripts/setup.mjs")]);
const biome = installed("@biomejs/biome", "2.6.8", "bin/biome");
run(process.execPath, [biome, "check", ...(process.argv.includes("--write") ? ["--write"] : []), "."]);
for (const project of ["assembly/tsconfig.json", "tsconfig.json"]) {
  run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project, "--noEmit"]);
}
run(process.execPath, [installed("knip", "6.44.2", "bin/knip.js"), "--no-progress"]);
