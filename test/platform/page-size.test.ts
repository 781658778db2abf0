/** Kernels whose pages have not the size of a guest's. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { pageSizeRefusal } from "../../host/platform/page-size.js";

const command = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));
const largePages = new URL("./large-pages.js", import.meta.url).href;

const run = (...args: string[]) =>
  spawnSync(process.execPath, ["--import", largePages, command, ...args], { encoding: "utf8" });

test("a kernel with other pages is refused", () => {
  assert.equal(pageSizeRefusal(4096), null);
  assert.match(String(pageSizeRefusal(16384)), /^this kernel's pages have 16 KiB, /);
});

for (const args of [
  ["demo"],
  ["machine", "/nonexistent/machine"],
  ["serve"],
  ["guest", "--directory", "/nonexistent"],
]) {
  test(`${args[0]} says in one line why it is refused, and what to do`, () => {
    const { status, stdout, stderr } = run(...args);
    assert.equal(
      stderr,
      "xbdback: this kernel's pages have 64 KiB, and it cannot map a guest's pages, which have 4: " +
        "boot a kernel with which `getconf PAGESIZE` prints 4096 (Debian's linux-image-arm64)\n",
    );
    assert.deepEqual([status, stdout], [1, ""]);
  });
}

test("what maps nothing works there", () => {
  assert.equal(run("--version").status, 0);
  assert.equal(run("decode", "--help").status, 0);
});
