/** The limits of disks that have none of their own, as an administrator writes them: for all guests, or for one by its name. */
import { type Limits, NO_LIMITS } from "../reactor/throttle.js";
import { parseSize } from "../storage/size.js";
import { ratesIn } from "../storage/wrapper/index.js";

/** Who has set the limits: the disk's own keys, its target, one of the two options of `serve`, or nobody. */
export type LimitSource = "disk" | "target" | "guest-limit" | "limit" | null;

export interface DefaultLimits {
  readonly limits: Limits;
  readonly limitsFrom: LimitSource;
}

export const NO_DEFAULT: DefaultLimits = { limits: NO_LIMITS, limitsFrom: null };

/** What `serve` was told, each text as it was written. */
export interface LimitSettings {
  readonly limit?: string;
  readonly guestLimit: readonly string[];
}

const MOST_SECONDS = 3600;

/** The number that a limit's text stands for; null where it is none that the limit can have. */
const PARSERS: Record<keyof Limits, (text: string) => number | null> = {
  iops: (text) => (/^[1-9]\d{0,8}$/.test(text) ? Number(text) : null),
  bps: (text) => parseSize(text) || null,
  burst: (text) => (/^\d+(\.\d+)?$/.test(text) && Number(text) <= MOST_SECONDS ? Number(text) : null),
};

/** "iops=500+bps=50M+burst=2", or "none". Throws an Error that says how it is written. */
export function parseLimits(text: string): Limits {
  if (text === "none") return NO_LIMITS;
  const limits = { ...NO_LIMITS };
  for (const word of text.split("+")) {
    const [, key, value = ""] = /^(iops|bps|burst)=(.+)$/.exec(word) ?? [];
    const limit = key === undefined ? null : PARSERS[key as keyof Limits](value);
    if (limit === null) {
      const form = "write iops=N+bps=SIZE+burst=SECONDS, some of them, or none";
      throw new Error(`"${word}" is not a limit: ${form}.`);
    }
    limits[key as keyof Limits] = limit;
  }
  if (limits.iops === 0 && limits.bps === 0) throw new Error("It limits nothing: name iops=N or bps=SIZE.");
  return limits;
}

/** "web:iops=500": a guest's name, and its limits. Throws as {@link parseLimits}. */
export function parseGuestLimit(text: string): { guest: string; limits: Limits } {
  const colon = text.lastIndexOf(":");
  if (colon < 1) throw new Error("It is a guest's name, a colon and limits, like web:iops=500.");
  return { guest: text.slice(0, colon), limits: parseLimits(text.slice(colon + 1)) };
}

/** The limits of a disk of this guest, whose name is null where it is not known. Those of a target's limit: come first. */
export function defaultLimits(
  { limit, guestLimit }: LimitSettings,
  guest: string | null,
  target: string | null,
): DefaultLimits {
  const rates = target === null ? null : ratesIn(target);
  if (rates) return { limits: { ...NO_LIMITS, ...rates }, limitsFrom: "target" };
  const ofGuest = guestLimit.map(parseGuestLimit).findLast((one) => one.guest === guest);
  if (ofGuest) return { limits: ofGuest.limits, limitsFrom: "guest-limit" };
  return limit === undefined ? NO_DEFAULT : { limits: parseLimits(limit), limitsFrom: "limit" };
}
