// Builds and tests again whenever a source changes: `npm run dev -- vbd/keys --test-name-pattern "mode"`.
//
// It is the development build (scripts/build.mjs --dev): the core with its assertions and not optimised, the host with
// source maps. The next `npm test` or `npm run build` makes the other one again. Without names it only builds.
import { spawn } from "node:child_process";
import { existsSync, watch } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildDevelopmentCore } from "./build-core.mjs";

/** Editors write a file in several steps. */
const SETTLED_MS = 50;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const words = process.argv.slice(2);
const first = words.findIndex((word) => word.startsWith("--"));
const names = (first < 0 ? words : words.slice(0, first)).map((name) =>
  name.replace(/^test\/|(\.test)?\.ts$/g, ""),
);
const options = first < 0 ? [] : words.slice(first);
const files = names.map((name) =>
  existsSync(join(root, "test", name)) ? `${name}/**/*.test.js` : `${name}.test.js`,
);
let running = null;
let timer = null;

function run(args) {
  return new Promise((resolve) => {
    running = spawn(process.execPath, args, { cwd: root, stdio: "inherit" });
    running.once("exit", (status) => resolve(status === 0));
  });
}

async function turn() {
  const start = performance.now();
  const say = (what) => console.log(`--- ${what} after ${((performance.now() - start) / 1000).toFixed(1)} s`);
  if (!(await buildDevelopmentCore(root))) return say("does not build");
  if (!(await run([join(root, "scripts/build.mjs"), "--dev"]))) return say("does not build");
  say("built");
  if (files.length === 0) return;
  const paths = files.map((file) => join("build/test", file));
  const good = await run(["--enable-source-maps", "--test", "--test-reporter=dot", ...options, ...paths]);
  say(good ? "passed" : "failed");
}

/** One turn at a time; what changes meanwhile ends it, and begins another. */
async function again() {
  running?.kill();
  await current;
  current = turn();
}

let current = turn();
for (const folder of ["assembly", "host", "test", "bench", "fuzz"]) {
  watch(join(root, folder), { recursive: true }, () => {
    clearTimeout(timer);
    timer = setTimeout(again, SETTLED_MS);
  });
}
