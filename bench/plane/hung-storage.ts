/** Disks whose server can be stopped, so that it does not answer until it is resumed. */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import type { GoodGuest } from "./good-guest.js";
import { HUNG_SETUP, type HungKind } from "./hung.js";
import { NbdServer } from "./peers.js";
import { versionOf } from "./processes.js";
import { Server } from "./server.js";

export interface HungStorage {
  /** For the toolstack. */
  readonly target: string;
  /** The process that is stopped; null where the daemon starts it with the disk. */
  readonly pid: number | null;
  stop(): Promise<void>;
}

const PROGRAMS = {
  fuse: "qemu-storage-daemon",
  nbd: "qemu-nbd",
  qcow2: "qemu-storage-daemon",
  "vhost-user": "qemu-storage-daemon",
} as const satisfies Record<HungKind, string>;

/** Why such storage cannot be made here; null where it can. */
export function whyNot(kind: HungKind, missing: ReadonlyMap<string, string>): string | null {
  return missing.get(PROGRAMS[kind]) ?? (kind === "fuse" ? whyNoFuse() : null);
}

function whyNoFuse(): string | null {
  try {
    accessSync("/dev/fuse", constants.R_OK | constants.W_OK);
  } catch (error) {
    return `/dev/fuse cannot be opened (${(error as NodeJS.ErrnoException).code})`;
  }
  if (process.getuid?.() === 0 || versionOf("fusermount3") !== null) return null;
  return "mounting FUSE needs root, or fusermount3, which is not installed (Debian: fuse3)";
}

/** `guest` makes the image, which is removed in the end. */
export async function startHungStorage(
  kind: HungKind,
  guest: GoodGuest,
  scratch: string,
): Promise<HungStorage> {
  const { path, target } = await guest.image("hung", kind === "qcow2" ? "qcow2" : "file");
  const socket = join(scratch, "hung.sock");
  switch (kind) {
    case "qcow2":
      return { target, pid: null, stop: async () => {} };
    case "nbd": {
      const how = { cache: HUNG_SETUP.cache, queues: 1 };
      const server = await NbdServer.start("qemu-nbd", how, { path, format: "raw" }, socket);
      return served(`nbd+unix:///?socket=${socket}`, server);
    }
    case "vhost-user": {
      rmSync(socket, { force: true });
      const address = `addr.type=unix,addr.path=${socket},num-queues=4`;
      const isReady = () => existsSync(socket);
      return served(`vhost-user:${socket}`, await storageDaemon(path, `vhost-user-blk,${address}`, isReady));
    }
    case "fuse": {
      // It is mounted over the image itself.
      const { dev } = statSync(path);
      const isReady = () => statSync(path).dev !== dev;
      return served(path, await storageDaemon(path, `fuse,mountpoint=${path}`, isReady, () => unmount(path)));
    }
  }
}

function served(target: string, server: { readonly pid: number; stop(): Promise<void> }): HungStorage {
  return { target, pid: server.pid, stop: () => server.stop() };
}

function storageDaemon(
  path: string,
  how: string,
  isReady: () => boolean,
  afterKill?: () => void,
): Promise<Server> {
  const args = [
    ...["--blockdev", `driver=file,node-name=disk,filename=${path}`],
    ...["--export", `type=${how},id=export,node-name=disk,writable=on`],
  ];
  return Server.start("qemu-storage-daemon", args, isReady, afterKill);
}

/** What a server that was killed leaves. */
function unmount(path: string): void {
  const [program, ...args] =
    process.getuid?.() === 0 ? ["umount", "--lazy", path] : ["fusermount3", "-u", "-z", path];
  spawnSync(program, args, { stdio: "ignore" });
}
