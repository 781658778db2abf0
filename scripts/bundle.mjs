// Writes build/host/bundle, what bin/xbdback.mjs runs: each thread's modules in a few files. Guests wait while a daemon
// starts, and to load a hundred small modules takes longer than all the rest.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const compiled = join(root, "build/host");
const directory = join(compiled, "bundle");

// As deep as the modules are, whose URLs of other files are relative.
const ENTRIES = {
  main: join(compiled, "cli/main.js"),
  worker: join(compiled, "reactor/worker.js"),
  spare: join(compiled, "reactor/spare.js"),
};

export async function writeBundle() {
  const { outputFiles } = await build({
    entryPoints: ENTRIES,
    outdir: directory,
    write: false,
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20",
    // It finds its native part beside itself.
    external: ["koffi"],
    // commander is CommonJS.
    banner: {
      js: 'import { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);',
    },
    logLevel: "warning",
  });
  mkdirSync(directory, { recursive: true });
  for (const { path, text } of outputFiles) {
    if (!existsSync(path) || readFileSync(path, "utf8") !== text) writeFileSync(path, text);
  }
  const written = new Set(outputFiles.map(({ path }) => basename(path)));
  for (const name of readdirSync(directory)) if (!written.has(name)) rmSync(join(directory, name));
}
