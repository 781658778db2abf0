/** Opening a raw image or block device for one user alone. */
import { constants as flags } from "node:fs";
import { constants } from "node:os";
import { SystemError } from "../platform/libc.js";
import { type FileStats, isType } from "./calls/file-stats.js";
import { FileLocks } from "./calls/locks.js";
import { eventLoopEngine, Place } from "./calls/place.js";
import type { Claims } from "./claims.js";
import type { BlockDevice } from "./device.js";
import { type Cache, makeDirect } from "./direct.js";
import type { IoEngine } from "./engine.js";
import { fence, fenceBeside, isFenced } from "./fence.js";
import { protection, pseudoFileSystemOf } from "./file-system.js";
import { formatOf } from "./format.js";
import {
  blockGeometry,
  type Geometry,
  imageGeometry,
  isPowerOfTwo,
  isWriteProtected,
  SECTOR,
  type StoreKind,
  storeBytes,
} from "./geometry.js";
import type { HelperPlace } from "./helper/place.js";
import type { KeptPlace } from "./kept-writes.js";
import { isLockedByQemu, lockAsQemu } from "./qemu-locks.js";
import { RawDevice, type Store } from "./raw.js";
import { describeProcess, deviceOn, lockHolder, loopDeviceOf, mountPointOf, openerOf } from "./usage.js";

const { EACCES, EBUSY, EINVAL, EIO, EISDIR, ELOOP, EMFILE, ENFILE, ENOENT, ENOTDIR, EPERM, EROFS } =
  constants.errno;

/** Why a store was not opened. `errno` is positive; 16 (EBUSY) when somebody uses it. */
export class DeviceError extends Error {
  readonly errno: number;
  /** The errno's name. */
  readonly code: string;
  readonly path: string;
  /** With EBUSY: the process that has it, where that could be found; else 0. */
  readonly holder: number;

  constructor(errno: number, path: string, why: string, holder = 0) {
    super(`${path}: ${why}`);
    this.errno = errno;
    this.code = new SystemError("open", errno).code;
    this.path = path;
    this.holder = holder;
  }
}

/** Whether somebody else has the disk that could not be opened. */
export function isBusy(error: unknown): error is DeviceError {
  return error instanceof DeviceError && error.errno === constants.errno.EBUSY;
}

export interface OpenOptions {
  readonly readOnly: boolean;
  /** Takes no lock and heeds nobody's: libxl's modes "w!" and "r!", where the administrator takes the blame. */
  readonly shared?: boolean;
  /** A CD-ROM drive, which may be empty: an image without a byte is a drive without a medium. */
  readonly cdrom?: boolean;
  /** What it is, where it is no raw image: qcow2. */
  readonly format?: string;
  /** Whose use it is: see {@link fence}. A number below 2^47. */
  readonly user?: number;
  /** For an HVM guest, whose device model has the disk open, too: see {@link lockAsQemu}. */
  readonly deviceModel?: boolean;
  /** The guest has had it open before: its device model may be there already. */
  readonly again?: boolean;
  /** The toolstack allows direct I/O to an image, too: see {@link cacheFor}. */
  readonly directIoSafe?: boolean;
  /** Where writes are kept that a server has acknowledged and not flushed. Default: in memory that ends with this process. */
  readonly kept?: KeptPlace;
  /** The disk is a guest's whose daemon was killed: what that had to keep must be there. */
  readonly unsettled?: boolean;
  /** Where a helper of the disk's own outlives this process. Default: it ends with it. */
  readonly helperPlace?: HelperPlace;
  /** An overlay that is to be written back: its helper may write its base, and takes jobs (helper/commit-job.ts). */
  readonly writesBase?: boolean;
  /** Keeps the open files that have the locks: see {@link Claims}. Default: the disk's own open file has them. */
  readonly claims?: Claims;
  /** Whether the page cache is used. Default: writeback. */
  readonly cache?: Cache;
  /** Gets one line about a store that is served, but not as one might think. Default: console.warn. */
  readonly warn?: (line: string) => void;
}

export interface DeviceOptions extends OpenOptions {
  /** Stays the caller's. Default: the one of this thread's event loop. */
  readonly engine?: IoEngine;
}

/** Opens a raw image or block device as {@link openStore} does, and serves it. Rejects with a {@link DeviceError}. */
export async function openDevice(path: string, options: DeviceOptions): Promise<BlockDevice> {
  return new RawDevice(await openStore(path, options), options.engine ?? eventLoopEngine());
}

/**
 * Opens a raw image or block device and sees to it that nobody else has it: one user may write, or many may read
 * (many readers of images only: a block device has one user). An image is locked with flock, a block device with
 * O_EXCL, and both with QEMU's locks; the kernel drops them when the last operation on the descriptor has ended, even if
 * the process died before. Refused, too, is what a QEMU program has locked or a loop device serves. A refusal leaves
 * nothing changed.
 *
 * An image's last bytes that do not make a sector of 512 bytes are not served. An image whose server hangs makes this
 * wait, and nothing else.
 * Rejects with a {@link DeviceError}.
 */
