/** The helper of a disk: one process at a time, and the next one when it has died. */
import { DeviceError } from "../open.js";
import type { HelperCommand } from "./command.js";
import type { Dial } from "./dial.js";
import { Helper } from "./process.js";
import type { SameFiles } from "./same-files.js";
import type { Aio } from "./storage-daemon.js";

export class DiskHelper {
  readonly #disk: string;
  readonly #sameFiles: SameFiles;
  readonly #log: (line: string) => void;
  #helper: Helper | null = null;
  #aio: Aio = "io_uring";

  constructor(disk: string, sameFiles: SameFiles, log: (line: string) => void) {
    this.#disk = disk;
    this.#sameFiles = sameFiles;
    this.#log = log;
  }

  /** For people. */
  get name(): string {
    return `${this.#helper?.name}, process ${this.#helper?.pid}`;
  }

  /** Starts a helper and connects to it, once its predecessor has ended. Rejects with a {@link DeviceError}; none runs then. */
  async start<Connection>(
    makeCommand: (socket: string) => HelperCommand,
    dial: Dial<Connection>,
  ): Promise<Connection> {
    // Its connection is gone. While it lives, it may still write.
    await this.#helper?.end();
    await this.#sameFiles.check();
    const next = Helper.start(this.#disk, makeCommand, this.#log);
    this.#helper = next;
    try {
      const connection = await next.connect(this.#disk, dial);
      // Another file may have come there while it started.
      await this.#sameFiles.check();
      return connection;
    } catch (error) {
      await next.stop();
      throw error;
    }
  }

  /** The same for a command that does I/O by io_uring: without it, where this kernel or that program cannot. */
  async startWithAio<Connection>(
    makeCommand: (socket: string, aio: Aio) => HelperCommand,
    dial: Dial<Connection>,
  ): Promise<Connection> {
    try {
      return await this.start((socket) => makeCommand(socket, this.#aio), dial);
    } catch (error) {
      if (this.#aio === "threads" || !(error instanceof DeviceError) || !/io_uring/.test(error.message))
        throw error;
      this.#aio = "threads";
      this.#log("io_uring is not available to its helper, which is slower without");
      return await this.start((socket) => makeCommand(socket, "threads"), dial);
    }
  }

  /** Resolves when it has ended, having written back what it keeps if it can. To be called when its client is gone. */
  async end(): Promise<void> {
    await this.#helper?.end();
  }

  /** As {@link end}, for one that never had a client. */
  async stop(): Promise<void> {
    await this.#helper?.stop();
  }
}
