/** How a backend changes its own xenbus state. */
import type { Xenstore } from "../platform/ports.js";
import { parseState, type XenbusState } from "../platform/xenbus-state.js";

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