export async function openStore(path: string, options: OpenOptions): Promise<Store> {
  const { readOnly, shared = false, claims, warn = console.warn } = options;
  const place = Place.of(path);
  let claimed = -1;
  let fd = -1;
  try {
    claimed = claims?.get(path) ?? (await openFirst(place, options));
    const stats = await place.fstat(claimed);
    const kind = kindOf(path, stats);
    if (!shared) await claim(new FileLocks(claimed, place), path, kind, stats, options);
    fd = await openForTransfers(claimed, place, options);
    const bytes = await usableBytes(fd, place, kind, options);
    if (kind === "block" && !readOnly && isWriteProtected(fd)) throw await refusal(path, EROFS);
    const geometry =
      kind === "image" ? await imageGeometry(fd, readOnly, place) : blockGeometry(fd, readOnly, stats.rdev);
    checkSectors(path, geometry);
    if (bytes % SECTOR !== 0) warnOfTail(path, bytes, warn);
    await warnOfFormat(fd, place, warn);
    await applyCache(fd, place, kind, geometry, bytes, options);
    if (fd !== claimed) claims?.add(path, claimed);
    const flushErrno = new SharedArrayBuffer(4);
    return { ...geometry, fd, name: path, kind, readOnly, bytes, flushErrno };
  } catch (error) {
    if (fd >= 0 && fd !== claimed) await place.close(fd);
    if (claimed >= 0 && claimed !== claims?.get(path)) await place.close(claimed);
    throw error instanceof DeviceError ? error : await refusal(path, errnoOf(error));
  }
}

/** The open file that is to have the locks. */
async function openFirst(place: Place, { readOnly, shared = false }: OpenOptions): Promise<number> {
  const { path } = place;
  // Looked at before it is opened: opening a FIFO waits, and opening a tape rewinds it.
  const stats = await place.stat();
  const seen = kindOf(path, stats);
  if (seen === "image") refusePseudoFile(path, stats);
  const exclusive = seen === "block" && !shared;
  return place.open(accessFor(readOnly) | (exclusive ? flags.O_EXCL : 0));
}

function accessFor(readOnly: boolean): number {
  return readOnly ? flags.O_RDONLY : flags.O_RDWR;
}

/**
 * The open file for I/O, with the mark of its user: a dead process may still read or write the same for the same user. It
 * is another one than the one with the locks where that outlives the process, because the next process waits until the
 * last I/O has ended, which only the locks of an open file that nobody keeps can tell.
 */
async function openForTransfers(claimed: number, place: Place, options: OpenOptions): Promise<number> {
  const { path } = place;
  const { user, claims, readOnly, shared = false, deviceModel = false } = options;
  if (user === undefined) return claimed;
  if (await isFenced(new FileLocks(claimed, place), user)) throw inUse(path, await openerOf(path, false));
  if (claims) {
    const fd = await place.open(accessFor(readOnly), { path: `/proc/self/fd/${claimed}` });
    const locks = new FileLocks(fd, place);
    try {
      if (await fenceBeside(locks, user)) {
        // Others are kept out until the last I/O has ended, whoever has the other open file by then.
        if (!shared) await lockAsQemu(locks, readOnly, deviceModel);
        return fd;
      }
    } catch (error) {
      await place.close(fd);
      throw error;
    }
    await place.close(fd);
    if (claims.get(path) === claimed) throw inUse(path, 0);
  }
  await fence(new FileLocks(claimed, place), user);
  return claimed;
}

/** Direct I/O where that is wanted and works. */
async function applyCache(
  fd: number,
  place: Place,
  kind: StoreKind,
  { sectorSize }: Geometry,
  bytes: number,
  { cache = "writeback", warn = console.warn }: OpenOptions,
): Promise<void> {
  if (cache === "writeback" || (cache === "auto" && kind === "image")) return;
  const objection = await makeDirect(fd, place, sectorSize, bytes);
  if (objection === null || cache === "auto") return;
  warn(
    `${place.path}: no direct I/O in sectors of ${sectorSize} bytes (${objection}); it goes through the page cache`,
  );
}

function kindOf(path: string, stats: FileStats): StoreKind {
  if (isType(stats, "file")) return "image";
  if (isType(stats, "block")) return "block";
  if (isType(stats, "directory")) {
    throw new DeviceError(EISDIR, path, "is a directory; name an image file or a block device");
  }
  const kind = isType(stats, "socket") ? "a socket" : isType(stats, "fifo") ? "a FIFO" : "a character device";
  throw new DeviceError(EINVAL, path, `is ${kind}; name an image file or a block device`);
}

function refusePseudoFile(path: string, { dev }: FileStats): void {
  const name = pseudoFileSystemOf(dev);
  if (name === null) return;
  const why = `is a file of the kernel's ${name}, not a disk; name an image file or a block device`;
  throw new DeviceError(EINVAL, path, why);
}

