/** What stands behind the vbd that is measured: the file itself, or one of the ways to a disk that is no raw file. */
import { spawnSync } from "node:child_process";
import { copyFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { startCeph } from "./ceph.js";
import { NbdServer } from "./peers.js";
import type { IMAGES, Image, Setup } from "./rows.js";
import { type Layers, StorageDaemon } from "./storage-daemon.js";

export interface Backing {
  /** For the toolstack. */
  readonly target: string;
  /** For qemu-nbd, beside xbdback: the same in the same format. */
  readonly peer: Image;
  /** Where the client vhost finds what xbdback is served; null where that is no server of its kind. */
  readonly vhost: { readonly pid: number; readonly socket: string } | null;
  /** Where fio's rbd engine finds the like of what xbdback is served; only there for a disk in Ceph. */
  readonly rbd?: { readonly pool: string; readonly image: string };
  /** What is written. */
  readonly files: readonly string[];
  /** The process that xbdback is a client of, where it did not start it itself. */
  readonly pid: number | null;
  stop(): Promise<void>;
}

/** Rejects with an Error of one line, also where a program is missing (by name, what to say of it). */
export async function startBacking(
  setup: Setup,
  file: string,
  scratch: string,
  missing: ReadonlyMap<string, string>,
): Promise<Backing> {
  const { disk } = setup;
  const raw: Image = { path: file, format: "raw" };
  const backing = { target: file, peer: raw, vhost: null, files: [file], pid: null, stop: async () => {} };
  if (disk === "file") return backing;
  if (disk === "rbd") return startCeph(file);
  if (disk === "nbd") {
    const noQemu = missing.get("qemu-nbd");
    if (noQemu) throw new Error(noQemu);
    const server = await NbdServer.start("qemu-nbd", setup, raw, join(scratch, "behind.sock"));
    const { socket, pid } = server;
    return { ...backing, target: `nbd+unix:///?socket=${socket}`, pid, stop: () => server.stop() };
  }
  const needed = missing.get("qemu-storage-daemon") ?? missing.get("qemu-nbd");
  if (needed) throw new Error(needed);
  return startImage(disk, file, scratch);
}

/** One image each for qemu-storage-daemon and for qemu-nbd: two that write to one would spoil it. */
async function startImage(disk: (typeof IMAGES)[number], file: string, scratch: string): Promise<Backing> {
  const format = disk === "raw" ? "raw" : "qcow2";
  const [own, peer] = ["own", "peer"].map((name) => makeImage(disk, file, join(scratch, `${name}.${disk}`)));
  const base = disk === "overlay" ? [{ format: "raw", path: file } as const] : [];
  const layers: Layers = [{ format, path: own }, ...base];
  const server = await StorageDaemon.start(layers, scratch);
  const { pid, sockets } = server;
  return {
    ...{ target: `vhost-user:${sockets[0]}`, peer: { path: peer, format }, files: [own, peer], pid },
    vhost: { pid, socket: sockets[1] },
    async stop() {
      await server.stop();
      await removed([own, peer]);
    },
  };
}

async function removed(files: readonly string[]): Promise<void> {
  for (const file of files) rmSync(file, { force: true });
}

function makeImage(disk: (typeof IMAGES)[number], file: string, image: string): string {
  if (disk === "raw") copyFileSync(file, image);
  else if (disk === "qcow2") converted(file, image);
  else {
    qemuImg("create", "-q", "-f", "qcow2", "-b", file, "-F", "raw", image);
    fillHalf(image);
  }
  return image;
}

const CLUSTER = 64 << 10;

/** Writes every other cluster of an overlay, so that one half of the disk is in the overlay and one in its base. */
function fillHalf(image: string): void {
  const size = JSON.parse(qemuImg("info", "--output=json", image))["virtual-size"] as number;
  const pattern = ["-w", "-s", CLUSTER, "-S", 2 * CLUSTER, "-c", size / (2 * CLUSTER)].map(String);
  qemuImg("bench", "-q", "-f", "qcow2", ...pattern, image);
}

/** `image`, a qcow2 image made of a raw one. */
export function converted(file: string, image: string): string {
  qemuImg("convert", "-f", "raw", "-O", "qcow2", file, image);
  return image;
}

/** Returns what it printed. Throws an Error of one line. */
export function qemuImg(command: string, ...args: string[]): string {
  const { error, status, stdout, stderr } = spawnSync("qemu-img", [command, ...args], { encoding: "utf8" });
  if (status !== 0) throw new Error(`qemu-img ${command}: ${error?.message ?? stderr.trim()}`);
  return stdout;
}
