// Makes a checkout ready to run: installs what package-lock.json says if it is not there, and builds what changed.
// Says what it does on stderr, one line each; prints everything only when something fails.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function run(what, command, args) {
  const start = Date.now();
  process.stderr.write(`${what} ... `);
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: "utf8" });
  if (status !== 0) {
    process.stderr.write(`failed\n${stdout ?? ""}${stderr ?? ""}`);
    process.exit(1);
  }
  process.stderr.write(`${((Date.now() - start) / 1000).toFixed(1)} s\n`);
}

/** npm notes what it installed in node_modules/.package-lock.json. */
function installed() {
  const note = join(root, "node_modules/.package-lock.json");
  return existsSync(note) && statSync(note).mtimeMs >= statSync(join(root, "package-lock.json")).mtimeMs;
}

const [major] = process.versions.node.split(".");
const { engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
if (Number(major) < Number(engines.node.replace(/\D/g, ""))) {
  process.stderr.write(`xbdback needs Node ${engines.node}; this is ${process.version}\n`);
  process.exit(1);
}
// No package's install script is needed. npm runs koffi's nevertheless, whatever allowScripts says: it is bundled.
if (!installed()) run("installing packages", "npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
run("building", process.execPath, [join(root, "scripts/build.mjs")]);
