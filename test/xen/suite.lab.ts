/**
 * Real guests on a real Xen, in QEMU's software emulation: `npm run test:xen`. XBDBACK_TEST=full has the long loops and
 * every combination in it; XBDBACK_SCENARIOS="xl.sh boot.sh" runs just those.
 */
import assert from "node:assert/strict";
import { buildLab } from "./lab.js";
import { scenario } from "./scenario.js";

/** What is proved, the script that does it, and the seconds that it may take: some four times what it does alone. */
const scenarios: [string, string, number][] = [
  ["gntdev maps, unmaps and copies as the port says", "grants.sh", 600],
  ["a Linux guest keeps files on a disk", "guest.sh", 600],
  ["xenstore over the kernel's device", "xenbus.sh", 600],
  ["the installation of docs/dom0.md", "install.sh", 900],
  ["xl attaches, refuses, shares, creates and destroys", "xl.sh", 1200],
  ["plain phy:", "phy.sh", 900],
  ["the operator's commands", "attach.sh", 1200],
  ["guests boot from a disk", "boot.sh", 1200],
  ["a Linux guest and its disks", "linux.sh", 1200],
  ["guest, daemon and device die in every order", "death.sh", 1200],
  ["the daemon is killed under a guest at work", "restart.sh", 900],
  ["a driver domain", "driver.sh", 1200],
  ["fio over the ways in which a frontend connects", "matrix.sh", 1800],
];

const named = process.env["XBDBACK_SCENARIOS"]?.split(" ");
for (const name of named ?? []) {
  assert.ok(
    scenarios.some(([, script]) => script === name),
    `no scenario ${name}`,
  );
}
const full = process.env["XBDBACK_TEST"] === "full";

buildLab();
for (const [name, script, seconds] of scenarios) {
  if (!named || named.includes(script)) {
    scenario(name, script, full ? 2 * seconds : seconds, { FULL: full ? "1" : "0" });
  }
}
