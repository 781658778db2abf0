// Checks style and types: `npm run lint`, or `npm run format` to put right what can be.
//
// Biome lives in build/tools, not among the packages that `npm ci` installs: it is large, the two commands do not need
// it, and a lock file can only name it on registries that carry all its platforms. The core holds no free-standing
// decorators, so that Biome and tsc (with AssemblyScript's own declarations) read it as TypeScript.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const BIOME = "2.6.8";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tools = join(root, "build/tools", BIOME);
const biome = join(tools, "node_modules/@biomejs/biome/bin/biome");

function run(command, args) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

// The types are checked with the packages' own compiler, which a fresh clone does not have yet.
run(process.execPath, [join(root, "scripts/setup.mjs")]);
if (!existsSync(biome)) {
  mkdirSync(tools, { recursive: true });
  const quiet = [
    "--no-audit",
    "--no-fund",
    "--no-save",
    "--no-package-lock",
    "--loglevel=error",
    "--ignore-scripts",
  ];
  run("npm", ["install", ...quiet, "--prefix", tools, `@biomejs/biome@${BIOME}`]);
}
run(process.execPath, [biome, "check", ...(process.argv.includes("--write") ? ["--write"] : []), "."]);
for (const project of ["assembly/tsconfig.json", "tsconfig.json"]) {
  run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project, "--noEmit"]);
}
