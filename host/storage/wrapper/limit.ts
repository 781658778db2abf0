/**
 * limit:[iops=N][+bps=SIZE]:TARGET. At most so many operations, and so many bytes of reads and writes, begin in a second; the
 * others wait. (`xbdback limit` limits what is taken from a guest; this is a property of the disk.)
 */
import type { BlockDevice, Done } from "../device.js";
import { formatSize, parseSize } from "../size.js";
import type { WrapperKind } from "./kind.js";
import { Timers } from "./timers.js";
import { type Operation, Wrapper } from "./wrapper.js";

interface Rates {
  /** A second; 0: as many as there are. */
  readonly iops: number;
  readonly bps: number;
}

class Limited extends Wrapper {
  readonly #msPerOperation: number;
  readonly #msPerByte: number;
  /** When the next operation may begin, by performance.now(). */
  #free = 0;
  readonly #timers = new Timers();

  constructor(name: string, inner: BlockDevice, { iops, bps }: Rates) {
    const words = [...(iops > 0 ? [`${iops} operations`] : []), ...(bps > 0 ? [formatSize(bps)] : [])];
    super(name, `limit of ${words.join(" and ")} a second`, inner);
    this.#msPerOperation = iops > 0 ? 1000 / iops : 0;
    this.#msPerByte = bps > 0 ? 1000 / bps : 0;
  }

  override setDelays(enabled: boolean): void {
    super.setDelays(enabled);
    this.#timers.enabled = enabled;
    this.#free = 0;
  }

  protected override operate({ name, length }: Operation, start: (done: Done) => void, done: Done): void {
    const now = performance.now();
    const begins = Math.max(now, this.#free);
    // A discard moves no data.
    const bytes = name === "discard" ? 0 : length;
    this.#free = begins + Math.max(this.#msPerOperation, bytes * this.#msPerByte);
    this.#timers.at(begins, () => start(done));
  }
}

export const limit: WrapperKind = {
  usage: "limit:RATES:TARGET, like limit:iops=100:TARGET or limit:iops=100+bps=10M:TARGET",
  hasArgument: true,
  parse(argument) {
    let iops = 0;
    let bps = 0;
    for (const word of argument.split("+")) {
      const [, key, value = ""] = /^(iops|bps)=(.+)$/.exec(word) ?? [];
      const number = key === "bps" ? (parseSize(value) ?? 0) : /^\d{1,9}$/.test(value) ? Number(value) : 0;
      if (number === 0) throw new Error(`"${word}" is not a rate`);
      if (key === "bps") bps = number;
      else iops = number;
    }
    return { open: (inner, { name }) => new Limited(name, inner, { iops, bps }) };
  },
};
