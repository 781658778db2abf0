/**
 * cow:OVERLAY:TARGET. What is written goes to a sparse file, which is made where there is none, and the target is only read:
 * one base for many disks, or a trial that can be thrown away. The overlay's layout is in cow-header.ts.
 */
import { constants } from "node:os";
import { type BlockDevice, type Done, type IoVector, Result } from "../device.js";
import { DeviceError } from "../open.js";
import { type Part, partOf } from "../part.js";
import { type OpenOverlay, openOverlay } from "./cow-file.js";
import { type CowHeader, dataAt } from "./cow-header.js";
import type { CowMap } from "./cow-map.js";
import { pathOf, type WrapperKind } from "./kind.js";
import { Wrapper } from "./wrapper.js";

export class CowDisk extends Wrapper {
  readonly #overlay: BlockDevice;
  readonly #map: CowMap;
  readonly #header: CowHeader;
  /** Where the disk's first byte is in the overlay. */
  readonly #dataAt: number;
  readonly #warn: (line: string) => void;

  /** Takes the base, which is open for reading, and the overlay over. */
  constructor(
    name: string,
    base: BlockDevice,
    { path, device, map, header }: OpenOverlay,
    warn: (line: string) => void = console.warn,
  ) {
    super(name, `copy-on-write in ${path}`, base);
    this.#overlay = device;
    this.#map = map;
    this.#header = header;
    this.#dataAt = dataAt(header);
    this.#warn = warn;
  }

  /** Also when the base has grown. */
  override get size(): number {
    return this.#header.size;
  }

  override get readOnly(): boolean {
    return this.#overlay.readOnly;
  }

  override get canDiscard(): boolean {
    return this.#overlay.canDiscard;
  }

  override get canSecureDiscard(): boolean {
    return false;
  }

  override get discardGranularity(): number {
    return Math.max(this.#overlay.discardGranularity, this.sectorSize);
  }

  override get discardAlignment(): number {
    return 0;
  }

  /** Only the overlay is written, and its lock lasts until the last write of a dead process has ended. */
  override get fenced(): boolean {
    return true;
  }

  override get flushErrno(): number {
    return this.#overlay.flushErrno ?? 0;
  }

  override set flushErrno(errno: number) {
    this.#overlay.flushErrno = errno;
  }

  override async refreshSize(): Promise<boolean> {
    return false;
  }

  /** Run by run: a scatter list can be cut in one place at a time. */
  protected override carryOutRead(position: number, to: IoVector, done: Done): void {
    let moved = 0;
    let part: Part;
    const next = (): void => {
      const { written, length } = this.#map.run(position + moved, to.bytes - moved);
      part = partOf(to, moved, length);
      const at = position + moved;
      moved += length;
      if (written) this.#overlay.read(this.#dataAt + at, part.io, ended);
      else this.inner.read(at, part.io, ended);
    };
    const ended: Done = (result, error) => {
      part.mend();
      if (result === Result.Success && moved < to.bytes) next();
      else done(result, error);
    };
    next();
  }

  /** A write of whole sectors needs nothing of the base. */
  protected override carryOutWrite(position: number, from: IoVector, done: Done): void {
    this.#overlay.write(this.#dataAt + position, from, (result, error) => {
      if (result === Result.Success) this.#map.mark(position, from.bytes, done);
      else done(result, error);
    });
  }

  protected override carryOutFlush(done: Done): void {
    if (this.readOnly) this.#overlay.flush(done);
    else this.#map.flush(done);
  }

  /** Sectors in the overlay read as zeros then, the others as before. */
  protected override carryOutDiscard(position: number, length: number, secure: boolean, done: Done): void {
    this.#overlay.discard(this.#dataAt + position, length, secure, done);
  }

  /** What is not flushed would be lost with the machine's next boot, however orderly. */
  protected override async letGo(): Promise<void> {
    if (!this.readOnly && this.flushErrno === 0) {
      await new Promise<void>((resolve) => this.#map.flush(() => resolve()));
      if (this.flushErrno !== 0)
        this.#warn(`${this.name}: the last writes cannot be flushed and may be lost`);
    }
    await this.#overlay.close();
    await super.letGo();
  }
}

export const cow: WrapperKind = {
  usage: "cow:OVERLAY:TARGET, with the overlay's absolute path",
  hasArgument: true,
  parse(argument) {
    const file = pathOf(argument);
    return {
      readsOnly: true,
      file,
      async open(base, options) {
        const { size, sectorSize } = base;
        const overlay = await openOverlay(file, { size, sectorSize }, options);
        const { header } = overlay;
        if (header.sectorSize === sectorSize && header.size === size)
          return new CowDisk(options.name, base, overlay, options.warn);
        await overlay.device.close();
        throw new DeviceError(
          constants.errno.EINVAL,
          file,
          `created for a base of ${header.size} bytes in sectors of ${header.sectorSize}, and ${base.name} has ` +
            `${size} in sectors of ${sectorSize}; name its own base, or another overlay`,
        );
      },
    };
  },
};
