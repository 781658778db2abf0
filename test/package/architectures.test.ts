/** The Debian package of the architecture that this machine has not. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { ROOT } from "../hosts/tools.js";
import { absent } from "../support/programs.js";
import { nativeParts } from "./native-parts.js";

const scratch = mkdtempSync(join(tmpdir(), "xbdback-architectures-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const [other, part] =
  process.arch === "arm64" ? ["amd64", "linux_x64 for x86-64"] : ["arm64", "linux_arm64 for arm64"];

function makePackage(architecture: string) {
  return spawnSync(process.execPath, [join(ROOT, "scripts/package-deb.mjs"), architecture], {
    encoding: "utf8",
  });
}

test(`the package for ${other} is made here, and has that architecture's native part`, {
  skip: absent("dpkg-deb"),
  timeout: 600_000,
}, () => {
  const { status, stdout, stderr } = makePackage(other);
  assert.equal(status, 0, stderr);
  const deb = join(ROOT, stdout.trim());
  assert.match(deb, new RegExp(`_${other}\\.deb$`));
  const field = spawnSync("dpkg-deb", ["--field", deb, "Architecture"], { encoding: "utf8" });
  assert.equal(field.stdout, `${other}\n`);
  assert.equal(spawnSync("dpkg-deb", ["--extract", deb, scratch]).status, 0);
  assert.deepEqual(nativeParts(scratch), [part]);
});

test("a package for any other architecture is refused in a line", () => {
  const { status, stderr } = makePackage("riscv64");
  assert.equal(stderr, "there is no package for riscv64: name amd64 or arm64\n");
  assert.equal(status, 2);
});
