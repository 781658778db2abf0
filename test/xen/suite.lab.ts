/**
 * Real guests on a real Xen, in QEMU's software emulation: `npm run test:xen`. XBDBACK_TEST=full has the long loops and
 * every combination in it, on the C xenstored and on oxenstored. XBDBACK_SCENARIOS="xl.sh boot.sh" runs just those,
 * XBDBACK_XENSTORED=oxenstored (or xenstored, or both) on that one only.
 */
import assert from "node:assert/strict";
import { buildLab, type Xenstored } from "./lab.js";
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
  ["xenstored itself", "xenstored.sh", 900],
  ["fio over the ways in which a frontend connects", "matrix.sh", 1800],
];

/** What is run on oxenstored in every run; the others in full ones. */
const ON_OXENSTORED = ["xenstored.sh"];

const full = process.env["XBDBACK_TEST"] === "full";

/** The words of a variable, each of which must be known. */
function chosen<T extends string>(variable: string, known: readonly T[]): T[] | null {
  const words = process.env[variable]?.split(" ") ?? null;
  for (const word of words ?? []) assert.ok(known.includes(word as T), `${variable}: ${word} is not known`);
  return words as T[] | null;
}

const named = chosen(
  "XBDBACK_SCENARIOS",
  scenarios.map(([, script]) => script),
);
const onlyOn = chosen<Xenstored>("XBDBACK_XENSTORED", ["xenstored", "oxenstored"]);

function isWanted(script: string, xenstored: Xenstored): boolean {
  if (named && !named.includes(script)) return false;
  if (onlyOn) return onlyOn.includes(xenstored);
  return xenstored === "xenstored" || full || ON_OXENSTORED.includes(script);
}

for (const xenstored of ["xenstored", "oxenstored"] as const) {
  const wanted = scenarios.filter(([, script]) => isWanted(script, xenstored));
  if (wanted.length > 0) buildLab(xenstored);
  for (const [name, script, seconds] of wanted) {
    const title = xenstored === "oxenstored" ? `${name}, on oxenstored` : name;
    scenario(title, script, full ? 2 * seconds : seconds, { FULL: full ? "1" : "0" }, xenstored);
  }
}
