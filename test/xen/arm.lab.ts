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

/** Makes what no test changes; false, with the test skipped, where there is no Debian 13 for arm64. */
function makeBase(t: TestContext): boolean {
  mkdirSync(cache, { recursive: true });
  const base = spawnSync(lab, ["base", cache], { encoding: "utf8" });
  if (base.status === NO_DEBIAN) {
    t.skip(base.stderr.trim());
    return false;
  }
  assert.equal(base.status, 0, base.stderr);
  return true;
}

/** Makes a root disk by one of the lab's commands. */
function makeDisk(command: string, ...args: string[]): void {
  const { status, stderr } = spawnSync(lab, [command, cache, ...args], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
}

/** Today's package for Arm; and with it, in this checkout, koffi's part for Arm. */
function makePackage(): string {
  const deb = spawnSync(process.execPath, [join(root, "scripts/package-deb.mjs"), "arm64"], {
    encoding: "utf8",
  });
  assert.equal(deb.status, 0, deb.stderr);
  return join(root, deb.stdout.trim());
}

/** Each of a machine's checks as a test. */
async function showChecks(t: TestContext, output: string): Promise<void> {
  for (const check of checksOf(output)) {
    await t.test(check.name, () => assert.ok(check.ok, `${check.name}\n${check.said.slice(-8000)}`));
  }
  assert.ok(output.includes("CHECKS DONE"), `it did not get to its end:\n${output.slice(-8000)}`);
}

const SUITE_SECONDS = 3600;
const SUITE_OPTIONS = { skip: impossible(), timeout: (SUITE_SECONDS + 600) * 1000 };
const OPTIONS = { skip: impossible(), timeout: (BOOT_SECONDS + 600) * 1000 };

test("on Arm a guest has its disk, and all of it is released", OPTIONS, async (t) => {
  if (!makeBase(t)) return;
  makeDisk("image", makePackage());
  await showChecks(t, await bootLab(lab, cache, BOOT_SECONDS));
});

// What depends on the architecture of all that needs no Xen: memory that processes share, system calls, the order of accesses.
if (process.env["XBDBACK_TEST"] === "full") {
  test("tests of the loopback platform pass on Linux on Arm", SUITE_OPTIONS, async (t) => {
    if (!makeBase(t)) return;
    makePackage();
    makeDisk("suite", root, join(root, "test/xen/arm/suite"));
    await showChecks(t, await bootLab(lab, cache, SUITE_SECONDS, "native"));
  });
}
