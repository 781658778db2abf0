/** A CD-ROM drive without a medium: a disk without a sector. */
import { type BlockDevice, type Done, type IoVector, Result } from "./device.js";
import { later, outOfReach } from "./refusal.js";

export class EmptyDrive implements BlockDevice {
  readonly name = "empty drive";
  readonly through = "nothing: the drive has no medium";
  readonly size = 0;
  readonly sectorSize = 512;
  readonly physicalSectorSize = 512;
  readonly readOnly = true;
  readonly canDiscard = false;
  readonly canSecureDiscard = false;
  readonly discardGranularity = 0;
  readonly discardAlignment = 0;
  #closed = false;

  read(position: number, to: IoVector, done: Done): void {
    const outcome = outOfReach(this, this.#closed, "read", position, to.bytes);
    later(done, outcome ?? { result: Result.Success });
  }

  write(_position: number, _from: IoVector, done: Done): void {
    later(done, { result: Result.ReadOnly, error: new Error(`write ${this.name}: it is read-only`) });
  }

  flush(done: Done): void {
    later(done, { result: Result.Success });
  }

  discard(_position: number, _length: number, _secure: boolean, done: Done): void {
    later(done, { result: Result.ReadOnly, error: new Error(`discard ${this.name}: it is read-only`) });
  }

  async refreshSize(): Promise<boolean> {
    return false;
  }

  async close(): Promise<void> {
    this.#closed = true;
  }
}
