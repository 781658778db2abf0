/**
 * The programs of others that tests run, and which of Debian's packages each comes with. A test that runs one asks here
 * first, and is skipped with a reason where it is absent:
 *
 *     test("qemu-img converts it", { skip: absent("qemu-img") }, …)
 *
 * What every Debian has (coreutils, util-linux, mount, a POSIX shell, Node) needs no asking.
 */
import assert from "node:assert/strict";
import { accessSync, constants } from "node:fs";
import { join } from "node:path";

/** By name, or by path for what is not a program in PATH. `.ci/run` installs all these packages. */
const PACKAGES = {
  bash: "bash",
  busybox: "busybox-static",
  ceph: "ceph-common",
  "ceph-mon": "ceph-mon",
  "ceph-osd": "ceph-osd",
  chromium: "chromium",
  clang: "clang",
  cpio: "cpio",
  debootstrap: "debootstrap",
  debugfs: "e2fsprogs",
  e2fsck: "e2fsprogs",
  fio: "fio",
  gcc: "gcc",
  "grub-mkimage": "grub-common",
  "llvm-cov": "llvm",
  make: "make",
  mandoc: "mandoc",
  "apt-cache": "apt",
  "apt-get": "apt",
  "dpkg-deb": "dpkg",
  mke2fs: "e2fsprogs",
  "mkfs.ext4": "e2fsprogs",
  monmaptool: "ceph-base",
  nbdcopy: "libnbd-bin",
  nbdfuse: "libnbd-bin",
  nbdinfo: "libnbd-bin",
  nbdkit: "nbdkit",
  nginx: "nginx-light",
  openssl: "openssl",
  pgrep: "procps",
  "pkg-config": "pkg-config",
  promtool: "prometheus",
  python3: "python3",
  "qemu-img": "qemu-utils",
  "qemu-io": "qemu-utils",
  "qemu-nbd": "qemu-utils",
  "qemu-system-aarch64": "qemu-system-arm",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-storage-daemon": "qemu-system-common",
  rbd: "ceph-common",
  script: "bsdutils",
  wasm2c: "wabt",
  "xenstore-ls": "xenstore-utils",
  "xenstore-watch": "xenstore-utils",
  xz: "xz-utils",
  zsh: "zsh",
  zstd: "zstd",
  "/usr/aarch64-linux-gnu/include/asm/fcntl.h": "linux-libc-dev-arm64-cross",
  "/usr/aarch64-linux-gnu/include/fcntl.h": "libc6-dev-arm64-cross",
  "/usr/include/libxlutil.h": "libxen-dev",
  "/usr/include/stdlib.h": "libc6-dev",
  "/usr/include/xengnttab.h": "libxen-dev",
  "/usr/lib/grub/i386-pc/boot.img": "grub-pc-bin",
  "/usr/lib/x86_64-linux-gnu/qemu/block-rbd.so": "qemu-block-extra",
  "/usr/lib/xen-4.17/bin/xenstored": "xen-utils-4.17",
  "/usr/share/wabt/wasm2c/wasm-rt-impl.c": "wabt",
} as const satisfies Record<string, string>;

export type Program = keyof typeof PACKAGES;

export const programs = Object.keys(PACKAGES) as Program[];

/** The packages with all of them, in alphabetical order. */
export const packages: readonly string[] = [...new Set(Object.values(PACKAGES))].sort();

/** mke2fs and e2fsck are outside of an ordinary user's PATH. */
export const searchPath = (): string => `${process.env["PATH"]}:/usr/sbin:/sbin`;

/** What this process's tests have asked for. */
const asked = new Set<string>();

function find(program: string): boolean {
  const places = program.startsWith("/")
    ? [program]
    : searchPath()
        .split(":")
        .map((place) => join(place, program));
  return places.some((place) => {
    try {
      accessSync(place, program.startsWith("/") ? constants.R_OK : constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Which of these are absent, with the remedy, for node:test's `skip`; false if none is. */
export function absent(...programs: readonly Program[]): string | false {
  for (const program of programs) asked.add(program);
  const missing = programs.filter((program) => !find(program));
  const names = new Set(missing.map((program) => PACKAGES[program]));
  return missing.length > 0 && `${missing.join(", ")} not installed: apt-get install ${[...names].join(" ")}`;
}

/** Throws if a command runs a program of others for which no test in this process has asked: other machines are without it. */
export function assertAsked(program: string, args: readonly string[] = []): void {
  // What a shell is given, here or by `xbdback demo --run`.
  const scripts = args.filter((_, i) => args[i - 1] === "--run" || args[i - 1] === "-c");
  for (const word of [program, ...scripts.flatMap((script) => script.split(/[\s;|&()'"`]+/))]) {
    const known = Object.hasOwn(PACKAGES, word);
    assert.ok(!known || asked.has(word), `${word} is run without absent("${word}")`);
  }
}
