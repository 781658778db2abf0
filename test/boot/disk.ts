/** A disk that boots by itself: GRUB in front of a partition with Linux's kernel, initramfs and a small root. */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename, join } from "node:path";
import { MIB, type Scene } from "../e2e/harness.js";
import type { Kernel } from "./kernel.js";

const SECTOR = 512;
export const PARTITION_AT = MIB;
const BYTES = 96 * MIB;
const GRUB = "/usr/lib/grub/i386-pc";
const BUSYBOX = "/bin/busybox";
/** What a BIOS loads; the partition table begins behind it. */
const BOOT_CODE_BYTES = 440;
const TABLE_AT = 446;
const LINUX_PARTITION = 0x83;

/** What the disk is made with, booted and looked at. */
export const PROGRAMS = [
  ...(["qemu-system-x86_64", "qemu-img", "qemu-storage-daemon", "mke2fs", "e2fsck", "debugfs"] as const),
  ...(["grub-mkimage", `${GRUB}/boot.img`, "cpio", "busybox"] as const),
];

const CONFIG = `linux (hd0,msdos1)/boot/vmlinuz root=/dev/vda1 console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0
initrd (hd0,msdos1)/boot/initrd
boot
`;

const INITRAMFS_INIT = `#!/bin/sh
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
until [ -b /dev/vda1 ]; do usleep 50000; done
mount -t ext4 /dev/vda1 /root && exec switch_root /root /sbin/init
`;

/** A raw image in the scene; `init` is the script that runs as the first process of the system on it, `data` its /data. */
export async function makeDisk(
  scene: Scene,
  kernel: Kernel,
  init: string,
  data: Uint8Array,
): Promise<string> {
  const tree = scene.path("tree");
  busyboxTree(tree, "sbin/init", init);
  writeFileSync(join(tree, "data"), data);
  mkdirSync(join(tree, "boot"));
  copyFileSync(kernel.image, join(tree, "boot/vmlinuz"));
  writeFileSync(join(tree, "boot/initrd"), initramfs(scene, kernel));
  const image = scene.image("boot.raw", BYTES);
  const size = `${(BYTES - PARTITION_AT) / 1024}k`;
  await scene.run(
    "mke2fs",
    "-q",
    "-F",
    "-t",
    "ext4",
    "-d",
    tree,
    "-E",
    `offset=${PARTITION_AT}`,
    image,
    size,
  );
  await installGrub(scene, image);
  return image;
}

/** A root of busybox alone. */
function busyboxTree(directory: string, initAt: string, init: string): void {
  for (const name of ["bin", "sbin", "dev", "proc", "sys", "root"]) {
    mkdirSync(join(directory, name), { recursive: true });
  }
  copyFileSync(BUSYBOX, join(directory, "bin/busybox"));
  const { stdout } = spawnSync(BUSYBOX, ["--list"], { encoding: "utf8" });
  for (const name of stdout.trim().split("\n")) {
    if (name !== "busybox") symlinkSync("busybox", join(directory, "bin", name));
  }
  writeFileSync(join(directory, initAt), init);
  chmodSync(join(directory, initAt), 0o755);
}

function initramfs(scene: Scene, kernel: Kernel): Buffer {
  const tree = scene.path("initramfs");
  busyboxTree(tree, "init", INITRAMFS_INIT);
  mkdirSync(join(tree, "modules"));
  for (const module of kernel.modules) copyFileSync(module, join(tree, "modules", basename(module)));
  const { stdout, status, stderr } = spawnSync("sh", ["-c", "find . | cpio -o -H newc -R 0:0"], {
    cwd: tree,
    maxBuffer: 64 * MIB,
  });
  if (status !== 0) throw new Error(`cpio: ${stderr}`);
  return stdout;
}

/** GRUB's first sector, one partition in its table, and the rest of GRUB in front of that. */
async function installGrub(scene: Scene, image: string): Promise<void> {
  const config = scene.image("grub.cfg", Buffer.from(CONFIG));
  const core = scene.path("core.img");
  const modules = ["biosdisk", "part_msdos", "ext2", "linux"];
  const options = ["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-c", config, "-o", core];
  await scene.run("grub-mkimage", ...options, ...modules);
  const first = Buffer.alloc(SECTOR);
  readFileSync(join(GRUB, "boot.img")).copy(first, 0, 0, BOOT_CODE_BYTES);
  first[TABLE_AT] = 0x80;
  first[TABLE_AT + 4] = LINUX_PARTITION;
  first.writeUInt32LE(PARTITION_AT / SECTOR, TABLE_AT + 8);
  first.writeUInt32LE((BYTES - PARTITION_AT) / SECTOR, TABLE_AT + 12);
  first.writeUInt16LE(0xaa55, SECTOR - 2);
  const file = openSync(image, "r+");
  writeSync(file, first, 0, SECTOR, 0);
  writeSync(file, readFileSync(core), 0, undefined, SECTOR);
  closeSync(file);
}
