/**
 * What each vbd has, on a tmpfs that outlives the daemon: a vbd has an open file, and the next daemon opens a path. Where
 * another file is there by then (a backup that writes and renames, a link that was moved, a loop device bound anew), the
 * guest must not get it.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { soon } from "../storage/calls/answers.js";
import { type Use, usesOf } from "../storage/disk.js";
import { major, minor } from "../storage/geometry.js";
import { type VbdId, vbdName } from "../vbd/name.js";

export interface ImageRecord {
  readonly path: string;
  readonly readOnly: boolean;
  /** The files and devices of the disk, and those of an image's bases, as {@link identitiesOf} has them. */
  readonly identities: readonly string[];
  /** Paths of the bases, the last of the identities; not there where the release that opened the disk did not look. */
  readonly bases?: readonly string[];
}

/** An {@link ImageRecord} as it is stored. A release of before reads it, too, and knows nothing of bases. */
interface StoredRecord {
  /** Changes with the meaning of the others. */
  readonly format: 1;
  readonly path: string;
  readonly readOnly: boolean;
  /** Without those of bases. */
  readonly identities: readonly string[];
  readonly bases?: readonly { readonly path: string; readonly identity: string }[];
}

/** "" or no identity where there is nothing to be looked at. */
export interface Difference {
  readonly path: string;
  readonly before: readonly string[];
  readonly now: readonly string[];
}

/** How long a disk's storage may take to answer. */
const ANSWER_MS = 500;

export class ImageRecords {
  readonly #directory: string;
  readonly #prefix: string;

  /** Throws the error of mkdir(2) when they cannot be there. Daemons of other kinds may share the directory. */
  constructor(directory: string, kind: string) {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.#directory = directory;
    this.#prefix = `${kind}-`;
  }

  /** Notes what a vbd has open. */
  write(vbd: VbdId, path: string, readOnly: boolean, uses: readonly Use[], bases: readonly string[]): void {
    const identities = identitiesOf(uses);
    const below = identities.splice(identities.length - bases.length);
    const record: StoredRecord = {
      ...{ format: 1, path, readOnly, identities },
      bases: bases.map((path, i) => ({ path, identity: below[i] })),
    };
    const file = this.#file(vbd);
    writeFileSync(`${file}.new`, JSON.stringify(record), { mode: 0o600 });
    renameSync(`${file}.new`, file);
  }

  remove(vbd: VbdId): void {
    rmSync(this.#file(vbd), { force: true });
  }

  /** Removes those of vbds that are not there any more. */
  sweep(exists: (name: string) => boolean): void {
    for (const name of this.#names()) if (!exists(name)) rmSync(join(this.#directory, this.#prefix + name));
  }

  /** What the vbd has had already at this path; null where it has not, or nothing is known. */
  read(vbd: VbdId, path: string): ImageRecord | null {
    const record = this.#read(vbdName(vbd));
    return record?.path === path ? record : null;
  }

  /** The differences of all vbds, by name. A disk whose storage does not answer has none. */
  async differences(): Promise<Map<string, Difference>> {
    const found = new Map<string, Difference>();
    for (const name of this.#names()) {
      const record = this.#read(name);
      if (record === null) continue;
      const { path, readOnly, bases } = record;
      const looking = usesOf(path, readOnly, bases).catch(() => []);
      const uses = await soon(looking, ANSWER_MS);
      const difference = uses && differenceFrom(record, uses);
      if (difference) found.set(name, difference);
    }
    return found;
  }

  #file(vbd: VbdId): string {
    return join(this.#directory, this.#prefix + vbdName(vbd));
  }

  #names(): string[] {
    return readdirSync(this.#directory)
      .filter((file) => file.startsWith(`${this.#prefix}xbdback`) && !file.endsWith(".new"))
      .map((file) => file.slice(this.#prefix.length));
  }

  /** Null where there is none that this release understands. */
  #read(name: string): ImageRecord | null {
    try {
      const file = readFileSync(join(this.#directory, this.#prefix + name), "utf8");
      const { format, path, readOnly, identities, bases }: StoredRecord = JSON.parse(file);
      if (format !== 1) return null;
      if (!bases) return { path, readOnly, identities };
      const all = [...identities, ...bases.map(({ identity }) => identity)];
      return { path, readOnly, identities: all, bases: bases.map(({ path }) => path) };
    } catch {
      return null;
    }
  }
}

/** How what a path leads to now differs from what a vbd has had; null where it is the same. */
export function differenceFrom(
  { path, identities }: ImageRecord,
  uses: readonly Pick<Use, "identity">[],
): Difference | null {
  const now = identitiesOf(uses);
  return now.join("\n") === identities.join("\n") ? null : { path, before: identities, now };
}

/** For people: what was there, and what is. */
export function describeDifference({ before, now }: Difference): string {
  const is = now.filter((one) => one !== "").join(", ") || "nothing";
  return (
    `not the disk that the guest has: it was ${before.join(", ")}, and now there is ${is}; ` +
    "put the former one back, or detach the disk"
  );
}

/** A block device that was taken out and another one put in has the number of the first, but not its sequence number. */
export function identitiesOf(uses: readonly Pick<Use, "identity">[]): string[] {
  return uses.map(({ identity }) => {
    const device = /^block (\d+)$/.exec(identity);
    return device ? `${identity}${diskSequence(BigInt(device[1]))}` : identity;
  });
}

/** BLKGETDISKSEQ, since Linux 5.15; a partition has its disk's. */
function diskSequence(rdev: bigint): string {
  const device = `/sys/dev/block/${major(rdev)}:${minor(rdev)}`;
  for (const file of [`${device}/diskseq`, `${device}/../diskseq`]) {
    try {
      return `, disk ${readFileSync(file, "utf8").trim()}`;
    } catch {
      // The next one.
    }
  }
  return "";
}
