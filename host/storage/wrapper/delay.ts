/** delay:TIME[-TIME][+OPERATION…]:TARGET. Each operation begins later, by a time or one between two: a slow disk. */
import type { IoOperation } from "../../core/blkif.js";
import type { BlockDevice, Done } from "../device.js";
import { described, type WrapperKind, wordsOf } from "./kind.js";
import { Timers } from "./timers.js";
import { type Operation, Wrapper } from "./wrapper.js";

/** Of delays in milliseconds. */
const LONGEST = 3_600_000;
const MILLISECONDS: Readonly<Record<string, number>> = { us: 0.001, ms: 1, s: 1000 };

class Delay extends Wrapper {
  readonly #least: number;
  readonly #most: number;
  readonly #operations: ReadonlySet<IoOperation>;
  readonly #timers = new Timers();

  constructor(
    name: string,
    inner: BlockDevice,
    [least, most]: readonly [number, number],
    operations: ReadonlySet<IoOperation>,
  ) {
    const time = least === most ? `${least} ms` : `${least} to ${most} ms`;
    super(name, `delay of ${time}${described(operations)}`, inner);
    this.#least = least;
    this.#most = most;
    this.#operations = operations;
  }

  override setDelays(enabled: boolean): void {
    super.setDelays(enabled);
    this.#timers.enabled = enabled;
  }

  protected override operate({ name }: Operation, start: (done: Done) => void, done: Done): void {
    if (!this.#operations.has(name)) {
      start(done);
      return;
    }
    const due = performance.now() + this.#least + Math.random() * (this.#most - this.#least);
    this.#timers.at(due, () => start(done));
  }
}

/** Milliseconds; null for what is no time. */
function parseTimes(word: string): [number, number] | null {
  const match = /^(\d+(?:\.\d+)?)(us|ms|s)(?:-(\d+(?:\.\d+)?)(us|ms|s))?$/.exec(word);
  if (!match) return null;
  const [, least, unit, most = least, mostUnit = unit] = match;
  return [Number(least) * MILLISECONDS[unit], Number(most) * MILLISECONDS[mostUnit]];
}

export const delay: WrapperKind = {
  usage: "delay:TIME:TARGET, like delay:5ms:TARGET or delay:1ms-20ms+write:TARGET",
  hasArgument: true,
  parse(argument) {
    let times: [number, number] | null = null;
    const operations = wordsOf(argument, (word) => {
      const parsed = parseTimes(word);
      if (parsed === null || times !== null) return false;
      times = parsed;
      return true;
    });
    const [least, most] = times ?? [0, -1];
    if (most < least || most > LONGEST)
      throw new Error("it takes a time of an hour at most, or two with the shorter one first");
    return { open: (inner, { name }) => new Delay(name, inner, [least, most], operations) };
  },
};
