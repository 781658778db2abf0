// Writes build/host/bundle, what bin/xbdback.mjs runs: each thread's modules in a few files. Guests wait while a daemon
// starts, and to load a hundred small modules takes longer than all the rest.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { writeWhole } from "./write-whole.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const compiled = join(root, "build/host");
const directory = join(compiled, "bundle");

// As deep as the modules are, whose URLs of other files are relative.
const ENTRIES = {
  main: join(compiled, "cli/main.js"),
  worker: join(compiled, "reactor/worker.js"),
  spare: join(compiled, "reactor/spare.js"),
  "call-thread": join(compiled, "storage/calls/call-thread.js"),
  "module-worker": join(compiled, "storage/module/module-worker.js"),
};

/** See host/platform/build.ts. */
const BUILD = "@BUILD@";

/** What the files are to contain, with the hash of all of them and the core's in its place. */
function named(outputFiles) {
  const hash = createHash("sha256").update(readFileSync(join(root, "build/blkif.wasm")));
  for (const { text } of outputFiles) hash.update(text);
  const name = hash.digest("hex").slice(0, 16);
  const files = outputFiles.map(({ path, text }) => ({ path, text: text.replace(BUILD, name) }));
  if (files.every(({ text }, i) => text === outputFiles[i].text)) throw new Error(`no module has ${BUILD}`);
  return files;
}

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
  // What the others import comes first, and what they import no more goes last: each file finds what it names at any moment.
  const isEntry = ({ path }) => basename(path, ".js") in ENTRIES;
  const files = named(outputFiles);
  for (const { path, text } of [...files.filter((file) => !isEntry(file)), ...files.filter(isEntry)]) {
    writeWhole(path, text);
  }
  const written = new Set(outputFiles.map(({ path }) => basename(path)));
  for (const name of readdirSync(directory)) if (!written.has(name)) rmSync(join(directory, name));
}
