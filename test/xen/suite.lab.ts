/**
 * Real guests on a real Xen, in QEMU's software emulation: `npm run test:xen`. A run has what every run has, and others by
 * a seed, the commit unless XBDBACK_SEED is set. XBDBACK_TEST=full runs all of them, with long loops and every combination,
 * on the C xenstored and on oxenstored. XBDBACK_SCENARIOS="xl.sh boot.sh" runs just those, XBDBACK_XENSTORED=oxenstored (or
 * xenstored, or both) on that one only.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { choose, type Scenario } from "./choice.js";
import { buildLab, type Xenstored } from "./lab.js";
import { scenario } from "./scenario.js";

const ALWAYS = true;

/** What is proved, the script that does it, the seconds that it takes on two quiet cores, and whether every run has it. */
const scripts: [string, string, number, boolean?][] = [
  ["gntdev maps, unmaps and copies as the port says", "grants.sh", 30],
  ["a Linux guest keeps files on a disk", "guest.sh", 40, ALWAYS],
  ["xenstore over the kernel's device", "xenbus.sh", 50],
  ["the installation of docs/dom0.md", "install.sh", 60],
  ["xl attaches, refuses, shares, creates and destroys", "xl.sh", 120, ALWAYS],
  ["plain phy:", "phy.sh", 40],
  ["the operator's commands", "attach.sh", 80],
  ["guests boot from a disk", "boot.sh", 115],
  ["a Linux guest and its disks", "linux.sh", 256],
  ["guest, daemon and device die in every order", "death.sh", 171],
  ["the daemon is killed under a guest at work", "restart.sh", 149, ALWAYS],
  ["a driver domain", "driver.sh", 237, ALWAYS],
  ["xenstored itself", "xenstored.sh", 83],
  ["fio over the ways in which a frontend connects", "matrix.sh", 148],
];

/** What a run by a seed may have on oxenstored: the others are in full runs only. */
const ON_OXENSTORED = ["xenstored.sh"];

/** What the scenarios of a run's seed may take. */
const SEEDED_SECONDS = 180;

/** Where a scenario is ended: some five times what it takes alone. */
const LIMIT = 5;
const LEAST_LIMIT_SECONDS = 600;

const XENSTOREDS = ["xenstored", "oxenstored"] as const;
const full = process.env["XBDBACK_TEST"] === "full";
const all: Scenario[] = XENSTOREDS.flatMap((xenstored) =>
  scripts.map(([name, script, seconds, always]) => ({
    ...{ script, xenstored, seconds },
    name: xenstored === "oxenstored" ? `${name}, on oxenstored` : name,
    always: always === ALWAYS && xenstored === "xenstored",
  })),
);

/** The words of a variable, each of which must be known. */
function chosen<T extends string>(variable: string, known: readonly T[]): T[] | null {
  const words = process.env[variable]?.split(" ") ?? null;
  for (const word of words ?? []) assert.ok(known.includes(word as T), `${variable}: ${word} is not known`);
  return words as T[] | null;
}

function commit(): string {
  const root = fileURLToPath(new URL("../../../", import.meta.url));
  return execFileSync("git", ["rev-parse", "--short=12", "HEAD"], { cwd: root, encoding: "utf8" }).trim();
}

/** Those that the variables name; without them all of a full run, or a part by the seed, which is explained on stderr. */
function wanted(): Scenario[] {
  const named = chosen(
    "XBDBACK_SCENARIOS",
    scripts.map(([, script]) => script),
  );
  const onlyOn = chosen<Xenstored>("XBDBACK_XENSTORED", XENSTOREDS);
  if (named || onlyOn) {
    const on = onlyOn ?? (full ? XENSTOREDS : ["xenstored"]);
    return all.filter((one) => on.includes(one.xenstored) && (named?.includes(one.script) ?? true));
  }
  if (full) return all;
  const seed = process.env["XBDBACK_SEED"] ?? commit();
  const pool = all.filter((one) => one.xenstored === "xenstored" || ON_OXENSTORED.includes(one.script));
  const part = choose(pool, seed, SEEDED_SECONDS);
  const list = (some: Scenario[]): string =>
    some.map((one) => one.script + (one.xenstored === "oxenstored" ? " on oxenstored" : "")).join(", ");
  process.stderr.write(
    `in every run: ${list(part.filter(({ always }) => always))}\n` +
      `in this run, by the seed ${seed}: ${list(part.filter(({ always }) => !always))}\n` +
      `not in this run: ${list(pool.filter((one) => !part.includes(one)))}\n` +
      `XBDBACK_SEED=${seed} chooses the same again; XBDBACK_TEST=full runs all of these, and all on oxenstored\n`,
  );
  return part;
}

const run = wanted();
for (const xenstored of XENSTOREDS) {
  const here = run.filter((one) => one.xenstored === xenstored);
  if (here.length > 0) buildLab(xenstored);
  for (const { name, script, seconds } of here) {
    const limit = Math.max(LEAST_LIMIT_SECONDS, LIMIT * seconds);
    scenario(name, script, full ? 2 * limit : limit, { FULL: full ? "1" : "0" }, xenstored);
  }
}
