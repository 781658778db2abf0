/** Disks that another program serves, and that the torture kills as well. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { Program } from "../support/programs.js";
import { hashFile } from "./processes.js";

const run = promisify(execFile);

/** What `--disk` names, beside raw. */
export const SERVED = ["vhost-user", "nbd"] as const;
export type Served = (typeof SERVED)[number];

export const PROGRAMS: Readonly<Record<Served, Program>> = {
  "vhost-user": "qemu-storage-daemon",
  nbd: "qemu-nbd",
};

/** A server of a qcow2 image: of those, QEMU keeps tables in its memory, which a kill loses with the data that they lead to. */
export class DiskServer {
  readonly target: string;
  readonly #kind: Served;
  readonly #image: string;
  readonly #socket: string;
  #process: ChildProcess | null = null;
  #exited: Promise<unknown> = Promise.resolve();

  private constructor(kind: Served, directory: string) {
    this.#kind = kind;
    this.#image = join(directory, "disk.qcow2");
    this.#socket = join(directory, "disk.sock");
    this.target = kind === "nbd" ? `nbd+unix:///?socket=${this.#socket}` : `vhost-user:${this.#socket}`;
  }

  /** Makes the image, and serves it. */
  static async start(kind: Served, directory: string, bytes: number): Promise<DiskServer> {
    const server = new DiskServer(kind, directory);
    await run("qemu-img", ["create", "-q", "-f", "qcow2", server.#image, String(bytes)]);
    await server.serve();
    return server;
  }

  /** Starts it; resolves when it listens. */
  async serve(): Promise<void> {
    rmSync(this.#socket, { force: true });
    const [program, ...args] = this.#kind === "nbd" ? this.#qemuNbd() : this.#storageDaemon();
    const server = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
    let errors = "";
    server.stderr.setEncoding("utf8").on("data", (text: string) => {
      errors += text;
    });
    this.#process = server;
    this.#exited = once(server, "exit");
    while (!(await listens(this.#socket))) {
      if (server.exitCode !== null) throw new Error(`${program} ended: ${errors}`);
      await sleep(5);
    }
  }

  /** Resolves when it is gone. */
  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#exited;
    this.#process = null;
  }

  /** What the disk has, while no server has it. Rejects where the image is damaged beyond clusters that nothing refers to. */
  async sha256(): Promise<string> {
    await run("qemu-img", ["check", "-q", this.#image]).catch((error: { code: number; stdout: string }) => {
      // 3: clusters are leaked, which a kill does.
      if (error.code !== 3) throw new Error(`qemu-img check: ${error.code}, ${error.stdout}`);
    });
    const raw = `${this.#image}.raw`;
    await run("qemu-img", ["convert", "-O", "raw", this.#image, raw]);
    return hashFile(raw);
  }

  #qemuNbd(): string[] {
    return [
      "qemu-nbd",
      "--persistent",
      "--discard=unmap",
      "--format=qcow2",
      `--socket=${this.#socket}`,
      this.#image,
    ];
  }

  #storageDaemon(): string[] {
    return [
      ...["qemu-storage-daemon", "--object", "iothread,id=io"],
      ...["--blockdev", `driver=file,node-name=file,filename=${this.#image},discard=unmap`],
      ...["--blockdev", "driver=qcow2,node-name=disk,file=file,discard=unmap"],
      "--export",
      `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${this.#socket},writable=on,iothread=io,num-queues=4`,
    ];
  }
}

async function listens(path: string): Promise<boolean> {
  const socket = connect({ path });
  const connected = await new Promise<boolean>((resolve) => {
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
  });
  socket.destroy();
  return connected;
}
