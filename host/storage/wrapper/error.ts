/**
 * error:[OPERATION…][+rate=PERCENT%][+sectors=FIRST-LAST]:TARGET. Operations fail with EIO and never reach the disk: those
 * named, on those sectors of 512 bytes, so many in a hundred. To see what a guest makes of a bad disk.
 */
import { constants } from "node:os";
import type { IoOperation } from "../../core/blkif.js";
import { SystemError } from "../../platform/libc.js";
import { type BlockDevice, type Done, Result } from "../device.js";
import { SECTOR } from "../geometry.js";
import { later } from "../refusal.js";
import { described, type WrapperKind, wordsOf } from "./kind.js";
import { type Operation, Wrapper } from "./wrapper.js";

interface Faults {
  readonly operations: ReadonlySet<IoOperation>;
  /** 0 to 1. */
  readonly rate: number;
  /** Bytes from the first to the end of the last; null: everywhere. */
  readonly range: readonly [number, number] | null;
}

class FaultyDisk extends Wrapper {
  readonly #faults: Faults;

  constructor(name: string, inner: BlockDevice, faults: Faults) {
    const { rate, range, operations } = faults;
    const where = range ? ` of sectors ${range[0] / SECTOR} to ${range[1] / SECTOR - 1}` : "";
    super(name, `errors, ${rate * 100}%${described(operations)}${where}`, inner);
    this.#faults = faults;
  }

  protected override operate(operation: Operation, start: (done: Done) => void, done: Done): void {
    if (!this.#fails(operation)) {
      start(done);
      return;
    }
    const { name, position, length } = operation;
    const what = name === "flush" ? this.name : `${length} bytes at ${position} of ${this.name}`;
    // Once a flush has failed, the disk below refuses to be changed, as every disk does.
    if (name === "flush") this.flushErrno = constants.errno.EIO;
    const error = new SystemError(name, constants.errno.EIO, what);
    later(done, { result: Result.Failure, error });
  }

  #fails({ name, position, length }: Operation): boolean {
    const { operations, rate, range } = this.#faults;
    if (!operations.has(name)) return false;
    // A flush has no sectors.
    if (range && (position >= range[1] || position + length <= range[0])) return false;
    return Math.random() < rate;
  }
}

export const error: WrapperKind = {
  usage: "error:WHICH:TARGET, like error:read:TARGET or error:write+rate=1%+sectors=0-2047:TARGET",
  hasArgument: true,
  parse(argument) {
    let rate = 1;
    let range: [number, number] | null = null;
    const operations = wordsOf(argument, (word) => {
      const [, percent] = /^rate=(\d+(?:\.\d+)?)%$/.exec(word) ?? [];
      const [, first, last] = /^sectors=(\d{1,12})-(\d{1,12})$/.exec(word) ?? [];
      if (percent !== undefined) rate = Number(percent) / 100;
      if (first !== undefined) range = [Number(first) * SECTOR, (Number(last) + 1) * SECTOR];
      return percent !== undefined || first !== undefined || word === "all";
    });
    if (rate > 1) throw new Error("a rate is 100% at most");
    if (range && range[1] <= range[0]) throw new Error("the first sector comes first");
    return { open: (inner, { name }) => new FaultyDisk(name, inner, { operations, rate, range }) };
  },
};
