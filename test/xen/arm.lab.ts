/**
 * Xen on Arm: the arm64 package in a dom0 of Debian 13, and a guest whose disk it serves. `npm run test:xen -- xen/arm`
 * runs just this.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { absent } from "../support/programs.js";
import { bootLab, NO_DEBIAN } from "./machine.js";
import { checksOf } from "./scenario.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const lab = join(root, "test/xen/arm/lab");
const cache = join(root, "build/xen-arm");

/** Ten times what it takes on a machine that does nothing else: a last resort. */
const BOOT_SECONDS = 1200;

function impossible(): string | false {
  if (process.getuid?.() !== 0) return "to make a root disk needs root";
  if (process.env["XBDBACK_SCENARIOS"]) return "XBDBACK_SCENARIOS names others";
  return absent("apt-get", "dpkg-deb", "cpio", "xz", "mke2fs", "qemu-system-aarch64");
}

/** Makes the root disk with today's package in it; false, with the test skipped, where there is no Debian 13 for arm64. */
function makeDisk(t: TestContext): boolean {
  const base = spawnSync(lab, ["base", cache], { encoding: "utf8" });
  if (base.status === NO_DEBIAN) {
    t.skip(base.stderr.trim());
    return false;
  }
  assert.equal(base.status, 0, base.stderr);
  const deb = spawnSync(process.execPath, [join(root, "scripts/package-deb.mjs"), "arm64"], {
    encoding: "utf8",
  });
  assert.equal(deb.status, 0, deb.stderr);
  const image = spawnSync(lab, ["image", cache, join(root, deb.stdout.trim())], { encoding: "utf8" });
  assert.equal(image.status, 0, image.stderr);
  return true;
}

const OPTIONS = { skip: impossible(), timeout: (BOOT_SECONDS + 600) * 1000 };

test("on Arm a guest has its disk, and all of it is released", OPTIONS, async (t) => {
  mkdirSync(cache, { recursive: true });
  if (!makeDisk(t)) return;
  const output = await bootLab(lab, cache, BOOT_SECONDS);
  for (const check of checksOf(output)) {
    await t.test(check.name, () => assert.ok(check.ok, `${check.name}\n${check.said.slice(-8000)}`));
  }
  assert.ok(output.includes("CHECKS DONE"), `it did not get to its end:\n${output.slice(-8000)}`);
});
