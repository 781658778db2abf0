/** Disks that another program serves, and that the torture kills as well. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Cluster, noCeph } from "../ceph/cluster.js";
import { absent, type Program } from "../support/programs.js";
import { hashFile } from "./processes.js";

const run = promisify(execFile);

/** What `--disk` names, beside raw, and the program that serves it. */
export const PROGRAMS = {
  "vhost-user": "qemu-storage-daemon",
  nbd: "qemu-nbd",
  qcow2: "qemu-storage-daemon",
  vhd: "qemu-storage-daemon",
  overlay: "qemu-storage-daemon",
  rbd: "qemu-storage-daemon",
} as const satisfies Record<string, Program>;
export type Served = keyof typeof PROGRAMS;
export const SERVED = Object.keys(PROGRAMS) as Served[];

/** Why one of these disks cannot be served here, for node:test's `skip`; false if it can. */
export function cannotServe(kind: Served): string | false {
  return kind === "rbd" ? noCeph() : absent(PROGRAMS[kind], "qemu-storage-daemon", "qemu-img");
}

/** How qemu-img makes images in which a helper of the daemon's keeps tables. The daemon makes an overlay over a raw one. */
const FORMATS = {
  qcow2: ["-f", "qcow2"],
  vhd: ["-f", "vpc", "-o", "force_size=on"],
  overlay: ["-f", "raw"],
} as const;

/** A disk that is more than a file of this machine. */
export interface ServedDisk {
  readonly target: string;
  /** Starts its server, if nobody else does; resolves when it listens. */
  serve(): Promise<void>;
  /** Resolves when the server is gone. */
  kill(): Promise<void>;
  /** What the disk has, while no server has it. Rejects where the image is damaged beyond clusters that nothing refers to. */
  sha256(): Promise<string>;
  /** Ends what serves it. */
  close(): Promise<void>;
}

/** Makes a disk of zeros in a directory, and serves it. */
export function startServed(kind: Served, directory: string, bytes: number): Promise<ServedDisk> {
  if (kind === "rbd") return HelpedImage.inCeph(directory, bytes);
  return kind === "vhost-user" || kind === "nbd"
    ? DiskServer.start(kind, directory, bytes)
    : HelpedImage.make(kind, directory, bytes);
}

/** An image that the daemon starts a helper for. */
class HelpedImage implements ServedDisk {
  readonly target: string;
  /** No other process has this in its command line. */
  readonly #image: string;
  readonly #hash: () => Promise<string>;
  readonly #ends: (() => unknown)[] = [];

  private constructor(target: string, image: string, hash = () => contentOf(image)) {
    this.target = target;
    this.#image = image;
    this.#hash = hash;
  }

  /** Of the cluster that runs, or one of its own. */
  static async inCeph(directory: string, bytes: number): Promise<HelpedImage> {
    const image = basename(directory);
    let cluster: Cluster | null = null;
    const hash = async (): Promise<string> => hashFile((await cluster?.export(image)) ?? "");
    const disk = new HelpedImage(`rbd:rbd/${image}`, image, hash);
    try {
      cluster = Cluster.running;
      cluster ??= await Cluster.start({ after: (end) => void disk.#ends.push(end as () => unknown) });
      await cluster.create(image, bytes);
    } catch (error) {
      await disk.close();
      throw error;
    }
    return disk;
  }

  static async make(kind: keyof typeof FORMATS, directory: string, bytes: number): Promise<HelpedImage> {
    const image = join(directory, `disk.${kind}`);
    const made = kind === "overlay" ? join(directory, "base.img") : image;
    await run("qemu-img", ["create", "-q", ...FORMATS[kind], made, String(bytes)]);
    return new HelpedImage(kind === "overlay" ? `cow:${image}:${made}` : `${kind}:${image}`, image);
  }

  async serve(): Promise<void> {}

  async kill(): Promise<void> {
    const pids = this.#helpers();
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended by itself.
      }
    }
    while (this.#helpers().some((pid) => pids.includes(pid))) await sleep(2);
  }

  sha256(): Promise<string> {
    return this.#hash();
  }

  async close(): Promise<void> {
    await this.kill();
    for (const end of this.#ends) await end();
  }

  /** As the kernel names them: a launcher of the daemon's has the image in its arguments, too. */
  #helpers(): number[] {
    return readdirSync("/proc")
      .filter((name) => /^[0-9]+$/.test(name))
      .map(Number)
      .filter((pid) => {
        try {
          const comm = readFileSync(`/proc/${pid}/comm`, "utf8");
          return (
            comm.startsWith("qemu-storage") &&
            readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(this.#image)
          );
        } catch {
          return false;
        }
      });
  }
}

/** A server of a qcow2 image: of those, QEMU keeps tables in its memory, which a kill loses with the data that they lead to. */
class DiskServer implements ServedDisk {
  readonly target: string;
  readonly #kind: "vhost-user" | "nbd";
  readonly #image: string;
  readonly #socket: string;
  #process: ChildProcess | null = null;
  #exited: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(kind: "vhost-user" | "nbd", directory: string) {
    this.#kind = kind;
    this.#image = join(directory, "disk.qcow2");
    this.#socket = join(directory, "disk.sock");
    this.target = kind === "nbd" ? `nbd+unix:///?socket=${this.#socket}` : `vhost-user:${this.#socket}`;
  }

  static async start(kind: "vhost-user" | "nbd", directory: string, bytes: number): Promise<DiskServer> {
    const server = new DiskServer(kind, directory);
    await run("qemu-img", ["create", "-q", "-f", "qcow2", server.#image, String(bytes)]);
    await server.serve();
    return server;
  }

  async serve(): Promise<void> {
    if (this.#closed) throw new Error("the server is closed");
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

  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#exited;
    this.#process = null;
  }

  sha256(): Promise<string> {
    return contentOf(this.#image);
  }

  close(): Promise<void> {
    this.#closed = true;
    return this.kill();
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

async function contentOf(image: string): Promise<string> {
  await run("qemu-img", ["check", "-q", image]).catch((error: { code: number; stdout: string }) => {
    // 3: clusters are leaked, which a kill does. 63: the format has no check.
    if (error.code !== 3 && error.code !== 63)
      throw new Error(`qemu-img check: ${error.code}, ${error.stdout}`);
  });
  const raw = `${image}.raw`;
  await run("qemu-img", ["convert", "-O", "raw", image, raw]);
  return hashFile(raw);
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
