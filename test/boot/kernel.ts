/** Debian's kernel for virtual machines, and those of its modules that find a virtio disk. */
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { root } from "../e2e/harness.js";
import { absent, type Program } from "../support/programs.js";

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

/** How a kernel's modules are kept: as they are in Debian 12, with xz in Debian 13, with zstd in Ubuntu. */
const COMPRESSIONS: readonly { readonly suffix: string; readonly program: Program | null }[] = [
  { suffix: ".ko", program: null },
  { suffix: ".ko.xz", program: "xz" },
  { suffix: ".ko.zst", program: "zstd" },
];
/** A mirror that answers slowly, or does not. */
const DOWNLOAD_MS = 300_000;

export interface Kernel {
  readonly image: string;
  /** Files, in the order in which they are to be loaded. */
  readonly modules: readonly string[];
}

/** This machine cannot have the kernel, which is no fault of what is tested. */
class Missing extends Error {}

/** Downloaded the first time, then kept in `directory`. Why there is none, where apt-get cannot get one that fits. */
export function findKernel(directory: string = join(root, "build/kernel")): Kernel | string {
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

function run(cwd: string, program: Program, ...args: string[]): Buffer {
  const missing = absent(program);
  if (missing) throw new Missing(missing);
  const options = { cwd, maxBuffer: 1 << 30, timeout: DOWNLOAD_MS };
  const { status, stdout, stderr, error } = spawnSync(program, args, options);
  if (error) throw new Missing(`${program} ${args[0]}: ${error.message}`);
  if (status !== 0)
    throw new Missing(`${program} ${args[0]}: ${stderr.toString().trim().split("\n").at(-1)}`);
  return stdout;
}

function download(directory: string): void {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-kernel-"));
  try {
    // The package of this name has nothing in it but the dependency on the newest one.
    const depends = run(scratch, "apt-cache", "depends", "--important", PACKAGE).toString();
    const name = /Depends: (linux-image-[0-9]\S*)/.exec(depends)?.[1];
    if (name === undefined)
      throw new Missing(`${PACKAGE} is unknown here: run \`apt-get update\` on a Debian`);
    run(scratch, "apt-get", "download", "-q", name);
    const [deb] = readdirSync(scratch).filter((file) => file.endsWith(".deb"));
    run(scratch, "dpkg-deb", "-x", deb, "tree");
    const unfinished = `${directory}.${process.pid}`;
    try {
      copyKernel(join(scratch, "tree"), unfinished);
      renameSync(unfinished, directory);
    } finally {
      rmSync(unfinished, { recursive: true, force: true });
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** The kernel and the modules out of its package's tree. */
function copyKernel(tree: string, to: string): void {
  mkdirSync(to, { recursive: true });
  const boot = join(tree, "boot");
  const image = existsSync(boot) ? readdirSync(boot).find((name) => name.startsWith("vmlinuz-")) : undefined;
  if (image === undefined) throw new Missing("its package has no /boot/vmlinuz-*");
  copyFileSync(join(boot, image), join(to, "vmlinuz"));
  // Where /usr is merged, newer packages have it there.
  const version = image.replace("vmlinuz-", "");
  const places = ["lib/modules", "usr/lib/modules"].map((place) => join(tree, place, version));
  const place = places.find((candidate) => existsSync(candidate)) ?? places[0];
  for (const [i, module] of MODULES.entries()) {
    const code = readModule(place, module);
    if (code !== null) writeFileSync(join(to, `${i}-${basename(module)}.ko`), code);
  }
}

/** A module's code; null if it is in the kernel itself. */
function readModule(place: string, module: string): Uint8Array | null {
  for (const { suffix, program } of COMPRESSIONS) {
    const file = join(place, "kernel", `${module}${suffix}`);
    if (!existsSync(file)) continue;
    return program === null ? readFileSync(file) : run(place, program, "-dc", file);
  }
  const list = join(place, "modules.builtin");
  if (existsSync(list) && readFileSync(list, "utf8").includes(`kernel/${module}.ko\n`)) return null;
  throw new Missing(`${basename(place)} has no module ${basename(module)}`);
}
