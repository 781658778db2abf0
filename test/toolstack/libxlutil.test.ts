/**
 * Our reading of disk specifications against libxlutil's, on thousands that are generated from a seed: what both accept
 * must mean the same image, mode and device. Compared with Debian 12's library, of Xen 4.17; later ones know a few keys
 * more (trusted, grant_usage), which are left out here.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  type DiskSpecification,
  DiskSyntaxError,
  parseDisk,
} from "../../host/toolstack/disk-specification.js";
import { parseVirtualDevice } from "../../host/vbd/virtual-device.js";
import { ROOT } from "../hosts/tools.js";
import { absent } from "../support/programs.js";

const SEED = 17;
const COUNT = 8000;

/** What test/toolstack/xlu-disk.c prints; strings in hexadecimal. */
interface Theirs {
  readonly target: string | null;
  readonly vdev: string | null;
  readonly backend: string | null;
  readonly script: string | null;
  readonly format: string;
  readonly backendType: string;
  readonly readWrite: number;
  readonly cdrom: number;
  readonly directIoSafe: number;
  readonly discard: number;
}

/** Numbers from 0 to `below` - 1, the same for the same seed. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const TARGETS = ["/disk.img", "/dev/vg/a", "vg/a", "", "/a b", "/d:e", "/cow:x", " /disk.img"];
const PREFIXES = [
  "raw:",
  "qcow2:",
  "qcow:",
  "vhd:",
  "phy:",
  "file:",
  "tap2:",
  "tap:aio:",
  "ioemu:",
  "tapdisk:",
];
const SCRIPTS = ["drbd:", "iscsi:", "enbd:"];
const VDEVS = [
  "xvda",
  "hdc",
  "sdb1",
  "d5p1",
  "51712",
  "0xca00",
  "0145000",
  "08",
  "2147483648",
  "4294967295",
  "xvd",
];
const NAMED = [
  ...[
    "format=raw",
    "format=qcow2",
    "format=",
    "vdev=xvdb",
    "vdev=",
    "access=ro",
    "access=w",
    "access=",
    "devtype=cdrom",
  ],
  ...["devtype=disk", "devtype=", "backend=storage", "backend=", "backendtype=phy", "backendtype=qdisk"],
  ...["backendtype=", "backendtype=tap", "script=block-own", "script=", "specification=xen", "colo-host=h"],
  ...[
    "colo-port=7",
    "colo-port=x",
    "colo-export=e",
    "active-disk=/a",
    "hidden-disk=/h",
    "colour=red",
    "Format=raw",
  ],
];
const FLAGS = ["cdrom", "discard", "no-discard", "direct-io-safe", "colo", "no-colo"];
const LAST = ["target=/disk.img", "target=vg/a", "target=/a,b=c", "target="];

function specification(next: (below: number) => number): string {
  const pick = (from: readonly string[]): string => from[next(from.length)];
  const maybe = (chance: number, text: () => string): string => (next(100) < chance ? text() : "");
  const parts: string[] = [];
  if (next(100) < 75) {
    const prefix =
      maybe(35, () => pick(PREFIXES)) + maybe(10, () => pick(PREFIXES)) + maybe(10, () => pick(SCRIPTS));
    parts.push(prefix + pick(TARGETS));
    if (prefix === "" || next(100) < 15)
      parts.push(pick(["raw", "raw", "qcow2", "vhd", "qed", "", "", "empty", "vmdk"]));
    parts.push(pick(VDEVS) + maybe(10, () => pick([":cdrom", ":disk", ":"])));
    if (next(100) < 60) parts.push(pick(["rw", "w", "ro", "r", "", "x"]));
  } else parts.push(`vdev=${pick(VDEVS)}`);
  for (let more = next(4); more > 0; more--) {
    const at = next(3) === 0 ? next(parts.length + 1) : parts.length;
    parts.splice(at, 0, pick(next(2) ? NAMED : FLAGS));
  }
  if (parts[0].startsWith("vdev=") || next(100) < 15) parts.push(pick(LAST));
  return parts.join(pick([",", ",", ", ", ",\t"])) + maybe(10, () => ",");
}

/** Why we may read a specification as we do although libxlutil refuses it. */
const WE_ALONE_ACCEPT: readonly (readonly [string, (text: string, disk: DiskSpecification) => boolean])[] = [
  ["formats that libxl does not know", (text) => /vmdk|qed:|vhdx/.test(text)],
];

