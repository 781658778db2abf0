/** The files of an image as they were when it was opened. Its guest must not get others when its helper dies. */
import { constants } from "node:os";
import { fileIdentity } from "../identity.js";
import { DeviceError, errnoOf, refusal } from "../open.js";

export class SameFiles {
  readonly #disk: string;
  readonly #identities: ReadonlyMap<string, string>;
  /** Gets a line when a path first leads elsewhere: what was asked of the disk waits, however long. */
  readonly #log: (line: string) => void;
  #said = "";

  private constructor(disk: string, identities: ReadonlyMap<string, string>, log: (line: string) => void) {
    this.#disk = disk;
    this.#log = log;
    this.#identities = identities;
  }

  /** Rejects with a {@link DeviceError} that names the file which is not there. */
  static async of(disk: string, paths: readonly string[], log: (line: string) => void): Promise<SameFiles> {
    const identities = new Map<string, string>();
    for (const path of paths) {
      try {
        identities.set(path, await fileIdentity(path));
      } catch (error) {
        throw await refusal(path, errnoOf(error));
      }
    }
    return new SameFiles(disk, identities, log);
  }

  /** Rejects with a {@link DeviceError} where a path leads elsewhere by now. */
  async check(): Promise<void> {
    for (const [path, before] of this.#identities) {
      const now = await fileIdentity(path).catch(() => "nothing");
      if (now === before) continue;
      const why = `${path}: not the file that the guest has: it was ${before}, and now there is ${now}`;
      const line = `${why}; put the former one back, or detach the disk`;
      if (line !== this.#said) this.#log(line);
      this.#said = line;
      throw new DeviceError(constants.errno.ESTALE, this.#disk, line);
    }
  }
}
