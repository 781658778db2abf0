/** `xbdback serve` on a machine without Xen. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const command = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));

test("serve without Xen: exit status 3 and a line that says what is missing", {
  skip: existsSync("/dev/xen/gntdev") ? "Xen is below" : false,
}, () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, "serve"], { encoding: "utf8" });
  assert.equal(status, 3);
  assert.equal(stdout, "");
  assert.match(
    stderr,
    /^xbdback: no Xen here: there is no \/dev\/xen\/gntdev and \/dev\/xen\/evtchn; without Xen, name a loopback machine with --directory, or try `xbdback demo`\n$/,
  );
});

test("a kind that xenstore would take for a path is a usage error", () => {
  const { status, stderr } = spawnSync(process.execPath, [command, "serve", "--kind", "../x"], {
    encoding: "utf8",
  });
  assert.equal(status, 2);
  assert.match(stderr, /name like vbd/);
});
