/**
 * The numbers and layouts of Linux's interfaces that the host has as literals, against the C headers of both architectures:
 * those of host/platform/numbers.ts, the launcher's, io_uring's and the Xen devices'. Not here: Landlock's access rights
 * (landlock.ts), of which Debian 12's headers do not know all; NBD's and vhost-user's are protocols', of no architecture.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import * as numbers from "../../host/platform/numbers.js";
import * as xen from "../../host/platform/xen/abi.js";
import { LAUNCHER } from "../../host/storage/helper/launcher.js";
import * as uring from "../../host/storage/uring/abi.js";
import { absent } from "../support/programs.js";
import { cannotCompile, compile, compileForArm64 } from "../vectors/compiler.js";

type Numbers = [name: string, value: number][];

const source = fileURLToPath(new URL("../../../test/platform/numbers.c", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "xbdback-numbers-"));
after(() => rmSync(scratch, { recursive: true }));

const numeric = (table: object): Numbers =>
  Object.entries(table).filter(([, value]) => typeof value === "number");

/** `my ($NAME, …) = (1, …);` of the launcher's Perl: constants, and in lower case the numbers of system calls. */
function launcherNumbers(): Numbers {
  const lists = [...LAUNCHER.matchAll(/^my (?:\(([$\w, ]+)\)|(\$[A-Z_]+)) = \(?([-\w, ]+)\)?;$/gm)];
  return lists.flatMap(([, several, one, values]) => {
    const names = several ?? one;
    const list = values.split(", ");
    if (!list.every((value) => /^-?(0x)?\d+$/.test(value))) return [];
    return names.split(", ").map((name, i): [string, number] => {
      const octal = /^0\d/.test(list[i]) ? Number.parseInt(list[i], 8) : Number(list[i]);
      const bare = name.slice(1);
      return [/^[a-z]/.test(bare) ? `SYS_${bare}` : bare, octal];
    });
  });
}

/** io_uring's groups of names, by what the header puts before them. What Debian 12's does not have yet is left out. */
function uringNumbers(): Numbers {
  const groups = {
    IORING_OP_: uring.Op,
    IORING_SETUP_: uring.Setup,
    IORING_FEAT_: uring.Feature,
    IORING_ENTER_: uring.Enter,
    IORING_REGISTER_: uring.Register,
  };
  const spelled: Record<string, string> = {
    IORING_SETUP_CQ_SIZE: "IORING_SETUP_CQSIZE",
    IORING_FEAT_NO_DROP: "IORING_FEAT_NODROP",
    IORING_ENTER_GET_EVENTS: "IORING_ENTER_GETEVENTS",
    IORING_REGISTER_BUFFERS_2: "IORING_REGISTER_BUFFERS2",
    IORING_REGISTER_FILES_2: "IORING_REGISTER_FILES2",
    IORING_REGISTER_MAX_WORKERS: "IORING_REGISTER_IOWQ_MAX_WORKERS",
  };
  const named = Object.entries(groups).flatMap(([prefix, group]) =>
    Object.entries(group).map(([name, value]): [string, number] => {
      const upper = prefix + name.replace(/([A-Z]|\d+)/g, "_$1").toUpperCase();
      return [spelled[upper] ?? upper, value];
    }),
  );
  return [
    ...named.filter(([name]) => name !== "IORING_FEAT_MIN_TIMEOUT"),
    ["IORING_SQ_TASKRUN", uring.SQ_TASKRUN],
    ["IORING_RSRC_REGISTER_SPARSE", uring.RSRC_REGISTER_SPARSE],
    ["IORING_OFF_SQ_RING", uring.OFF_SQ_RING],
    ["IORING_OFF_SQES", uring.OFF_SQES],
    ["IORING_FSYNC_DATASYNC", uring.FSYNC_DATASYNC],
    ["POLLIN", uring.POLLIN],
    // Bits of the byte after the operation's.
    ["IOSQE_FIXED_FILE << 8", uring.FIXED_FILE],
    ["IOSQE_ASYNC << 8", uring.ASYNC],
    ["IOSQE_CQE_SKIP_SUCCESS << 8", uring.QUIET],
  ];
}

/** All that both architectures have in common, and what the named one has of its own. */
function assertions(architecture: numbers.Architecture): string {
  const direct: Numbers = [["O_DIRECT", { x64: 0o40000, arm64: 0o200000 }[architecture]]];
  const all = [
    ...numeric(numbers).filter(([name]) => name !== "O_DIRECT"),
    ...numeric(numbers.BY_ARCHITECTURE[architecture]),
    ...direct,
    ...launcherNumbers(),
    ...uringNumbers(),
    // <xen/privcmd.h> includes a header that is not installed; abi.test.ts has its numbers.
    ...numeric(xen).filter(([name]) => name.startsWith("IOCTL_") && name !== "IOCTL_PRIVCMD_HYPERCALL"),
  ];
  return all.map(([name, value]) => `SAME(${name}, ${value});\n`).join("");
}

function include(architecture: numbers.Architecture): string {
  const file = join(scratch, `${architecture}.h`);
  writeFileSync(file, assertions(architecture));
  return `-DNUMBERS="${file}"`;
}

test("the launcher's numbers are found in it", () => {
  const names = launcherNumbers().map(([name]) => name);
  for (const name of ["SIG_BLOCK", "PR_CAP_AMBIENT", "SYS_landlock_add_rule", "O_PATH", "CAP_SETPCAP"]) {
    assert.ok(names.includes(name), `${name} of ${names.join(" ")}`);
  }
});

test("O_DIRECT is this architecture's", () => {
  assert.equal(numbers.O_DIRECT, process.arch === "arm64" ? 0o200000 : 0o40000);
});

test("numbers and layouts are those of x86-64's headers", {
  skip: cannotCompile("-m64") || absent("/usr/include/stdlib.h"),
}, () => {
  compile(source, [include("x64")]);
});

test("numbers and layouts are those of arm64's headers", {
  skip: absent(
    "clang",
    "/usr/aarch64-linux-gnu/include/fcntl.h",
    "/usr/aarch64-linux-gnu/include/asm/fcntl.h",
  ),
}, () => {
  compileForArm64(source, [include("arm64")]);
});
