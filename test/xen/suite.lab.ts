/**
 * Real guests on a real Xen, in QEMU's software emulation: `npm run test:xen`. Emulated as they are, they take minutes;
 * XBDBACK_TEST=full has them all, XBDBACK_SCENARIOS="xl.sh boot.sh" just those.
 */
import assert from "node:assert/strict";
import { buildLab } from "./lab.js";
import { scenario } from "./scenario.js";

/** What is proved, the script that does it, and the seconds that it may take: four times what it does alone. */
const quick: [string, string, number][] = [
  ["gntdev maps, unmaps and copies as the port says", "grants.sh", 600],
  ["a Linux guest keeps files on a disk", "guest.sh", 600],
  ["the README's installation", "install.sh", 900],
];
const long: [string, string, number][] = [
  ["xl attaches, refuses, shares, creates and destroys", "xl.sh", 1200],
  ["plain phy:", "phy.sh", 900],
  ["guests boot from a disk", "boot.sh", 1200],
  ["a Linux guest and its disks", "linux.sh", 1200],
  ["guest, daemon and device die in every order", "death.sh", 1200],
  ["fio over the ways in which a frontend connects", "matrix.sh", 1800],
];

const named = process.env["XBDBACK_SCENARIOS"]?.split(" ");
const all = [...quick, ...long];
for (const name of named ?? []) {
  assert.ok(
    all.some(([, script]) => script === name),
    `no scenario ${name}`,
  );
}
const full = process.env["XBDBACK_TEST"] === "full";
const chosen = named ? all.filter(([, script]) => named.includes(script)) : full ? all : quick;

buildLab();
for (const [name, script, seconds] of chosen) {
  scenario(name, script, seconds, { FULL: full ? "1" : "0" });
}