/** Why we may refuse what libxlutil accepts: never silently another disk. */
const WE_ALONE_REFUSE: readonly (readonly [string, RegExp])[] = [
  ["a setting is given twice, where xl takes the last", / is given twice$| is superfluous: /],
  ["libxl refuses the device later", /^vdev .* is not a virtual device/],
  ["libxl refuses the disk without a target later", /^missing target=/],
  ["a path of a prefix of ours is a target type", /^unknown target type |^format is .*, but the target has /],
];

/** Where the two understand another thing; null where they do not. */
function difference(ours: DiskSpecification, theirs: Theirs): string | null {
  const [target, vdev] = [theirs.target ?? "", theirs.vdev ?? ""];
  const plain = target.startsWith("/") || target === "" || theirs.script;
  const expected = {
    // libxl itself looks for such a path below /dev.
    target: plain ? target : `/dev/${target}`,
    format: theirs.format,
    vdev,
    devid: parseVirtualDevice(vdev),
    readOnly: theirs.readWrite === 0,
    cdrom: theirs.cdrom === 1,
    backend: theirs.backend || null,
    script: theirs.script || null,
    backendType: theirs.backendType === "unknown" ? null : theirs.backendType,
    directIoSafe: theirs.directIoSafe === 1,
    discard: theirs.discard < 0 ? null : theirs.discard === 1,
  };
  for (const [key, value] of Object.entries(expected)) {
    const our = ours[key as keyof typeof expected];
    if (our !== value) return `${key} is ${JSON.stringify(our)}, for libxlutil ${JSON.stringify(value)}`;
  }
  return null;
}

function judge(text: string, theirs: Theirs | null): string | null {
  let ours: DiskSpecification;
  try {
    ours = parseDisk(text);
  } catch (error) {
    assert.ok(error instanceof DiskSyntaxError, `${JSON.stringify(text)}: ${String(error)}`);
    if (theirs === null || WE_ALONE_REFUSE.some(([, pattern]) => pattern.test(error.message))) return null;
    return `refused (${error.message}), and libxlutil accepts it`;
  }
  if (theirs !== null) return difference(ours, theirs);
  return WE_ALONE_ACCEPT.some(([, reason]) => reason(text, ours))
    ? null
    : "accepted, and libxlutil refuses it";
}

test(`${COUNT} disk specifications mean what they mean to libxlutil of Xen 4.17 (seed ${SEED})`, {
  skip: absent("gcc", "/usr/include/libxlutil.h"),
  timeout: 60_000,
}, () => {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-xlu-"));
  try {
    const reader = join(scratch, "xlu-disk");
    const source = join(ROOT, "test/toolstack/xlu-disk.c");
    const built = spawnSync("gcc", ["-Wall", "-Werror", source, "-o", reader, "-lxlutil", "-lxenlight"], {
      encoding: "utf8",
    });
    assert.equal(built.status, 0, built.stderr);
    const next = numbers(SEED);
    const texts = Array.from({ length: COUNT }, () => specification(next));
    const { stdout, status } = spawnSync(reader, {
      input: texts.map((text) => `${text}\0`).join(""),
      encoding: "utf8",
      maxBuffer: 1 << 26,
    });
    assert.equal(status, 0);
    const answers = stdout.trimEnd().split("\n").map(readAnswer);
    assert.equal(answers.length, COUNT);
    const wrong = texts.flatMap((text, i) => {
      const what = judge(text, answers[i]);
      return what === null ? [] : [`${JSON.stringify(text)}: ${what}`];
    });
    assert.deepEqual(wrong.slice(0, 20), [], `${wrong.length} differ`);
    const accepted = answers.filter((answer) => answer !== null).length;
    assert.ok(accepted > COUNT / 5, `libxlutil accepts only ${accepted}`);
  } finally {
    rmSync(scratch, { recursive: true });
  }
});

function readAnswer(line: string): Theirs | null {
  return JSON.parse(line, (key, value: unknown) =>
    typeof value === "string" && key !== "" ? Buffer.from(value, "hex").toString("utf8") : value,
  ) as Theirs | null;
}
