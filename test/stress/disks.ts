/** Disks that are no raw image: a helper of xbdback's serves them, or a server of others. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream, existsSync, truncateSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { absent, type Program } from "../support/programs.js";

export type DiskKind = "qcow2" | "vhost-user" | "nbd";

const run = promisify(execFile);
const START_MS = 30_000;

const NEEDED: Record<DiskKind, Program[]> = {
  qcow2: ["qemu-img"],
  "vhost-user": ["qemu-storage-daemon"],
  nbd: ["qemu-nbd"],
};

/** What such a disk would need that is not installed; false where it is. */
export function missingFor(kind: DiskKind | undefined): string | false {
  return kind !== undefined && absent(...NEEDED[kind]);
}

export class StressDisk {
  /** As a toolstack names it. */
  readonly target: string;
  readonly #image: string;
  readonly #format: string;
  readonly #server: ChildProcess | null;

  private constructor(target: string, image: string, format: string, server: ChildProcess | null) {
    this.target = target;
    this.#image = image;
    this.#format = format;
    this.#server = server;
  }

  /** `image` is the path of a file that does not exist. */
  static async make(kind: DiskKind | undefined, image: string, bytes: number): Promise<StressDisk> {
    if (kind === "qcow2") {
      await run("qemu-img", ["create", "-q", "-f", "qcow2", image, String(bytes)]);
      return new StressDisk(`qcow2:${image}`, image, "qcow2", null);
    }
    writeFileSync(image, "");
    truncateSync(image, bytes);
    if (kind === undefined) return new StressDisk(image, image, "raw", null);
    const socket = `${image}.sock`;
    const [program, args] = serverOf(kind, image, socket);
    const server = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
    const disk = new StressDisk(
      kind === "nbd" ? `nbd+unix:///?socket=${socket}` : `vhost-user:${socket}`,
      image,
      "raw",
      server,
    );
    for (const end = Date.now() + START_MS; !existsSync(socket); await sleep(20)) {
      if (Date.now() < end && server.exitCode === null) continue;
      await disk.close();
      throw new Error(`${program} does not listen`);
    }
    return disk;
  }

  /** SHA-256 of what it holds, when nobody uses it. */
  async digest(): Promise<string> {
    await this.close();
    if (this.#format === "raw") return hashFile(this.#image);
    const raw = `${this.#image}.raw`;
    await run("qemu-img", ["convert", "-O", "raw", this.#image, raw]);
    return hashFile(raw);
  }

  /** Ends its server. */
  async close(): Promise<void> {
    const server = this.#server;
    if (server === null || server.exitCode !== null || server.signalCode !== null) return;
    server.kill();
    await once(server, "exit");
  }
}

function serverOf(kind: "nbd" | "vhost-user", image: string, socket: string): [string, string[]] {
  if (kind === "nbd") {
    return ["qemu-nbd", ["-f", "raw", "--discard=unmap", "-t", "-e", "16", "-k", socket, image]];
  }
  return [
    "qemu-storage-daemon",
    [
      ...["--object", "iothread,id=io0"],
      ...["--blockdev", `driver=file,node-name=n,filename=${image},discard=unmap`],
      "--export",
      `type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=${socket},writable=on,iothread=io0,num-queues=4`,
    ],
  ];
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
