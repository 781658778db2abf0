/** Where the helpers of vbds are, which outlive the daemon: a directory for each, which the next daemon finds by the vbd's name. */
import { mkdirSync, readdirSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { Guarded } from "../storage/helper/guard.js";
import { ENDED, HelperPlace } from "../storage/helper/place.js";
import { Helper } from "../storage/helper/process.js";
import { ANY_STORAGE_DAEMON } from "../storage/helper/storage-daemon.js";
import { DeviceError } from "../storage/open.js";
import { type VbdId, vbdName } from "../vbd/name.js";

export class HelperPlaces {
  readonly #directory: string;
  readonly #prefix: string;
  readonly #log: (line: string) => void;
  /** From the first helper on. */
  #guarded: Guarded | null = null;

  /** Throws the error of mkdir(2) when they cannot be there. Daemons of other kinds may share the directory. */
  constructor(directory: string, kind: string, log: (line: string) => void) {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.#directory = directory;
    this.#prefix = `${kind}-`;
    this.#log = log;
  }

  of(vbd: VbdId): HelperPlace {
    return this.#at(vbdName(vbd));
  }

  /** The vbd is to be without the helper that another daemon has left. Resolves when that has ended. */
  async end(vbd: VbdId): Promise<void> {
    await this.#end(vbdName(vbd));
  }

  /** Ends those of vbds that are not there any more. */
  sweep(exists: (name: string) => boolean): void {
    for (const file of readdirSync(this.#directory)) {
      const name = file.slice(this.#prefix.length).replace(ENDED, "");
      if (file.startsWith(`${this.#prefix}xbdback`) && !exists(name))
        void this.#end(name).catch((error: Error) => this.#log(`${name}: its helper: ${error.message}`));
    }
  }

  /** There are no helpers of this process any more. */
  close(): void {
    this.#guarded?.release();
    this.#guarded = null;
  }

  async #end(name: string): Promise<void> {
    const place = this.#at(name);
    if (place.taken)
      await Helper.find(place, ANY_STORAGE_DAEMON, (line) => this.#log(`${name}: ${line}`)).end();
    else place.remove();
    place.forgetEnded();
  }

  #at(name: string): HelperPlace {
    return new HelperPlace(join(this.#directory, this.#prefix + name), () => this.#claim());
  }

  #claim(): void {
    this.#guarded ??= Guarded.claim(this.#directory);
    if (this.#guarded !== null) return;
    const why = "the helpers of the previous daemon are being ended, which takes seconds";
    throw new DeviceError(constants.errno.EBUSY, this.#directory, why);
  }
}
