/**
 * limit:[iops=N][+bps=SIZE]:TARGET. At most so many requests, and so many bytes of reads and writes, are taken from the guest in
 * a second, as with `xbdback limit`. The disk itself is opened as if it stood alone.
 */
import { parseSize } from "../size.js";
import type { Rates, WrapperKind } from "./kind.js";

export const limit: WrapperKind = {
  usage: "limit:RATES:TARGET, like limit:iops=100:TARGET or limit:iops=100+bps=10M:TARGET",
  hasArgument: true,
  parse(argument) {
    const rates: Rates = { iops: 0, bps: 0 };
    for (const word of argument.split("+")) {
      const [, key, value = ""] = /^(iops|bps)=(.+)$/.exec(word) ?? [];
      const number = key === "bps" ? (parseSize(value) ?? 0) : /^\d{1,9}$/.test(value) ? Number(value) : 0;
      if (number === 0) throw new Error(`"${word}" is not a rate`);
      rates[key === "bps" ? "bps" : "iops"] = number;
    }
    return { rates };
  },
};
