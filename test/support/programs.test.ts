/** Tests that run programs of others say so, so that `npm test` passes where Node and npm are all there is. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "../hosts/tools.js";
import { absent, assertAsked, type Program, packages, programs } from "./programs.js";

/** Every Debian has them. */
const ESSENTIAL = ["apt", "bsdutils", "dpkg"];

test("what is absent is named with its package, and what is there is not", (t) => {
  const path = process.env["PATH"];
  t.after(() => {
    process.env["PATH"] = path;
  });
  process.env["PATH"] = "/nonexistent";
  assert.equal(
    absent("nbdcopy", "qemu-img", "nbdinfo"),
    "nbdcopy, qemu-img, nbdinfo not installed: apt-get install libnbd-bin qemu-utils",
  );
  process.env["PATH"] = path;
  assert.equal(absent("dpkg-deb"), false);
});

test("a program is not run before it was asked for", () => {
  assert.throws(() => assertAsked("fio"), /fio is run without absent\("fio"\)/);
  assert.throws(() => assertAsked("sh", ["-c", "true && fio --version"]), /fio is run/);
  assert.throws(() => assertAsked("node", ["demo", "--run", 'x=$(fio "$uri")']), /fio is run/);
  assertAsked("sh", ["-c", "true"]);
  absent("fio");
  assertAsked("sh", ["-c", "fio"]);
});

// The other ways to start a program ask assertAsked().
test("each file that starts a program of others by node:child_process asks for it", () => {
  const directory = join(ROOT, "test");
  const files = readdirSync(directory, { recursive: true, encoding: "utf8" });
  let found = 0;
  for (const file of files.filter((name) => /(?<!\.lab|lab)\.ts$/.test(name))) {
    const text = readFileSync(join(directory, file), "utf8");
    for (const [, program] of text.matchAll(/\b(?:spawn|exec)\w*\(\s*"([^"]+)"/g)) {
      if (!programs.includes(program as Program)) continue;
      found++;
      const asks = text.replaceAll(/\b(?:spawn|exec)\w*\(\s*"[^"]+"/g, "").includes(`"${program}"`);
      assert.ok(asks && /\b(absent|withPrograms|e2e)\(/.test(text), `test/${file} runs ${program} unasked`);
    }
  }
  assert.ok(found > 10, "none is found");
});

test("CI installs all of them", () => {
  const words = readFileSync(join(ROOT, ".ci/run"), "utf8").split(/\s+/);
  const missing = packages.filter((name) => !words.includes(name) && !ESSENTIAL.includes(name));
  assert.deepEqual(missing, []);
});
