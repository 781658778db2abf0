/** The helper of a disk: one process at a time, and the next one when it has died. */
import { constants } from "node:os";
import { DeviceError } from "../open.js";
import { Message } from "../vhost-user/abi.js";
import type { Session } from "../vhost-user/session.js";
import type { HelperCommand } from "./command.js";
import type { HelperPlace } from "./place.js";
import { Helper, type HowToStart } from "./process.js";
import type { SameFiles } from "./same-files.js";
import { AIO, type Aio, ANY_STORAGE_DAEMON } from "./storage-daemon.js";

export class DiskHelper {
  readonly #disk: string;
  readonly #sameFiles: SameFiles;
  readonly #log: (line: string) => void;
  #helper: Helper | null = null;
  #aio: Aio = "io_uring";
  #looked = false;
  #found = false;
  #fenced = false;

  constructor(disk: string, sameFiles: SameFiles, log: (line: string) => void) {
    this.#disk = disk;
    this.#sameFiles = sameFiles;
    this.#log = log;
  }

  get running(): boolean {
    return this.#helper !== null;
  }

  /** For people, of the one that runs. */
  get name(): string {
    return `${this.#helper?.name}, process ${this.#helper?.pid}`;
  }

  /** Another daemon has started it. It answers when all that was asked of it before has ended. */
  get found(): boolean {
    return this.#found;
  }

  /** What any daemon before had asked of its helper has ended. */
  get fenced(): boolean {
    return this.#found || this.#fenced;
  }

  /**
   * As {@link end}, of this daemon's helper or of the one that another daemon has left, which has then ended what that had
   * asked of it: there is a note of it until the next one is started. Rejects where it does not answer; it lives on then.
   */
  async clear(place: HelperPlace | null): Promise<void> {
    if (!this.#looked && place?.taken) {
      const session = await this.#connectTo(Helper.find(place, ANY_STORAGE_DAEMON, this.#log));
      await session.close();
    }
    const had = this.#helper;
    await had?.end();
    if (had !== null) place?.markEnded();
    this.#fenced ||= place?.ended ?? false;
    this.#looked = true;
    this.#found = false;
    this.#helper = null;
  }

  /** Starts a helper and connects to it, once its predecessor has ended. Rejects with a {@link DeviceError}; none runs then. */
  async start(
    makeCommand: (socket: string) => HelperCommand,
    how: Pick<HowToStart, "place" | "connection"> = {},
  ): Promise<Session> {
    // Its connection is gone. While it lives, it may still write.
    await this.#helper?.end();
    this.#found = false;
    await this.#sameFiles.check();
    const next = Helper.start(this.#disk, makeCommand, this.#log, how);
    this.#helper = next;
    try {
      const session = await next.connect(this.#disk);
      // Another file may have come there while it started.
      await this.#sameFiles.check();
      return session;
    } catch (error) {
      await next.stop();
      throw error;
    }
  }

  /**
   * The same for qemu-storage-daemon: where another daemon has left one in the place, that is connected to. Without io_uring,
   * where this kernel or that program cannot.
   */
  async startStorageDaemon(
    makeCommand: (socket: string, aio: Aio) => HelperCommand,
    place: HelperPlace | null,
  ): Promise<Session> {
    const left = this.#looked || !place?.taken ? null : await this.#find(makeCommand, place);
    this.#looked = true;
    if (left !== null) return left;
    try {
      return await this.start((socket) => makeCommand(socket, this.#aio), { place });
    } catch (error) {
      if (this.#aio === "threads" || !(error instanceof DeviceError) || !/io_uring/.test(error.message))
        throw error;
      this.#aio = "threads";
      this.#log("io_uring is not available to its helper, which is slower without");
      return await this.start((socket) => makeCommand(socket, "threads"), { place });
    }
  }

  /** Null where it does not serve the same, and has been ended. Rejects where it cannot be used yet; it lives on then. */
  async #find(
    makeCommand: (socket: string, aio: Aio) => HelperCommand,
    place: HelperPlace,
  ): Promise<Session | null> {
    const aio = AIO.find((aio) => place.startedBy(makeCommand(place.socket, aio)));
    const helper = Helper.find(place, makeCommand(place.socket, aio ?? this.#aio), this.#log);
    if (aio === undefined) {
      await helper.end();
      return null;
    }
    this.#aio = aio;
    const session = await this.#connectTo(helper);
    await this.#sameFiles.check();
    return session;
  }

  /** Connects to a helper that another daemon has started. Rejects where it has not ended what that has asked of it. */
  async #connectTo(helper: Helper): Promise<Session> {
    this.#helper = helper;
    this.#found = true;
    const session = await helper.connect(this.#disk);
    try {
      await session.askNumber(Message.getFeatures);
      return session;
    } catch {
      session.lose("it is given up");
      const why = `${this.name}, has not done yet what the previous daemon has asked of it`;
      throw new DeviceError(constants.errno.EBUSY, this.#disk, why);
    }
  }

  /** Resolves when it has ended, having written back what it keeps if it can. To be called when its client is gone. */
  async end(): Promise<void> {
    await this.#helper?.end();
  }

  /** The disk cannot be opened: one that another daemon has started is left, and else it ends. */
  async giveUp(): Promise<void> {
    if (this.#found) this.#helper?.leave();
    else await this.#helper?.stop();
  }
}
