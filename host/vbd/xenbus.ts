/** How a backend changes its own xenbus state. */
import type { Xenstore } from "../platform/ports.js";
import { parseState, type XenbusState } from "../platform/xenbus-state.js";

/**
 * Writes keys of a device, in their order, in one transaction; null removes one. False, and nothing written, when its
 * state is not `state` any more: a toolstack that has deleted the device must not find it again, and one that has asked
 * for Closing meanwhile must get it.
 */
export function writeInState(
  xenstore: Xenstore,
  directory: string,
  state: XenbusState,
  keys: Readonly<Record<string, string | null>>,
): Promise<boolean> {
  return xenstore.transaction(async (t) => {
    const value = await t.read(`${directory}/state`);
    if (value === null || parseState(value) !== state) return false;
    for (const [key, value] of Object.entries(keys)) {
      if (value === null) await t.remove(`${directory}/${key}`);
      else await t.write(`${directory}/${key}`, value);
    }
    return true;
  });
}
