/** XenBus states (xen/include/public/io/xenbus.h) and the way a backend changes its own. */
import type { Xenstore } from "../platform/ports.js";

export const XenbusState = {
  /** The node is not there. */
  Unknown: 0,
  Initialising: 1,
  InitWait: 2,
  Initialised: 3,
  Connected: 4,
  Closing: 5,
  Closed: 6,
} as const;
export type XenbusState = number;

/** A state node's value; anything that is not a small decimal number counts as Unknown. */
export function parseState(value: string | null): XenbusState {
  return value !== null && /^[0-9]$/.test(value) ? Number(value) : XenbusState.Unknown;
}

/**
 * Changes a device's state and writes `keys` beside it, in one transaction. False, and nothing written, when the state
 * is not `from` any more: a toolstack that has deleted the device must not find it again, and one that has asked for
 * Closing meanwhile must get it.
 */
export function switchState(
  xenstore: Xenstore,
  directory: string,
  from: XenbusState,
  to: XenbusState,
  keys: Record<string, string> = {},
): Promise<boolean> {
  return xenstore.transaction(async (t) => {
    const value = await t.read(`${directory}/state`);
    if (value === null || parseState(value) !== from) return false;
    for (const [key, value] of Object.entries(keys)) await t.write(`${directory}/${key}`, value);
    await t.write(`${directory}/state`, String(to));
    return true;
  });
}
