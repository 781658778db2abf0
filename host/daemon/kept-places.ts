/** Where the writes are kept that servers have not flushed: in memory, beside the journals, which outlives the daemon. */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { KeptPlace } from "../storage/kept-writes.js";
import { type VbdId, vbdName } from "../vbd/name.js";

const SUFFIX_DIGITS = 16;

export class KeptPlaces {
  readonly #directory: string;
  readonly #prefix: string;

  /** Throws the error of mkdir(2) when they cannot be there. Daemons of other kinds may share the directory. */
  constructor(directory: string, kind: string) {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.#directory = directory;
    this.#prefix = `${kind}-`;
  }

  /** The place of a vbd whose target is this; `again`: the vbd has had it before. A vbd may have two for a while. */
  of(vbd: VbdId, target: string, again: boolean): KeptPlace {
    const name = vbdName(vbd);
    const suffix = createHash("sha256").update(target).digest("hex").slice(0, SUFFIX_DIGITS);
    const path = join(this.#directory, `${this.#prefix}${name}-${suffix}`);
    return { path, identity: `${name}\n${target}`, again };
  }

  /** The vbd is to be without this disk, and nobody to write anything again. */
  remove({ path }: KeptPlace): void {
    rmSync(path, { force: true });
  }

  /** Removes those of vbds that are not there any more. */
  sweep(exists: (name: string) => boolean): void {
    for (const file of readdirSync(this.#directory)) {
      const name = file.slice(this.#prefix.length, -1 - SUFFIX_DIGITS);
      if (file.startsWith(`${this.#prefix}xbdback`) && !exists(name))
        rmSync(join(this.#directory, file), { force: true });
    }
  }

  /** Removes all of a vbd. */
  forget(vbd: VbdId): void {
    this.sweep((name) => name !== vbdName(vbd));
  }
}
