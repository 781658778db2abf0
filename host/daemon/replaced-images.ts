/**
 * Images that a snapshot has made a point in time. The toolstack knows nothing of that and goes on naming the old image, at the
 * guest's next start as well; served for writing, it would be changed below the overlay that stands on it. So what was replaced
 * by what is noted on a disk of the host, and outlives its reboot: the guest's disk follows, and nobody else writes the old one.
 * The same for an overlay that was written back, and is out of date.
 */
import { createHash } from "node:crypto";
import { constants as flags, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { open, rename } from "node:fs/promises";
import { constants } from "node:os";
import { join } from "node:path";
import { soon } from "../storage/calls/answers.js";
import { isType } from "../storage/calls/file-stats.js";
import { Place } from "../storage/calls/place.js";
import { identityOf, placesOf, writtenFile } from "../storage/disk.js";
import { DeviceError } from "../storage/open.js";
import { splitWrappers } from "../storage/wrapper/index.js";

const { EBUSY, EIO, ESTALE } = constants.errno;
const ANSWER_MS = 5000;

/** A virtual machine's disk, by all that is known of it: a domain has another number after each start. */
export interface GuestDisk {
  readonly domid: number;
  readonly devid: number;
  /** The toolstack's name of the guest, and its /vm/UUID; null where they cannot be read. */
  readonly name: string | null;
  readonly vm: string | null;
  /** Of this host: two domains with one number are the same during it. */
  readonly boot: string;
}

/** An image that is only to be read since its snapshot. */
interface Frozen {
  readonly path: string;
  /** Without links; a block device's may be another's after a reboot. */
  readonly real: string;
  readonly block: boolean;
  /** Of a file; those of a block device tell nothing. */
  readonly inode: string;
  readonly size: string;
  /** In nanoseconds since 1970. */
  readonly changed: string;
  /** What stands on it is being written back: it changes, and fits that all the same. */
  readonly changing?: boolean;
}

/** An overlay whose content is in its base by now. */
interface Committed extends Frozen {
  /** The disk that it was over, without wrappers. */
  readonly into: string;
  /** ISO 8601. */
  readonly at: string;
}

/** As it is stored. */
export interface Replacement {
  readonly format: 1;
  readonly disk: GuestDisk;
  /** ISO 8601, of the last snapshot. */
  readonly since: string;
  /** The first one first. */
  readonly images: readonly Frozen[];
  /** The disk by now, without wrappers. */
  readonly current: string;
  /** Not there in a record of a release that committed none. */
  readonly committed?: readonly Committed[];
}

export class ReplacedImages {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /**
   * The target to be opened where this one is asked for. `say` gets a line where it is another one. Rejects with a
   * {@link DeviceError} where an old image was to be written.
   */
  async follow(
    target: string,
    readOnly: boolean,
    whose: () => Promise<GuestDisk>,
    say: (line: string) => void,
  ): Promise<string> {
    const all = this.all();
    if (all.length === 0) return target;
    const { wrappers, disk } = splitWrappers(target);
    const path = writtenFile(disk);
    if (path === null) return target;
    const stale = await findCommitted(all, path);
    if (stale !== null) {
      const { into, at } = stale.overlay;
      if (!isSame(stale.disk, await whose())) throw outOfDate(path, stale.overlay);
      say(`${path} was written back into ${into} at ${at}, and the guest has that`);
      return this.follow(wrappers + into, readOnly, whose, say);
    }
    if (all.some(({ current }) => current === disk)) return target;
    const one = await find(all, path);
    if (one === null) return target;
    if (isSame(one.disk, await whose())) {
      await checkUnchanged(one);
      say(`${path} was replaced by a snapshot at ${one.since}; the guest has ${one.current}`);
      return wrappers + one.current;
    }
    if (readOnly || /(^|:)readonly:/.test(wrappers)) return target;
    throw new DeviceError(EBUSY, path, `${reason(one)}; attach that, or this one read-only${forget(path)}`);
  }

  /** Notes that the file of a disk is only to be read from now on, and what is in its place. Durable when it resolves. */
  async add(before: string, current: string, disk: GuestDisk): Promise<void> {
    const frozen = await freeze(writtenFile(before) as string);
    const overlay = writtenFile(current);
    // One of this name that was written back is gone.
    for (const one of this.all())
      if (one.committed?.some(({ path }) => path === overlay)) await this.forget(one, overlay as string);
    const former = this.#of(before);
    const images = [...(former?.images ?? []), frozen];
    const committed = former?.committed ?? [];
    await this.#write({ format: 1, disk, since: new Date().toISOString(), images, current, committed });
  }

  /** Notes that the base of a disk is being written by what stands on it. */
  async changing(current: string): Promise<void> {
    const one = this.#of(current);
    if (!one || one.images.length === 0) return;
    const images = one.images.map((image, i) =>
      i === one.images.length - 1 ? { ...image, changing: true } : image,
    );
    await this.#write({ ...one, images });
  }

  /** What was being written below a disk is not written any more: it is known as it is by now. */
  async settle(target: string): Promise<void> {
    const one = this.#of(splitWrappers(target).disk);
    if (!one?.images.some(({ changing }) => changing)) return;
    const images = one.images.map((image) =>
      image.changing ? freezeSynced(image.path).catch(() => image) : image,
    );
    await this.#write({ ...one, images: await Promise.all(images) });
  }

  /**
   * Notes that the overlay of a disk is in the disk below it, which the guest has from now on. Durable when it resolves, with what
   * was noted before.
   */
  async commit(before: string, into: string, disk: GuestDisk): Promise<Replacement | null> {
    const former = this.#of(before) ?? null;
    const { since, images = [], committed = [] } = former ?? {};
    const at = new Date().toISOString();
    const overlay = { ...(await freezeSynced(writtenFile(before) as string)), into, at };
    const below = images.at(-1)?.path === writtenFile(into) ? images.slice(0, -1) : images;
    const one = {
      disk,
      since: since ?? at,
      images: below,
      current: into,
      committed: [...committed, overlay],
    };
    try {
      await this.#write({ format: 1, ...one }, former);
    } catch (error) {
      // It may be there all the same, and not for good.
      await this.undoCommit(into, former).catch(() => {});
      throw error;
    }
    return former;
  }

  /** Takes a {@link commit} back, before anything is written. */
  async undoCommit(into: string, former: Replacement | null): Promise<void> {
    const one = this.#of(into);
    if (former) await this.#write(former, one);
    else if (one) await this.#remove(one);
  }

  /** Overlays that were written back, and removed since, need no note any more. */
  async prune(current: string): Promise<void> {
    const one = this.#of(current);
    for (const { path } of one?.committed ?? []) {
      const code = await Place.of(path)
        .stat()
        .then(
          () => null,
          (error: NodeJS.ErrnoException) => error.code,
        );
      const now = this.#of(current);
      if (code === "ENOENT" && now) await this.forget(now, path);
    }
  }

  /** The names of other disks of which it is known that they stand on a file. */
  async othersOn(path: string, disk: string): Promise<string[]> {
    const identity = await identityOf(path);
    const found: string[] = [];
    for (const { current, images } of this.all()) {
      if (current === disk) continue;
      const [, ...bases] = placesOf(current);
      const files = [...images.map((image) => image.path), ...bases];
      const identities = await Promise.all(files.map((file) => identityBeside(path, file)));
      if (identity !== "" && identities.includes(identity)) found.push(current);
    }
    return found;
  }

  /** Takes the last {@link add} for a disk back: nothing was written since. */
  async undo(before: string, current: string): Promise<void> {
    const one = this.#of(current);
    if (!one) return;
    await this.#writeOrRemove({ ...one, images: one.images.slice(0, -1), current: before }, one);
  }

  /** What is noted of the image at a path; null where nothing is. */
  async find(path: string): Promise<Replacement | null> {
    const all = this.all();
    return all.find((one) => isCommitted(one, path)) ?? (await find(all, path));
  }

  /** An overlay that was written back, or all images of a disk, are to be served again as if nothing had been noted. */
  async forget(one: Replacement, path: string): Promise<void> {
    const committed = (one.committed ?? []).filter((overlay) => overlay.path !== path);
    const images = isCommitted(one, path) ? one.images : [];
    await this.#writeOrRemove({ ...one, images, committed }, one);
  }

  /** Throws a {@link DeviceError} where one cannot be read: nothing is known then of the image that it is about. */
  all(): Replacement[] {
    let names: string[];
    try {
      names = readdirSync(this.#directory).filter((name) => name.endsWith(".json"));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw new DeviceError(EIO, this.#directory, `cannot be read: ${(error as Error).message}`);
    }
    return names.map((name) => this.#read(join(this.#directory, name)));
  }

  #read(file: string): Replacement {
    let why: string;
    try {
      const one = JSON.parse(readFileSync(file, "utf8")) as Replacement;
      if (one.format === 1) return one;
      why = `has the format ${one.format}, which another version has written`;
    } catch (error) {
      why = `cannot be read (${(error as Error).message})`;
    }
    throw new DeviceError(
      EIO,
      file,
      `${why}, and says which image is not to be written: put it right, or remove it`,
    );
  }

  #of(current: string): Replacement | undefined {
    return this.all().find((one) => one.current === current);
  }

  /** One for each first image, whatever came after it. */
  #file({ images, current }: Replacement): string {
    const path = images[0]?.path ?? (writtenFile(current) as string);
    return join(this.#directory, `${createHash("sha256").update(path).digest("hex").slice(0, 16)}.json`);
  }

  /** In the place of what was noted before, where something was. */
  async #writeOrRemove(one: Replacement, former: Replacement): Promise<void> {
    if (one.images.length > 0 || (one.committed ?? []).length > 0) await this.#write(one, former);
    else await this.#remove(former);
  }

  async #remove(one: Replacement): Promise<void> {
    rmSync(this.#file(one), { force: true });
    await this.#sync();
  }

  async #write(one: Replacement, former: Replacement | null = null): Promise<void> {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    const file = this.#file(one);
    const handle = await open(`${file}.new`, "w", 0o600);
    try {
      await handle.writeFile(JSON.stringify(one, null, 2));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(`${file}.new`, file);
    await this.#sync();
    if (former && this.#file(former) !== file) await this.#remove(former);
  }

  async #sync(): Promise<void> {
    const handle = await open(this.#directory, "r");
    await handle.sync().finally(() => handle.close());
  }
}

/** {@link identityOf} a file on which another disk stands. Rejects with a {@link DeviceError} about `path` where that hangs. */
async function identityBeside(path: string, file: string): Promise<string> {
  const identity = await soon(identityOf(file), ANSWER_MS);
  if (identity !== null) return identity;
  throw new DeviceError(EBUSY, path, `whether ${file} stands on it is not known, as that does not answer`);
}

/** With a time of change that a power cut does not take back: QEMU flushes data, and not that. */
async function freezeSynced(path: string): Promise<Frozen> {
  const place = Place.of(path);
  const fd = await place.open(flags.O_RDONLY);
  await place.call("sync", fd).finally(() => place.close(fd));
  return freeze(path);
}

async function freeze(path: string): Promise<Frozen> {
  const place = Place.of(path);
  const real = await place.call("realpath", path);
  const stats = await place.stat();
  return {
    path,
    real,
    block: isType(stats, "block"),
    inode: String(stats.ino),
    size: String(stats.size),
    changed: String(stats.mtime),
  };
}

/** The one whose old images a path leads to. Only that path is looked at, and devices: other images' storage may hang. */
async function find(all: readonly Replacement[], path: string): Promise<Replacement | null> {
  const now = await freeze(path).catch(() => null);
  for (const one of all) {
    for (const image of one.images) if (await leadsTo(path, now, image)) return one;
  }
  return null;
}

interface Stale {
  readonly overlay: Committed;
  readonly disk: GuestDisk;
}

/** The overlay that was written back and is at a path still. What is written or made there since is another one. */
async function findCommitted(all: readonly Replacement[], path: string): Promise<Stale | null> {
  if (!all.some(({ committed = [] }) => committed.length > 0)) return null;
  const now = await freeze(path).catch(() => null);
  if (now === null) return null;
  for (const { committed = [], disk } of all)
    for (const overlay of committed) {
      const { inode, real, size, changed } = overlay;
      // A copy with its times in the place of the file is the same.
      const same = (now.inode === inode || now.real === real) && now.size === size && now.changed === changed;
      if (overlay.block ? await leadsTo(path, now, overlay) : same) return { overlay, disk };
    }
  return null;
}

/** Whether an image of this name was written back. */
export function isCommitted({ committed = [] }: Replacement, path: string): boolean {
  return committed.some((overlay) => overlay.path === path);
}

function outOfDate(path: string, { into, at }: Committed): DeviceError {
  const why = `was written back into ${into} at ${at}, and is out of date: attach that, or another overlay`;
  return new DeviceError(EBUSY, path, why);
}

async function leadsTo(path: string, now: Frozen | null, image: Frozen): Promise<boolean> {
  if (image.path === path) return true;
  if (now === null || now.block !== image.block) return false;
  return image.block ? isSameDevice(image, path) : isSameFile(image, now);
}

/** A file system's number may be another one after a reboot. */
function isSameFile(one: Frozen, other: Frozen): boolean {
  const unchanged = one.size === other.size && one.changed === other.changed;
  return one.real === other.real || (one.inode === other.inode && unchanged);
}

async function isSameDevice({ path }: Frozen, other: string): Promise<boolean> {
  const [one, two] = await Promise.all([path, other].map((name) => Place.of(name).stat())).catch(() => []);
  return one !== undefined && isType(one, "block") && one.rdev === two.rdev;
}

function isSame(one: GuestDisk, other: GuestDisk): boolean {
  if (one.devid !== other.devid) return false;
  if (one.domid === other.domid && one.boot === other.boot) return true;
  return (one.name !== null && one.name === other.name) || (one.vm !== null && one.vm === other.vm);
}

/** An overlay over another content is garbage. */
async function checkUnchanged(one: Replacement): Promise<void> {
  for (const image of one.images) {
    if (image.block || image.changing) continue;
    // What is not there is said when it is opened.
    const now = await freeze(image.path).catch(() => null);
    if (now === null || (now.size === image.size && now.changed === image.changed)) continue;
    const why = `was written since its snapshot, and ${one.current} does not fit it any more: put the former file back`;
    throw new DeviceError(ESTALE, image.path, why + forget(image.path));
  }
}

function reason({ disk, since, current }: Replacement): string {
  const guest = disk.name ?? `domain ${disk.domid}`;
  return `a snapshot of ${guest} has replaced it at ${since}, and ${current} stands on it`;
}

function forget(path: string): string {
  return `; if what stands on it is not wanted any more, \`xbdback replaced --forget ${path}\``;
}

/** Changes with each start of this host. */
export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
