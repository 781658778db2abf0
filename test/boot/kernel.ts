/** Debian's kernel for virtual machines, and those of its modules that find a virtio disk. */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../e2e/harness.js";

/** Under lib/modules/VERSION/kernel, in the order in which they are loaded. ext4 is in the kernel itself. */
const MODULES = [
  "drivers/virtio/virtio_ring",
  "drivers/virtio/virtio",
  "drivers/virtio/virtio_pci_legacy_dev",
  "drivers/virtio/virtio_pci_modern_dev",
  "drivers/virtio/virtio_pci",
  "drivers/block/virtio_blk",
];
const PACKAGE = "linux-image-cloud-amd64";

export interface Kernel {
  readonly image: string;
  /** Files, in the order in which they are to be loaded. */
  readonly modules: readonly string[];
}

class Missing extends Error {}

/** Downloaded the first time, then kept in build/. Why there is none, where apt-get cannot get it. */
export function findKernel(): Kernel | string {
  const directory = join(root, "build/kernel");
  try {
    if (!existsSync(directory)) download(directory);
  } catch (error) {
    if (error instanceof Missing) return `no Debian kernel to boot: ${error.message}`;
    throw error;
  }
  const modules = readdirSync(directory).filter((name) => name.endsWith(".ko"));
  return {
    image: join(directory, "vmlinuz"),
    modules: modules.sort().map((name) => join(directory, name)),
  };
}

function run(cwd: string, program: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: "utf8" });
  if (error) throw new Missing(error.message);
  if (status !== 0) throw new Missing(`${program} ${args[0]}: ${stderr.trim().split("\n").at(-1)}`);
  return stdout;
}

function download(directory: string): void {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-kernel-"));
  try {
    // The package of this name has nothing in it but the dependency on the newest one.
    const depends = run(scratch, "apt-cache", "depends", "--important", PACKAGE);
    const name = /Depends: (linux-image-[0-9]\S*)/.exec(depends)?.[1];
    if (name === undefined) throw new Missing(`${PACKAGE} is unknown here: run \`apt-get update\``);
    run(scratch, "apt-get", "download", "-q", name);
    const [deb] = readdirSync(scratch).filter((file) => file.endsWith(".deb"));
    run(scratch, "dpkg-deb", "-x", deb, "tree");
    const version = name.replace("linux-image-", "");
    const unfinished = `${directory}.${process.pid}`;
    mkdirSync(unfinished, { recursive: true });
    copyFileSync(join(scratch, "tree/boot", `vmlinuz-${version}`), join(unfinished, "vmlinuz"));
    for (const [i, module] of MODULES.entries()) {
      const file = join(scratch, "tree/lib/modules", version, "kernel", `${module}.ko`);
      copyFileSync(file, join(unfinished, `${i}-${module.replace(/.*\//, "")}.ko`));
    }
    renameSync(unfinished, directory);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
