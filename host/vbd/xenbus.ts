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
 * Writes a device's state, unless the node is gone: a toolstack that has deleted a device must not find it again.
 * `keys` are written with it, in the same transaction. False when the node is gone.
 */
export function switchState(
  xenstore: Xenstore,
  directory: string,
  state: XenbusState,
  keys: Record<string, string> = {},
): Promise<boolean> {
  return xenstore.transaction(async (t) => {
    if ((await t.read(`${directory}/state`)) === null) return false;
    for (const [key, value] of Object.entries(keys)) await t.write(`${directory}/${key}`, value);
    await t.write(`${directory}/state`, String(state));
    return true;
  });
}

/** Writes keys below a directory in one transaction, unless its state node is gone. */
export function publish(
  xenstore: Xenstore,
  directory: string,
  keys: Record<string, string>,
): Promise<boolean> {
  return xenstore.transaction(async (t) => {
    if ((await t.read(`${directory}/state`)) === null) return false;
    for (const [key, value] of Object.entries(keys)) await t.write(`${directory}/${key}`, value);
    return true;
  });
}