/** Takes the locks and looks for users who do not take ours. Throws a DeviceError with EBUSY. */
async function claim(
  locks: FileLocks,
  path: string,
  kind: StoreKind,
  stats: FileStats,
  { readOnly, deviceModel = false, again = false }: OpenOptions,
): Promise<void> {
  if (kind === "image") {
    if (!(await locks.tryLock(!readOnly))) {
      throw inUse(path, lockHolder(stats) || (await openerOf(path, false)));
    }
    const loop = await loopDeviceOf(stats, !readOnly);
    if (loop) throw new DeviceError(EBUSY, path, `in use by ${loop}; detach it with \`losetup -d ${loop}\``);
  }
  await lockAsQemu(locks, readOnly, deviceModel);
  if (deviceModel && again) return;
  if (await isLockedByQemu(locks, readOnly)) throw inUse(path, await openerOf(path, false));
}

function inUse(path: string, holder: number): DeviceError {
  const who = holder > 0 ? describeProcess(holder) : "another process";
  return new DeviceError(EBUSY, path, `in use by ${who}; stop it or detach the disk there first`, holder);
}

/** A block device whose O_EXCL somebody else has. */
async function claimedElsewhere(path: string): Promise<DeviceError> {
  const stats = await Place.of(path)
    .stat()
    .catch(() => null);
  if (!stats) return inUse(path, 0);
  const mountPoint = mountPointOf(stats);
  if (mountPoint) {
    return new DeviceError(EBUSY, path, `mounted on ${mountPoint}; unmount it with \`umount ${mountPoint}\``);
  }
  const device = deviceOn(stats);
  if (device) return new DeviceError(EBUSY, path, `in use by ${device}; name that, or take it down`);
  return inUse(path, await openerOf(path, true));
}

async function usableBytes(
  fd: number,
  place: Place,
  kind: StoreKind,
  { cdrom = false, format }: OpenOptions,
): Promise<number> {
  const { path } = place;
  const bytes = await storeBytes(fd, kind, place);
  if (bytes >= SECTOR || (cdrom && bytes === 0)) return bytes;
  if (format !== undefined && kind === "image") {
    const what = bytes === 0 ? "an empty file" : `a file of ${bytes} bytes`;
    const make = `create one, e.g. \`qemu-img create -f ${format} ${path} 10G\``;
    throw new DeviceError(EINVAL, path, `${what}, not a ${format} image; ${make}`);
  }
  const size = bytes === 0 ? "empty" : `only ${bytes} bytes long`;
  const remedy = kind === "image" ? `give it a size, e.g. \`truncate -s 10G ${path}\`` : "insert a medium";
  throw new DeviceError(EINVAL, path, `${size}, less than a sector; ${remedy}`);
}

/** The guest would see the image's tables instead of its disk, and could overwrite them. */
async function warnOfFormat(fd: number, place: Place, warn: (line: string) => void): Promise<void> {
  const { path } = place;
  const format = await formatOf(fd, place);
  if (format === null) return;
  if (format === "luks")
    return warn(`${path}: holds LUKS and is served as it is: the guest has to decrypt it`);
  warn(`${path}: begins as a ${format} image does, and is served as a raw one: is format=${format} missing?`);
}

function warnOfTail(path: string, bytes: number, warn: (line: string) => void): void {
  const tail = bytes % SECTOR;
  warn(
    `${path}: ${bytes} bytes are not a multiple of the sector size ${SECTOR}; the guest does not see the last ${tail}`,
  );
}

/** A sector has to fit in a page that a guest grants. */
function checkSectors(path: string, { sectorSize }: Geometry): void {
  if (isPowerOfTwo(sectorSize) && sectorSize >= SECTOR && sectorSize <= 4096) return;
  throw new DeviceError(EINVAL, path, `has sectors of ${sectorSize} bytes; only 512 to 4096 can be served`);
}

export function errnoOf(error: unknown): number {
  return Math.abs((error as NodeJS.ErrnoException).errno ?? EIO);
}

/** What a failed system call on a store means to its owner. */
export async function refusal(path: string, errno: number): Promise<DeviceError> {
  switch (errno) {
    case ENOENT:
      return new DeviceError(errno, path, "no such file; create it or correct the disk's path");
    case ELOOP:
      return new DeviceError(errno, path, "a loop of symbolic links; make the link name an image");
    case ENOTDIR:
      return new DeviceError(errno, path, "a part of the path is not a directory; correct the disk's path");
    case EACCES:
    case EPERM: {
      const flag = errno === EPERM ? await protection(path) : null;
      if (flag !== null) return new DeviceError(errno, path, flag);
      return new DeviceError(errno, path, "permission denied; run as root, or give this user access to it");
    }
    case EROFS:
      return new DeviceError(errno, path, "read-only; attach it read-only, or make it writable");
    case EBUSY:
      return claimedElsewhere(path);
    case EMFILE:
    case ENFILE: {
      const whose = errno === EMFILE ? "`ulimit -n`, or LimitNOFILE= in the unit" : "`sysctl fs.file-max`";
      return new DeviceError(errno, path, `cannot be opened: too many open files; raise ${whose}`);
    }
    default: {
      const { code } = new SystemError("open", errno);
      return new DeviceError(errno, path, `cannot be opened (${code}); check the storage below it`);
    }
  }
}
