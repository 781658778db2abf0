/**
 * A dom0 as Debian 13 installs it is booted: the daemon's unit is enabled, and a guest of xendomains wants its disk.
 * `npm run test:xen -- xen/systemd` runs just this.
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
const lab = join(root, "test/xen/systemd/lab");
const cache = join(root, "build/xen-systemd");

/** Ten times what it takes on a machine that does nothing else: a last resort. */
const BOOT_SECONDS = 1200;

function impossible(): string | false {
  if (process.getuid?.() !== 0) return "debootstrap needs root";
  if (process.env["XBDBACK_SCENARIOS"]) return "XBDBACK_SCENARIOS names others";
  return absent("debootstrap", "apt-get", "dpkg-deb", "cpio", "xz", "zstd", "mke2fs", "qemu-system-x86_64");
}

/** Makes the root disk with today's package in it; false, with the test skipped, where there is no Debian 13. */
function makeDisk(t: TestContext): boolean {
  const base = spawnSync(lab, ["base", cache], { encoding: "utf8" });
  if (base.status === NO_DEBIAN) {
    t.skip(base.stderr.trim());
    return false;
  }
  assert.equal(base.status, 0, base.stderr);
  const deb = spawnSync(process.execPath, [join(root, "scripts/package-deb.mjs")], { encoding: "utf8" });
  assert.equal(deb.status, 0, deb.stderr);
  const image = spawnSync(lab, ["image", cache, join(root, deb.stdout.trim())], { encoding: "utf8" });
  assert.equal(image.status, 0, image.stderr);
  return true;
}

const OPTIONS = { skip: impossible(), timeout: (BOOT_SECONDS + 600) * 1000 };

test("a reboot of a dom0 with systemd brings its guests' disks back", OPTIONS, async (t) => {
  mkdirSync(cache, { recursive: true });
  if (!makeDisk(t)) return;
  const output = await bootLab(lab, cache, BOOT_SECONDS);
  for (const check of checksOf(output)) {
    await t.test(check.name, () => assert.ok(check.ok, `${check.name}\n${check.said.slice(-8000)}`));
  }
  assert.ok(output.includes("CHECKS DONE"), `it did not get to its end:\n${output.slice(-8000)}`);
});
