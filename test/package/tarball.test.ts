/** The package of `npm pack`, made of a fresh clone and used as its users do: by npm, and on a machine that has only Node. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ROOT } from "../hosts/tools.js";
import { CleanRoot, noCleanRoot } from "./clean-root.js";
import { deadLinks } from "./links.js";
import { nativeParts } from "./native-parts.js";

const OPTIONS = { timeout: 600_000 };
const scratch = mkdtempSync(join(tmpdir(), "xbdback-tarball-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const project = join(scratch, "project");
const installed = join(project, "node_modules/xbdback");
let tarball: string;

function run(directory: string, program: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd: directory, encoding: "utf8" });
  assert.equal(status, 0, `${program} ${args.join(" ")}: ${error?.message ?? ""}\n${stdout}${stderr}`);
  return stdout;
}

before(() => {
  const clone = join(scratch, "clone");
  // All but what a clone does not have: no build/, which `npm pack` has to make.
  const isCloned = (name: string): boolean => !["node_modules", "build", ".git"].includes(name);
  for (const name of readdirSync(ROOT).filter(isCloned)) {
    cpSync(join(ROOT, name), join(clone, name), { recursive: true });
  }
  // Instead of `npm ci`, which needs the network, and which prepack runs only if nothing has been installed.
  run(ROOT, "cp", "-a", "--reflink=auto", join(ROOT, "node_modules"), join(clone, "node_modules"));
  const note = join(clone, "node_modules/.package-lock.json");
  run(clone, "touch", note);
  run(clone, "npm", "pack", "--silent", "--pack-destination", scratch);
  tarball = join(scratch, readdirSync(scratch).find((name) => name.endsWith(".tgz")) as string);
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), '{ "name": "project", "private": true, "type": "module" }\n');
  run(project, "npm", "install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", tarball);
}, OPTIONS);

test("npm installs it in an empty project, without the network", OPTIONS, () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  const command = join(project, "node_modules/.bin/xbdback");
  assert.equal(run(project, command, "--version"), `${version}\n`);
  assert.match(run(project, command, "demo", "--size", "16M", "--operations", "200"), /data verified/);
});

test("it has koffi's native parts for both architectures, and for glibc and musl", OPTIONS, () => {
  assert.deepEqual(nativeParts(installed), [
    "linux_arm64 for arm64",
    "linux_x64 for x86-64",
    "musl_arm64 for arm64",
    "musl_x64 for x86-64",
  ]);
});

test("everything that it exports is there", OPTIONS, () => {
  const { exports } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8"));
  const script = `
    import { statSync } from "node:fs";
    for (const name of ${JSON.stringify(Object.keys(exports))}) {
      const url = new URL(import.meta.resolve("xbdback/" + name.slice(2)));
      if (statSync(url).size === 0) throw new Error(name);
      if (url.pathname.endsWith(".js")) await import(url);
    }
    console.log("all there");`;
  assert.equal(run(project, process.execPath, "--input-type=module", "-e", script), "all there\n");
});

test("no link in its documents leads out of it", OPTIONS, () => {
  const files = readdirSync(installed, { recursive: true }) as string[];
  const documents = files.filter((name) => name.endsWith(".md") && !name.startsWith("node_modules/"));
  for (const name of ["README.md", "docs/disks.md", "docs/session.md", "docs/advisories.md"])
    assert.ok(documents.includes(name), name);
  assert.deepEqual(deadLinks(installed, documents), []);
});

test("it runs where there is nothing but Node", { ...OPTIONS, skip: noCleanRoot() }, async () => {
  const root = new CleanRoot();
  try {
    run(scratch, "tar", "-xzf", tarball, "-C", root.directory);
    const output = root.inside("node /package/bin/xbdback.mjs demo --size 16M --operations 200 2> /dev/null");
    assert.match(output, /data verified/);
  } finally {
    await root.close();
  }
});
